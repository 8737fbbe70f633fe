"""What makes two runs the same run."""

from dataclasses import asdict
from hashlib import sha256

from invmm_gate.core.run_records import RunInputs
from invmm_gate.files.record_json import canonical


def fingerprint(inputs: RunInputs) -> str:
    """sha256 of the inputs as canonical JSON."""
    return sha256(canonical(asdict(inputs)).encode()).hexdigest()
