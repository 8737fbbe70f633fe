"""What versions are judged under, as one digest: a verdict under other terms is none."""

import hashlib

from invmm_gate.core.records import Weights
from invmm_gate.core.version import __version__


def terms_of(*, policy: str, probe_set: str, seed: int | None, weights: Weights | None) -> str:
    """sha256 over the digests of policy and probe set, a chosen seed, which weights count, and the gate's version."""
    parts = (policy, probe_set, "" if seed is None else str(seed), weights or "", __version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
