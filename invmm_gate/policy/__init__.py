"""Policies: what is allowed. A policy and the records of a run give a verdict. Pure; no torch."""
