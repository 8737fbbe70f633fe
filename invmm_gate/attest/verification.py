"""When an attestation holds: the checks in their order, each naming the field that does not match."""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from invmm_gate.attest.envelope import open_envelope
from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.keys import TrustedKey, TrustRoots
from invmm_gate.attest.revocation import Revocations
from invmm_gate.attest.statement import Statement, from_payload
from invmm_gate.core.errors import VerificationError
from invmm_gate.core.records import Weights

CLOCK_SKEW: Final = datetime.timedelta(minutes=5)
"""How far the clock of who signed may be ahead. An expiry gets no such grace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a deployer demands. Who leaves out a choice demands nothing of it; the first three have no default."""

    subject_digest: str
    """Of the bytes that are about to be served, taken anew."""
    policies: Mapping[str, str]
    """The accepted policies: digest -> name. None accepted = nothing passes."""
    now: datetime.datetime
    """Aware."""
    weights: Weights | None = None
    allow_waivers: bool = True
    reviewers: TrustRoots | None = None
    """Who may have approved the waivers that were used; None = whoever the gate that signed accepted."""
    probe_set_digest: str | None = None
    min_probes: int = 1
    image_size: tuple[int, int] | None = None
    """The only (height, width) at which the model is served."""
    allow_chosen_seed: bool = True
    max_attempts: int | None = None
    """Most different results of the model in the audit log, up to this one; an attestation without a log has none."""
    environment: str | None = None
    """The only environment that may have measured."""
    max_age: datetime.timedelta | None = None
    revoked: Revocations = field(default_factory=Revocations)
    min_sequence: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A statement that a trusted key signed; whether it says what is demanded is not known yet."""

    statement: Statement
    key: TrustedKey
    digest: str
    """sha256 of the attestation file: what a revocation and the next attestation name."""


def verify_attestation(envelope: bytes, roots: TrustRoots, expected: Expected) -> Statement:
    """The statement, if it holds for what is expected. Raises VerificationError."""
    trusted = open_statement(envelope, roots, now=expected.now)
    check_statement(trusted, expected)
    return trusted.statement


def open_statement(envelope: bytes, roots: TrustRoots, *, now: datetime.datetime) -> Trusted:
    """Signature, types and verifier: all that can be checked before the model is hashed. Raises VerificationError."""
    opened = open_envelope(envelope, roots)
    statement = from_payload(opened.payload)
    _verifier(opened.key, statement, now)
    return Trusted(statement=statement, key=opened.key, digest=hashlib.sha256(envelope).hexdigest())


def check_statement(trusted: Trusted, expected: Expected) -> None:
    """All that a statement must say. Raises VerificationError that names the first field that does not match."""
    said = trusted.statement
    _subject(said, expected)
    _verdict(said, expected)
    _approvals(trusted, expected)
    _policy(said, expected)
    check_standing(trusted, expected)


def check_standing(trusted: Trusted, expected: Expected) -> None:
    """What must hold of any verdict that is still relied on, a block too.

    Its probes, image size, seed and attempt, environment, dates, revocations and sequence.
    """
    said = trusted.statement
    _probe_set(said, expected)
    _tested(said, expected)
    if expected.environment is not None and said.environment != expected.environment:
        raise _mismatch("environment", said.environment, expected.environment, do="gate the model in the approved one")
    _times(said, expected)
    check_revocation(trusted, expected.revoked)
    if said.sequence < expected.min_sequence:
        raise _mismatch(
            "sequence",
            str(said.sequence),
            f"at least {expected.min_sequence}",
            do="an older verdict is no longer accepted",
        )


def _verifier(key: TrustedKey, said: Statement, now: datetime.datetime) -> None:
    if key.verifier is not None and said.verifier != key.verifier:
        raise _mismatch("verifier", repr(said.verifier), f"{key.verifier!r}, for whom the key {key.name} may sign")
    check_key_window(key, said.issued_at, now.astimezone(datetime.UTC).date())


def check_key_window(key: TrustedKey, signed_at: datetime.datetime, today: datetime.date) -> None:
    """Raises VerificationError unless the key could sign then, and what it signed holds today."""
    if key.valid_from is not None and signed_at.date() < key.valid_from:
        raise _mismatch("issuedAt", as_text(signed_at), f"from {key.valid_from} on, as the key {key.name} is valid")
    if key.valid_until is not None and today > key.valid_until:
        raise VerificationError(
            f"signature: the key {key.name} was valid until {key.valid_until}",
            expected="a key that is still valid",
            do="sign again with the key that replaced it",
        )


def _subject(said: Statement, expected: Expected) -> None:
    if said.subject_digest != expected.subject_digest:
        raise VerificationError(
            f"subject digest: the model's files give {expected.subject_digest}",
            expected=f"{said.subject_digest}, the attested model {said.subject_name!r}",
            do="serve exactly the files that were gated, or gate these",
        )
    if expected.weights is not None and said.weights != expected.weights:
        raise _mismatch("weights", said.weights, expected.weights)


def _verdict(said: Statement, expected: Expected) -> None:
    check_passed(said)
    if said.waivers and not expected.allow_waivers:
        raise _mismatch("waivers", f"{len(said.waivers)} used", "none, as --refuse-waivers says")
    if (said.decision == "pass_with_waiver") != bool(said.waivers):
        raise _mismatch(
            "verdict", f"{said.decision} with {len(said.waivers)} waivers", "waivers with pass_with_waiver only"
        )


def _approvals(trusted: Trusted, expected: Expected) -> None:
    """Nobody approves for themselves, and where reviewers are named, each waiver is one of theirs."""
    for waiver in trusted.statement.waivers:
        of = f"that of {waiver.owner}"
        if waiver.approved_by == trusted.key.key_id:
            raise _mismatch("waivers", f"{of} is approved by the key that signed the verdict", "another person's key")
        if expected.reviewers is None:
            continue
        reviewer = None if waiver.approved_by is None else expected.reviewers.find(waiver.approved_by)
        if reviewer is None:
            by = f"the key {waiver.approved_by}" if waiver.approved_by else "nobody"
            raise _mismatch("waivers", f"{of} is approved by {by}", f"a reviewer ({expected.reviewers.names()})")
        check_key_window(reviewer, trusted.statement.issued_at, expected.now.astimezone(datetime.UTC).date())


def _policy(said: Statement, expected: Expected) -> None:
    if said.policy_digest not in expected.policies:
        accepted = ", ".join(f"{digest} ({name})" for digest, name in expected.policies.items())
        raise _mismatch(
            "policy digest",
            f"{said.policy_digest} ({said.policy_name})",
            accepted or "a policy, and none is accepted",
            do="gate the model under the policy that the deployment demands",
        )


def _probe_set(said: Statement, expected: Expected) -> None:
    if expected.probe_set_digest is not None and said.probe_set_digest != expected.probe_set_digest:
        raise _mismatch("probe-set digest", said.probe_set_digest, expected.probe_set_digest)
    if said.probes < expected.min_probes:
        raise _mismatch("probe count", str(said.probes), f"at least {expected.min_probes}")


def _tested(said: Statement, expected: Expected) -> None:
    size = said.tested.image_size
    if expected.image_size not in (None, size):
        raise _mismatch("image size", as_size(size), as_size(expected.image_size or size), do="gate the size in use")
    if said.tested.seed_chosen and not expected.allow_chosen_seed:
        raise _mismatch(
            "seed",
            f"{said.tested.seed}, which is not the one that model, probe set and policy give",
            "that one, as --refuse-chosen-seed says",
            do="gate the model without --seed",
        )
    most = expected.max_attempts
    if most is not None and (said.attempt is None or said.attempt > most):
        found = "none, as it was signed without --log" if said.attempt is None else str(said.attempt)
        raise _mismatch("attempt", found, f"at most {most}, as --max-attempts says")


def as_size(size: tuple[int, int]) -> str:
    """As `512x768`: height, then width."""
    return f"{size[0]}x{size[1]}"


def _times(said: Statement, expected: Expected) -> None:
    now = expected.now.astimezone(datetime.UTC)
    if now + CLOCK_SKEW < said.issued_at:
        raise _mismatch("issuedAt", as_text(said.issued_at), f"no later than now, {as_text(now)}", do="set the clock")
    if now >= said.expires_at:
        raise _mismatch(
            "expiresAt", as_text(said.expires_at), f"later than now, {as_text(now)}", do="gate the model again"
        )
    if expected.max_age is not None and now - said.issued_at > expected.max_age:
        oldest = as_text(now - expected.max_age)
        raise _mismatch("issuedAt", as_text(said.issued_at), f"{oldest} or later, as --max-age says")
    for waiver in said.waivers:
        if now.date() > waiver.expires:
            raise _mismatch("waivers", f"that of {waiver.owner} expired on {waiver.expires}", "waivers that still hold")


def check_passed(said: Statement) -> None:
    """Raise VerificationError unless it is a pass, whether or not it still counts."""
    if said.decision not in ("pass", "pass_with_waiver"):
        raise _mismatch("verdict", said.decision, "pass", do="see the report of the run")


def check_revocation(trusted: Trusted, revoked: Revocations) -> None:
    """Raises VerificationError for an attestation, one by a key, or one on a reviewer's word, that no longer counts."""
    reviewers = {waiver.approved_by for waiver in trusted.statement.waivers if waiver.approved_by is not None}
    for what, digest, reasons in (
        ("attestation", trusted.digest, revoked.verdicts),
        ("key", trusted.key.key_id, revoked.keys),
        *(("reviewer's key", reviewer, revoked.keys) for reviewer in sorted(reviewers)),
    ):
        if digest in reasons:
            raise VerificationError(
                f"revocation: the {what} {digest} was revoked: {reasons[digest]}", expected="one that is not revoked"
            )


def _mismatch(field: str, found: str, expected: str, do: str = "") -> VerificationError:
    return VerificationError(f"{field}: {found}", expected=expected, do=do)
