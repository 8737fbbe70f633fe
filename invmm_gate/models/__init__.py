"""Checkpoints: their inspection, their digest and the adapters. One module per family."""
