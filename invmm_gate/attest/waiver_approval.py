"""The approval of waivers: a reviewer signs them with another key than the gate's before they count.

The signed file lies beside waivers.yaml and holds the waivers themselves, so that comments and order may change in the
YAML, and what is added to it stays without effect until it is signed too.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from invmm_gate.attest.envelope import MAX_BYTES, open_envelope, sign_envelope
from invmm_gate.attest.field_types import Day, Hex, Instant, Line, as_text
from invmm_gate.attest.keys import SigningKey, TrustRoots
from invmm_gate.attest.verification import CLOCK_SKEW, check_key_window
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.core.verdict_records import Waiver
from invmm_gate.files.regular import read_small
from invmm_gate.files.strict_json import parse_plain
from invmm_gate.files.strict_model import StrictModel

APPROVAL_SUFFIX: Final = ".approval"
"""waivers.yaml is approved by waivers.yaml.approval."""
_PAYLOAD_TYPE: Final = "application/vnd.invmm-gate.waivers+json"
_KIND: Final = "urn:invmm-gate:waivers:v1"


class _Approved(StrictModel):
    """One waiver, for one image under one model: what applies to everything is no exception."""

    probe: Line
    image: Hex
    rule: Line | None
    model: Hex
    reason: Line
    owner: Line
    expires: Day


class _Approval(StrictModel):
    kind: Literal["urn:invmm-gate:waivers:v1"]
    approved_at: Instant
    waivers: Annotated[tuple[_Approved, ...], Field(min_length=1)]


_APPROVAL: Final = TypeAdapter(_Approval)


def approval_file(waivers: Path) -> Path:
    """Where the approval of a waivers file lies."""
    return waivers.with_name(waivers.name + APPROVAL_SUFFIX)


def approve(waivers: Sequence[Waiver], key: SigningKey, *, now: datetime.datetime) -> bytes:
    """The signed approval of these waivers. Raises ConfigError for one without probe or model, or one that expired."""
    for waiver in waivers:
        _require_narrow(waiver, now.astimezone(datetime.UTC).date())
    plain = {
        "kind": _KIND,
        "approved_at": as_text(now.astimezone(datetime.UTC)),
        "waivers": [_plain(w) for w in waivers],
    }
    payload = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    try:
        _parsed(payload)
    except VerificationError as error:
        raise ConfigError(f"this cannot be approved: {error.found}", expected=error.expected) from error
    envelope = sign_envelope(payload, key, _PAYLOAD_TYPE)
    if len(envelope) > MAX_BYTES:
        raise ConfigError(
            f"{len(waivers)} waivers make an approval of {len(envelope)} bytes",
            expected=f"at most {MAX_BYTES}",
            do="approve fewer waivers, or put them into several files",
        )
    return envelope


def approved(
    waivers: Sequence[Waiver], file: Path, reviewers: TrustRoots | None, *, today: datetime.date
) -> tuple[Waiver, ...]:
    """The waivers of a file, those that its approval covers with the key that signed it.

    Without reviewers, or without an approval beside the file, they stay as they are. Raises ConfigError for an approval
    that none of the reviewers signed, that was changed, or that cannot be read.
    """
    beside = approval_file(file)
    if reviewers is None or not beside.exists():
        return tuple(waivers)
    envelope = read_small(beside, what="an approval as `invmm-gate waivers approve` writes it", limit=MAX_BYTES)
    try:
        covered, key_id = _covered(envelope, reviewers, today)
    except VerificationError as error:
        do = error.do or "let a reviewer approve the waivers again: invmm-gate waivers approve"
        raise ConfigError(f"{beside}: {error.found}", expected=error.expected, do=do) from error
    return tuple(replace(waiver, approved_by=key_id) if _as_signed(waiver) in covered else waiver for waiver in waivers)


def _covered(envelope: bytes, reviewers: TrustRoots, today: datetime.date) -> tuple[frozenset[Waiver], str]:
    opened = open_envelope(envelope, reviewers, _PAYLOAD_TYPE)
    said = _parsed(opened.payload)
    if (said.approved_at - CLOCK_SKEW).date() > today:
        raise VerificationError(
            f"it was signed at {as_text(said.approved_at)}", expected=f"no later than {today}", do="set the clock"
        )
    check_key_window(opened.key, said.approved_at, today)
    return frozenset(Waiver(**dict(waiver)) for waiver in said.waivers), opened.key.key_id


def _parsed(payload: bytes) -> _Approval:
    plain = parse_plain(payload)
    try:
        return _APPROVAL.validate_json(json.dumps(plain))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError(f"{where}: {first['msg']}", expected="waivers as this version signs them") from error


def _require_narrow(waiver: Waiver, today: datetime.date) -> None:
    for what, given in (("probe", waiver.probe), ("image", waiver.image), ("model", waiver.model)):
        if given is None:
            raise ConfigError(
                f"line {waiver.line}: the waiver of {waiver.owner} names no {what}",
                expected="one image under one model: what applies to everything is no exception",
                do="add `probe`, `image`, the sha256 in the manifest, and `model`, the digest in verdict.json",
            )
    if today > waiver.expires:
        raise ConfigError(
            f"line {waiver.line}: the waiver of {waiver.owner} expired on {waiver.expires}", do="remove it"
        )


def _plain(waiver: Waiver) -> dict[str, str | None]:
    said = {key: getattr(waiver, key) for key in _Approved.model_fields}
    return said | {"expires": waiver.expires.isoformat()}


def _as_signed(waiver: Waiver) -> Waiver:
    """Without its line, which may change."""
    return replace(waiver, line=0, approved_by=None)
