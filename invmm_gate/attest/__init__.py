"""Signed verdicts: what is said, how it is signed, and when it holds. Needs no torch, no network and no MLflow."""
