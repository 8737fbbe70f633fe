"""What an attestation says: an in-toto Statement v1 with one subject and the verdict as its predicate.

The predicate is monotonic, as in-toto asks: every field is demanded, unknown ones are ignored, and only a statement
that says `pass` can let a release through. So a field that is dropped never turns a deny into an allow. A field that a
verifier must not ignore needs another PREDICATE_TYPE.
"""

import datetime
import json
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError
from pydantic.alias_generators import to_camel

from invmm_gate.attest.field_types import Day, Hex, Instant, Line, as_text
from invmm_gate.attest.tested_wire import ScopeWire, Wire, scope_plain
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.core.records import Scope, Waiver, Weights
from invmm_gate.files.strict_json import parse_plain

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:invmm-gate:verdict:v1"

AttestedDecision = Literal["pass", "pass_with_waiver", "block", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A verdict and everything that it is bound to."""

    subject_name: str
    subject_digest: str
    """The model's digest (ModelManifest.digest): it binds every file's path, size and bytes, and LoRA weights."""
    decision: AttestedDecision
    """`pass_with_waiver` where a finding that would have blocked is waived."""
    policy_name: str
    policy_digest: str
    probe_set_digest: str
    probes: int
    """Probes under test, the controls not among them."""
    controls: int
    report_digest: str
    """sha256 of public/report.html: no id and no exact score of a probe."""
    results_digest: str
    """A digest over measurements.jsonl and confirmations.jsonl, by the rule of a checkpoint's digest."""
    fingerprint: str
    """The run's identity: settings, rows, device and code among it."""
    profile: str
    tested: Scope
    """Image size, samplers, scales and seed: what the scores are of."""
    pipeline: str
    weights: Weights
    left_out: tuple[str, ...]
    """Files of the other weights: neither scored nor covered by the subject's digest."""
    pickles: tuple[str, ...]
    versions: dict[str, str]
    environment: str
    """Digest of what was installed where the run was measured, as `invmm-gate environment` prints it."""
    waivers: tuple[Waiver, ...]
    """The waivers that were used, as the public edition has them: a name in place of the probe's id, and no reason."""
    verifier: str
    """Id of who judged."""
    verifier_version: str
    issued_at: datetime.datetime
    """UTC, whole seconds, as `expires_at`."""
    expires_at: datetime.datetime
    sequence: int
    """From 1; one more than that of `previous`."""
    previous: str | None
    """sha256 of the attestation file before this one; None for the first."""
    attempt: int | None
    """Which of the results of this model it was in the audit log, from 1; None where no log was kept."""


class _Digest(Wire):
    sha256: Hex


class _Named(Wire):
    name: Line
    digest: _Digest


class _ProbeSet(Wire):
    digest: _Digest
    count: Annotated[int, Field(ge=0)]
    controls: Annotated[int, Field(ge=0)]


class _Verifier(Wire):
    id: Line
    version: Line


class _Waiver(Wire):
    reason: Line
    owner: Line
    expires: Day
    probe: Line | None
    rule: Line | None
    model: Hex | None
    approved_by: Hex | None


class _Predicate(Wire):
    verifier: _Verifier
    verdict: AttestedDecision
    policy: _Named
    probe_set: _ProbeSet
    report_digest: _Digest
    results_digest: _Digest
    fingerprint: Hex
    profile: Line
    tested: ScopeWire
    pipeline: Line
    weights: Weights
    left_out: tuple[Line, ...]
    pickles: tuple[Line, ...]
    versions: dict[Line, Line]
    environment: Hex
    waivers: tuple[_Waiver, ...]
    issued_at: Instant
    expires_at: Instant
    sequence: Annotated[int, Field(ge=1)]
    previous_verdict_digest: Hex | None
    attempt: Annotated[int, Field(ge=1)] | None


class _InToto(Wire):
    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Literal["urn:invmm-gate:verdict:v1"]
    subject: Annotated[tuple[_Named], Field(min_length=1, max_length=1)]
    predicate: _Predicate


def to_payload(statement: Statement) -> bytes:
    """The statement as the bytes that are signed. Raises ConfigError for what a statement cannot hold."""
    plain = {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "subject": [_named(statement.subject_name, statement.subject_digest)],
        "predicate": _predicate(statement),
    }
    payload = json.dumps(plain, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    try:
        from_payload(payload)
    except VerificationError as error:
        raise ConfigError(f"this cannot be attested: {error.found}", do="correct it and run the gate again") from error
    return payload


def _predicate(said: Statement) -> dict[str, object]:
    return {
        "verifier": {"id": said.verifier, "version": said.verifier_version},
        "verdict": said.decision,
        "policy": _named(said.policy_name, said.policy_digest),
        "probeSet": {"digest": _sha256(said.probe_set_digest), "count": said.probes, "controls": said.controls},
        "reportDigest": _sha256(said.report_digest),
        "resultsDigest": _sha256(said.results_digest),
        "fingerprint": said.fingerprint,
        "profile": said.profile,
        "tested": scope_plain(said.tested),
        "pipeline": said.pipeline,
        "weights": said.weights,
        "leftOut": said.left_out,
        "pickles": said.pickles,
        "versions": said.versions,
        "environment": said.environment,
        "waivers": [_waiver(waiver) for waiver in said.waivers],
        "issuedAt": as_text(said.issued_at),
        "expiresAt": as_text(said.expires_at),
        "sequence": said.sequence,
        "previousVerdictDigest": said.previous,
        "attempt": said.attempt,
    }


def _named(name: str, digest: str) -> dict[str, object]:
    return {"name": name, "digest": _sha256(digest)}


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def _waiver(waiver: Waiver) -> dict[str, str | None]:
    said = {to_camel(key): getattr(waiver, key) for key in _Waiver.model_fields}
    return said | {"expires": waiver.expires.isoformat()}


def from_payload(payload: bytes) -> Statement:
    """The statement that verified bytes hold. Raises VerificationError that names the field.

    Duplicate keys and numbers that are no integers are refused; fields of later versions are ignored.
    """
    plain = parse_plain(payload)
    _refuse_other_types(plain)
    try:
        wire = _InToto.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise VerificationError(f"statement: {_first(error)}", expected="a verdict as this version reads it") from error
    said, subject = wire.predicate, wire.subject[0]
    return Statement(
        subject_name=subject.name,
        subject_digest=subject.digest.sha256,
        decision=said.verdict,
        policy_name=said.policy.name,
        policy_digest=said.policy.digest.sha256,
        probe_set_digest=said.probe_set.digest.sha256,
        probes=said.probe_set.count,
        controls=said.probe_set.controls,
        report_digest=said.report_digest.sha256,
        results_digest=said.results_digest.sha256,
        fingerprint=said.fingerprint,
        profile=said.profile,
        tested=said.tested.record(),
        pipeline=said.pipeline,
        weights=said.weights,
        left_out=said.left_out,
        pickles=said.pickles,
        versions=said.versions,
        environment=said.environment,
        waivers=tuple(Waiver(**dict(waiver)) for waiver in said.waivers),
        verifier=said.verifier.id,
        verifier_version=said.verifier.version,
        issued_at=said.issued_at,
        expires_at=said.expires_at,
        sequence=said.sequence,
        previous=said.previous_verdict_digest,
        attempt=said.attempt,
    )


def _refuse_other_types(plain: dict[str, object]) -> None:
    """Before the fields: a statement of another kind has others."""
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if plain.get(key) != expected:
            raise VerificationError(
                f"{key}: {str(plain.get(key))[:80]!r}",
                expected=repr(expected),
                do="verify it with the version that signed it",
            )


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
