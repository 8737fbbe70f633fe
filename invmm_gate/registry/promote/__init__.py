"""Versions are gated, signed, sent and promoted here. Attestations alone are evidence."""
