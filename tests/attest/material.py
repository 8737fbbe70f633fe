"""A statement, keys and roots to be spoilt, made without a run."""

import datetime
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from invmm_gate.attest.demands import Demands
from invmm_gate.attest.envelope import sign_envelope
from invmm_gate.attest.keys import SigningKey, TrustRoots, load_roots, load_signing_key, new_key_pair
from invmm_gate.attest.statement import Statement, to_payload
from invmm_gate.attest.verification import check_statement, check_subject, open_statement
from invmm_gate.core.verdict_records import Scope, Waiver

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)
SECOND, DAY = datetime.timedelta(seconds=1), datetime.timedelta(days=1)
WAIVER = Waiver(
    reason="Licensed; the owner agreed to reproduction.",
    owner="d.okafor",
    expires=datetime.date(2027, 6, 30),
    probe="planted08-06",
    rule="invmm_below",
)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


TESTED = Scope(
    image_size=(512, 768),
    samplers=("ddim",),
    sampler_steps=50,
    guidance_scales=(1.0, 7.5),
    seed=7,
    seed_chosen=False,
)
STATEMENT = Statement(
    subject_name="memorizing",
    subject_digest=digest("model"),
    decision="pass",
    policy_name="strict",
    policy_digest=digest("policy"),
    probe_set_digest=digest("probes"),
    probes=200,
    controls=64,
    report_digest=digest("report"),
    results_digest=digest("results"),
    fingerprint=digest("fingerprint"),
    profile="gate",
    tested=TESTED,
    pipeline="DDPMPipeline",
    weights="ema",
    left_out=("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    pickles=(),
    versions={"invmm-gate": "0.1.0", "torch": "2.13.0+cpu", "diffusers": "0.42.1"},
    environment=digest("environment"),
    waivers=(),
    verifier="invmm-gate",
    verifier_version="0.1.0",
    issued_at=NOW,
    expires_at=NOW + 90 * DAY,
    sequence=3,
    previous=digest("previous"),
    attempt=2,
)


def key_pair(folder: Path, name: str = "gate") -> tuple[SigningKey, TrustRoots]:
    """A new key and the roots that trust it."""
    pair = new_key_pair(folder / name)
    return load_signing_key(pair.private), load_roots(pair.public)


def signed(key: SigningKey, **changes: Any) -> bytes:
    """STATEMENT with changes, as an attestation file."""
    return sign_envelope(to_payload(replace(STATEMENT, **changes)), key)


@dataclass(frozen=True)
class Expected:
    """What a deployer has, and what is asked of the attestation."""

    subject_digest: str
    now: datetime.datetime
    demanded: dict[str, Any]


def expected(*, subject_digest: str = digest("model"), now: datetime.datetime = NOW + DAY, **demanded: Any) -> Expected:
    """What STATEMENT is good for."""
    return Expected(subject_digest, now, {"policies": {digest("policy"): "strict"}} | demanded)


def verify_attestation(envelope: bytes, roots: TrustRoots, expected: Expected) -> Statement:
    trusted = open_statement(envelope, roots, now=expected.now)
    check_subject(trusted.statement, expected.subject_digest)
    check_statement(trusted, Demands(roots=roots, **expected.demanded), expected.now)
    return trusted.statement
