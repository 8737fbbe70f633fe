"""A SLSA verification summary of a pass (slsa.dev/verification_summary/v1), for generic verifiers.

Written for a pass without waivers and for nothing else, so that its absence is never a permission. It has no expiry of
its own: who needs one, or wants to know what was measured, verifies the attestation that it names.
"""

import json
from typing import Final
from urllib.parse import quote

from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.statement import STATEMENT_TYPE, Statement

SUMMARY: Final = "verification_summary.json"
"""The signed summary's name in a run folder."""
SUMMARY_TYPE: Final = "https://slsa.dev/verification_summary/v1"
LEVEL: Final = "INVMM_GATE_PASS"


def summary_payload(said: Statement, *, attestation: str) -> bytes | None:
    """The summary as the bytes that are signed; None for anything but a pass without waivers.

    `attestation` is the sha256 of the attestation file that says the same at length.
    """
    if said.decision != "pass" or said.waivers:
        return None
    plain = {
        "_type": STATEMENT_TYPE,
        "predicateType": SUMMARY_TYPE,
        "subject": [{"name": said.subject_name, "digest": {"sha256": said.subject_digest}}],
        "predicate": {
            "verifier": {"id": _urn("verifier", said.verifier), "version": {"invmm-gate": said.verifier_version}},
            "timeVerified": as_text(said.issued_at),
            "resourceUri": _urn("model", said.subject_digest),
            "policy": {"uri": _urn("policy", said.policy_name), "digest": {"sha256": said.policy_digest}},
            "inputAttestations": [{"uri": _urn("attestation", attestation), "digest": {"sha256": attestation}}],
            "verificationResult": "PASSED",
            "verifiedLevels": [LEVEL],
        },
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def _urn(kind: str, name: str) -> str:
    return f"urn:invmm-gate:{kind}:{quote(name, safe='')}"
