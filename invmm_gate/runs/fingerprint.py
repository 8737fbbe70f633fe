"""What makes two runs the same run."""

from hashlib import sha256

from invmm_gate.files.record_json import canonical


def fingerprint(inputs: dict[str, object]) -> str:
    """sha256 of the inputs as canonical JSON."""
    return sha256(canonical(inputs).encode()).hexdigest()
