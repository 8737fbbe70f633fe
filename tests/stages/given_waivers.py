"""Waivers as the gate is given them: a file, the approval of a reviewer whose key every test knows, and that key."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from invmm_gate.attest.keys import SigningKey
from invmm_gate.attest.waiver_approval import approval_file, approve
from invmm_gate.core.run_records import RunRecord
from invmm_gate.core.verdict_records import Waiver
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.runs.copies import Circumstances
from invmm_gate.stages.judge import circumstances
from tests.policy.policy_builders import REVIEWER, TODAY

_PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
REVIEWERS_KEY = SigningKey(private=_PRIVATE, key_id=REVIEWER)


def narrow(waiver: Waiver, run: RunRecord) -> Waiver:
    """For one image under one model, as a reviewer asks for."""
    image = next(probe.sha256 for probe in run.probe_set.probes if probe.id == waiver.probe)
    return replace(waiver, image=waiver.image or image, model=waiver.model or run.model.digest)


def given(waivers: Sequence[Waiver], run: RunRecord, folder: Path) -> Circumstances:
    """What `judge` weighs, once a reviewer has signed these waivers in the folder."""
    if not waivers:
        return Circumstances()
    folder.mkdir(parents=True)
    listed, reviewers = folder / "waivers.yaml", folder / "reviewers.pub"
    listed.write_text(json.dumps([_entry(narrow(waiver, run)) for waiver in waivers]))
    reviewers.write_bytes(_PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    noon = datetime.datetime.combine(TODAY, datetime.time(12), datetime.UTC)
    approval_file(listed).write_bytes(approve(load_waivers(listed), REVIEWERS_KEY, now=noon))
    return circumstances(listed, None, today=TODAY, reviewers=reviewers)


def _entry(waiver: Waiver) -> dict[str, str]:
    names = ("probe", "rule", "model", "image", "reason", "owner", "expires")
    return {name: str(getattr(waiver, name)) for name in names if getattr(waiver, name) is not None}
