"""Versions that are registered, gated and promoted, and the attestations that speak for them."""
