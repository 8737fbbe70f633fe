"""The checks of an attestation, in their order. Each check names the field that does not match."""

import datetime
import hashlib
from dataclasses import dataclass
from typing import Final

from invmm_gate.attest.demands import Demands, Revocations
from invmm_gate.attest.envelope import open_envelope
from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.keys import TrustedKey, TrustRoots
from invmm_gate.attest.statement import Statement, from_payload
from invmm_gate.core.errors import VerificationError

CLOCK_SKEW: Final = datetime.timedelta(minutes=5)
"""How far the clock of who signed may be ahead. An expiry gets no such grace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A statement that a trusted key signed; whether it says what is demanded is not known yet."""

    statement: Statement
    key: TrustedKey
    digest: str
    """sha256 of the attestation file: what a revocation and the next attestation name."""


def open_statement(envelope: bytes, roots: TrustRoots, *, now: datetime.datetime) -> Trusted:
    """Signature, types and verifier: all that can be checked before the model is hashed. Raises VerificationError."""
    opened = open_envelope(envelope, roots)
    statement = from_payload(opened.payload)
    _verifier(opened.key, statement, now)
    return Trusted(statement=statement, key=opened.key, digest=hashlib.sha256(envelope).hexdigest())


def check_subject(said: Statement, digest: str) -> None:
    """Raise VerificationError unless the statement is of the bytes that are about to be served, hashed anew."""
    if said.subject_digest != digest:
        raise VerificationError(
            f"subject digest: the model's files give {digest}",
            expected=f"{said.subject_digest}, the attested model {said.subject_name!r}",
            do="serve exactly the files that were gated, or gate these",
        )


def check_statement(trusted: Trusted, demands: Demands, now: datetime.datetime) -> None:
    """Check all that a statement must say. Raises VerificationError that names the first field that does not match.

    The subject is not asked for here: `check_subject` is. `now` is aware.
    """
    said = trusted.statement
    if demands.weights is not None and said.weights != demands.weights:
        raise _mismatch("weights", said.weights, demands.weights)
    _verdict(said, demands)
    _approvals(trusted, demands, now)
    _policy(said, demands)
    check_standing(trusted, demands, now)


def check_standing(trusted: Trusted, demands: Demands, now: datetime.datetime) -> None:
    """Check what must hold of any verdict that is still relied on, a block too.

    Its probes, image size, seed and attempt, environment, dates, revocations and sequence.
    """
    said = trusted.statement
    _probe_set(said, demands)
    _tested(said, demands)
    if demands.environment is not None and said.environment != demands.environment:
        raise _mismatch("environment", said.environment, demands.environment, do="gate the model in the approved one")
    _times(said, demands, now)
    check_revocation(trusted, demands.revoked)
    if said.sequence < demands.min_sequence:
        raise _mismatch(
            "sequence",
            str(said.sequence),
            f"at least {demands.min_sequence}",
            do="an older verdict is no longer accepted",
        )


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


def as_size(size: tuple[int, int]) -> str:
    """A size as `512x768`: height, then width."""
    return f"{size[0]}x{size[1]}"


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


def _verifier(key: TrustedKey, said: Statement, now: datetime.datetime) -> None:
    if key.verifier is not None and said.verifier != key.verifier:
        raise _mismatch("verifier", repr(said.verifier), f"{key.verifier!r}, for whom the key {key.name} may sign")
    check_key_window(key, said.issued_at, now.astimezone(datetime.UTC).date())


def _verdict(said: Statement, demands: Demands) -> None:
    check_passed(said)
    if said.waivers and not demands.allow_waivers:
        raise _mismatch("waivers", f"{len(said.waivers)} used", "none, as --refuse-waivers says")
    if (said.decision == "pass_with_waiver") != bool(said.waivers):
        raise _mismatch(
            "verdict", f"{said.decision} with {len(said.waivers)} waivers", "waivers with pass_with_waiver only"
        )


def _approvals(trusted: Trusted, demands: Demands, now: datetime.datetime) -> None:
    """Nobody approves for themselves, and where reviewers are named, each waiver is one of theirs."""
    for waiver in trusted.statement.waivers:
        of = f"that of {waiver.owner}"
        if waiver.approved_by == trusted.key.key_id:
            raise _mismatch("waivers", f"{of} is approved by the key that signed the verdict", "another person's key")
        if demands.reviewers is None:
            continue
        reviewer = None if waiver.approved_by is None else demands.reviewers.find(waiver.approved_by)
        if reviewer is None:
            by = f"the key {waiver.approved_by}" if waiver.approved_by else "nobody"
            raise _mismatch("waivers", f"{of} is approved by {by}", f"a reviewer ({demands.reviewers.names()})")
        check_key_window(reviewer, trusted.statement.issued_at, now.astimezone(datetime.UTC).date())


def _policy(said: Statement, demands: Demands) -> None:
    if said.policy_digest not in demands.policies:
        accepted = ", ".join(f"{digest} ({name})" for digest, name in demands.policies.items())
        raise _mismatch(
            "policy digest",
            f"{said.policy_digest} ({said.policy_name})",
            accepted or "a policy, and none is accepted",
            do="gate the model under the policy that the deployment demands",
        )


def _probe_set(said: Statement, demands: Demands) -> None:
    if demands.probe_set_digest is not None and said.probe_set_digest != demands.probe_set_digest:
        raise _mismatch("probe-set digest", said.probe_set_digest, demands.probe_set_digest)
    if said.probes < demands.min_probes:
        raise _mismatch("probe count", str(said.probes), f"at least {demands.min_probes}")


def _tested(said: Statement, demands: Demands) -> None:
    size = said.tested.image_size
    if demands.image_size not in (None, size):
        raise _mismatch("image size", as_size(size), as_size(demands.image_size or size), do="gate the size in use")
    if said.tested.seed_chosen and not demands.allow_chosen_seed:
        raise _mismatch(
            "seed",
            f"{said.tested.seed}, which is not the one that model, probe set and policy give",
            "that one, as --refuse-chosen-seed says",
            do="gate the model without --seed",
        )
    most = demands.max_attempts
    if most is not None and (said.attempt is None or said.attempt > most):
        found = "none, as it was signed without --log" if said.attempt is None else str(said.attempt)
        raise _mismatch("attempt", found, f"at most {most}, as --max-attempts says")


def _times(said: Statement, demands: Demands, now: datetime.datetime) -> None:
    now = now.astimezone(datetime.UTC)
    if now + CLOCK_SKEW < said.issued_at:
        raise _mismatch("issuedAt", as_text(said.issued_at), f"no later than now, {as_text(now)}", do="set the clock")
    if now >= said.expires_at:
        raise _mismatch(
            "expiresAt", as_text(said.expires_at), f"later than now, {as_text(now)}", do="gate the model again"
        )
    if demands.max_age is not None and now - said.issued_at > demands.max_age:
        oldest = as_text(now - demands.max_age)
        raise _mismatch("issuedAt", as_text(said.issued_at), f"{oldest} or later, as --max-age says")
    for waiver in said.waivers:
        if now.date() > waiver.expires:
            raise _mismatch("waivers", f"that of {waiver.owner} expired on {waiver.expires}", "waivers that still hold")


def _mismatch(field: str, found: str, expected: str, do: str = "") -> VerificationError:
    return VerificationError(f"{field}: {found}", expected=expected, do=do)
