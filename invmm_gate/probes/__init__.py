"""Probe sets: manifest, images, checks. No torch."""
