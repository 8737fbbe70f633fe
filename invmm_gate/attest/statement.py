"""What an attestation says: an in-toto Statement v1 with one subject and the verdict as its predicate.

The predicate is monotonic, as in-toto asks: every field is demanded, unknown ones are ignored, and only a statement
that says `pass` can let a release through. So a field that is dropped never turns a deny into an allow. A field that a
verifier must not ignore needs another PREDICATE_TYPE.

A SLSA verification summary (slsa.dev/verification_summary/v1) is written for a pass without waivers and for nothing
else, so that its absence is never a permission. It has no expiry of its own: the attestation that it names has one.
"""

import datetime
import json
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_type_hints
from urllib.parse import quote

from pydantic import (
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from invmm_gate.attest.field_types import Day, Decimal, Hex, Instant, Line, as_text
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.core.records import Weights
from invmm_gate.core.verdict_records import Scope, Waiver
from invmm_gate.files.strict_json import parse_plain

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:invmm-gate:verdict:v1"

AttestedDecision = Literal["pass", "pass_with_waiver", "block", "inconclusive"]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
SUMMARY: Final = "verification_summary.json"
"""The signed summary's name in a run folder."""
SUMMARY_TYPE: Final = "https://slsa.dev/verification_summary/v1"
LEVEL: Final = "INVMM_GATE_PASS"


class _Wire(BaseModel):
    """A record as a statement holds it: keys in camelCase, no number that is no integer."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


class _Tested(_Wire):
    image_size: tuple[Positive, Positive]
    samplers: Annotated[tuple[Line, ...], Field(min_length=1)]
    sampler_steps: Positive
    guidance_scales: Annotated[tuple[Decimal, ...], Field(min_length=1)]
    seed: Count
    seed_chosen: bool


class _Waived(_Wire):
    reason: Line
    owner: Line
    expires: Day
    probe: Line | None
    rule: Line | None
    model: Hex | None
    approved_by: Hex | None


_WIRES: Final[dict[type, type[_Wire]]] = {Scope: _Tested, Waiver: _Waived}


def _from_wire(record: Any, schemas: GetCoreSchemaHandler) -> CoreSchema:
    """Demands the wire form, and makes a record of it."""
    wire = schemas.generate_schema(_WIRES[record])
    return no_info_after_validator_function(lambda said: record(**dict(said)), wire)


_AS_RECORD: Final = GetPydanticSchema(_from_wire)


def _at(place: str) -> Any:
    """Where a field stands in the in-toto statement, from its outermost key inwards."""
    first, *steps = place.split(".")
    return Field(validation_alias=AliasPath(first, *(int(step) if step.isdigit() else step for step in steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A verdict and everything that it is bound to.

    Each field has the type and the place of its signed form. They are held against it when a statement is written and
    when it is read, not when it is made.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")

    subject_name: Annotated[Line, _at("subject.0.name")]
    """What the run calls the model."""
    subject_digest: Annotated[Hex, _at("subject.0.digest.sha256")]
    """The model's digest (ModelManifest.digest): it binds every file's path, size and bytes, and LoRA weights."""
    decision: Annotated[AttestedDecision, _at("predicate.verdict")]
    """`pass_with_waiver` where a finding that would have blocked is waived."""
    policy_name: Annotated[Line, _at("predicate.policy.name")]
    """The policy that judged."""
    policy_digest: Annotated[Hex, _at("predicate.policy.digest.sha256")]
    """sha256 of the policy as it is understood."""
    probe_set_digest: Annotated[Hex, _at("predicate.probeSet.digest.sha256")]
    """sha256 over the manifest, which names the sha256 of each image."""
    probes: Annotated[Count, _at("predicate.probeSet.count")]
    """Probes under test, the controls and canaries of a known multiplicity not among them."""
    controls: Annotated[Count, _at("predicate.probeSet.controls")]
    """Images that the model cannot have seen."""
    report_digest: Annotated[Hex, _at("predicate.reportDigest.sha256")]
    """sha256 of public/report.html: no id and no exact score of a probe."""
    results_digest: Annotated[Hex, _at("predicate.resultsDigest.sha256")]
    """A digest over the files of measurements, confirmations and likelihoods, by the rule of a checkpoint's digest."""
    fingerprint: Annotated[Hex, _at("predicate.fingerprint")]
    """The run's identity: settings, rows, device and code among it."""
    profile: Annotated[Line, _at("predicate.profile")]
    """Name of the measure's profile."""
    tested: Annotated[Scope, _AS_RECORD, _at("predicate.tested")]
    """Image size, samplers, scales and seed: what the scores are of."""
    pipeline: Annotated[Line, _at("predicate.pipeline")]
    """Diffusers class name."""
    weights: Annotated[Weights, _at("predicate.weights")]
    """Which weights were scored."""
    left_out: Annotated[tuple[Line, ...], _at("predicate.leftOut")]
    """Files of the other weights: neither scored nor covered by the subject's digest."""
    pickles: Annotated[tuple[Line, ...], _at("predicate.pickles")]
    """Pickle files that were read."""
    versions: Annotated[dict[Line, Line], _at("predicate.versions")]
    """Of the gate and of the packages that decide a score or a verdict."""
    environment: Annotated[Hex, _at("predicate.environment")]
    """Digest of what was installed where the run was measured, as `invmm-gate environment` prints it."""
    waivers: Annotated[tuple[Annotated[Waiver, _AS_RECORD], ...], _at("predicate.waivers")]
    """The waivers that were used, as the public edition has them: a name in place of the probe's id, and no reason."""
    verifier: Annotated[Line, _at("predicate.verifier.id")]
    """The id of the gate that judged."""
    verifier_version: Annotated[Line, _at("predicate.verifier.version")]
    """Version of the gate that judged."""
    issued_at: Annotated[Instant, _at("predicate.issuedAt")]
    """UTC, whole seconds, as `expires_at`."""
    expires_at: Annotated[Instant, _at("predicate.expiresAt")]
    """From then on it no longer holds."""
    sequence: Annotated[Positive, _at("predicate.sequence")]
    """From 1; one more than that of `previous`."""
    previous: Annotated[Hex | None, _at("predicate.previousVerdictDigest")]
    """sha256 of the attestation file before this one; None for the first."""
    attempt: Annotated[Positive | None, _at("predicate.attempt")]
    """Which of the results of this model it was in the audit log, from 1; None where no log was kept."""


_STATEMENT: Final = TypeAdapter(Statement)
_PLACES: Final[dict[str, list[str | int]]] = {
    name: hint.__metadata__[-1].validation_alias.path
    for name, hint in get_type_hints(Statement, include_extras=True).items()
}


def to_payload(statement: Statement) -> bytes:
    """The statement as the bytes that are signed. Raises ConfigError for what a statement cannot hold."""
    plain: dict[str, Any] = {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "subject": [{}]}
    for name, (*steps, key) in _PLACES.items():
        parent: Any = plain
        for step in steps:
            parent = parent[step] if isinstance(step, int) else parent.setdefault(step, {})
        parent[key] = getattr(statement, name)
    payload = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=_plain).encode()
    try:
        from_payload(payload)
    except VerificationError as error:
        raise ConfigError(f"this cannot be attested: {error.found}", do="correct it and run the gate again") from error
    return payload


def _plain(value: object) -> object:
    """A moment or a record as JSON has it."""
    if isinstance(value, datetime.datetime):
        return as_text(value)
    wire = _WIRES[type(value)]
    said = {name: getattr(value, name) for name in wire.model_fields}
    return wire.model_construct(**said).model_dump(mode="json", by_alias=True, warnings=False)


def from_payload(payload: bytes) -> Statement:
    """The statement that verified bytes hold. Raises VerificationError that names the field.

    Duplicate keys and numbers that are no integers are refused; fields of later versions are ignored.
    """
    plain = parse_plain(payload)
    _refuse_other_types(plain)
    subjects = plain.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise VerificationError(
            "statement: subject is not a list of one model", expected="the one model that was judged"
        )
    try:
        return _STATEMENT.validate_json(json.dumps(plain))
    except ValidationError as error:
        raise VerificationError(f"statement: {_first(error)}", expected="a verdict as this version reads it") from error


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
