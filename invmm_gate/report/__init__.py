"""Renderings of a finished run. No torch."""
