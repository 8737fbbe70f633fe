"""Checkpoints: reading them before torch is imported, loading them, and an adapter for each kind of network."""
