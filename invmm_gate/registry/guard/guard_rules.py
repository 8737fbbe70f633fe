"""The rules of the guard: one for each kind of request that can promote a version or claim a verdict.

A rule raises a GateError unless the request may go on, and returns what is to be looked at once MLflow has done it: a
version can be deleted and made anew, with other files, while those of the first one are hashed.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, final

from invmm_gate.attest.audit_log import is_head
from invmm_gate.attest.verification import check_revocation
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.registry.client import registry_names as names
from invmm_gate.registry.client.artefacts import checkpoint_in
from invmm_gate.registry.client.client import VersionRecord
from invmm_gate.registry.guard import stores
from invmm_gate.registry.guard.guard_settings import GuardSettings
from invmm_gate.registry.promote.attested_files import (
    Evidence,
    envelopes,
    evidence_for,
    evidence_that_promotes,
    first_that_does,
    no_evidence,
    verdict_tags,
)

After = Callable[[], None]
"""Undoes what was done, and raises VerificationError, if it was done to another version than that which was judged."""

_UNPROMOTED_STAGES: Final = ("none", "archived")
_SPELLED: Final = frozenset(names.VERDICT_TAGS | {names.STATE, names.POSING})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Each method takes a request as MLflow itself read it."""

    settings: GuardSettings
    now: Callable[[], datetime.datetime]
    hashes: stores.RecentHashes = field(default_factory=stores.RecentHashes)

    def set_alias(self, request: Any) -> After | None:
        """A protected alias may point only at a version that passed."""
        _refuse_unspellable(request.alias)
        if not self.settings.protects(request.name, request.alias):
            return None
        record = self._passed(request.name, request.version)
        return partial(_look_again, record, partial(stores.drop_alias, request.name, request.alias, record.version))

    def transition_stage(self, request: Any) -> After | None:
        """A stage is an alias by another name."""
        if request.stage.strip().casefold() in _UNPROMOTED_STAGES:
            return None
        record = self._passed(request.name, request.version)
        return partial(_look_again, record, partial(stores.drop_stage, request.name, record.version))

    def rename(self, request: Any) -> After:
        """Under its new name an alias of the model may be a protected one."""
        aliased = stores.aliases_of(request.name).items()
        protected = [pair for pair in aliased if self.settings.protects(request.new_name, pair[0])]
        passed = {version: self._passed(request.name, version) for version in {version for _, version in protected}}
        return partial(self._look_at_renamed, request.new_name, passed)

    def set_version_tag(self, request: Any) -> After | None:
        """A tag that claims a verdict may say only what an attestation of the version says, of the log's head once."""
        _refuse_lookalike(request.key)
        _refuse_posing(request.key)
        if not names.is_verdict_tag(request.key, request.value):
            return None
        record = self._attested(request.name, request.version, request.key, request.value)
        return partial(_look_again, record, partial(stores.drop_tag, request.name, record.version, request.key))

    def delete_version_tag(self, request: Any) -> None:
        """A verdict that was given stays; gating again replaces it."""
        _refuse_lookalike(request.key)
        if names.is_verdict_tag(request.key, None):
            raise VerificationError(
                f"tag {request.key} tells of a verdict and would be deleted",
                expected="a tag that tells of no verdict",
                do="gate the version again: a new verdict replaces the tag",
            )

    def create_model(self, request: Any) -> None:
        """A registered model has no verdict."""
        _refuse_claims(request.tags)

    def create_version(self, request: Any) -> None:
        """Nothing is born with a verdict: a copy of a version does not inherit that of its source."""
        _refuse_claims(request.tags)
        if any(tag.key == names.POSING for tag in request.tags) and not stores.is_prompt(request.name):
            _refuse_posing(names.POSING)

    def set_model_tag(self, request: Any) -> None:
        """A registered model has no verdict, its versions have."""
        _refuse_lookalike(request.key)
        _refuse_posing(request.key)
        if names.is_verdict_tag(request.key, None):
            raise _claimed(request.key)

    def _passed(self, name: str, version: str) -> VersionRecord:
        """The version, if an attestation shows that it passed. Raises a GateError."""
        record = _version(name, version)
        found = tuple(envelopes(record.source, record.tags, stores.server_artefacts()))
        if not found:
            raise no_evidence()
        with stores.files_of(record) as files:
            evidence_that_promotes(files, found, self.settings.demands(), now=self.now())
        return record

    def _attested(self, name: str, version: str, key: str, value: str) -> VersionRecord:
        """The version, if an attestation says of it what the tag says. Raises a GateError."""
        record, demands = _version(name, version), self.settings.demands()
        inspect = self.hashes.inspected

        def require_said(envelope: bytes) -> None:
            found = evidence_for(
                checkpoint, envelope, demands.roots, now=self.now(), weights="attested", inspect=inspect
            )
            check_revocation(found.trusted, demands.revoked)
            _require_said(found, record, key, value)

        with stores.files_of(record) as files:
            checkpoint = checkpoint_in(files)
            first_that_does(envelopes(record.source, record.tags, stores.server_artefacts()), require_said)
        return record

    def _look_at_renamed(self, name: str, passed: dict[str, VersionRecord]) -> None:
        """An alias may have been set under the old name, where it was not protected, after they were looked at."""
        for alias, version in stores.aliases_of(name).items():
            if self.settings.protects(name, alias):
                _look_again(passed.get(version), partial(stores.drop_alias, name, alias, version), name=name)


def _look_again(before: VersionRecord | None, undo: Callable[[], None], *, name: str = "") -> None:
    now = None if before is None else stores.version_here(name or before.name, before.version)
    if before is None or now is None or (now.created_at_ms, now.source) != (before.created_at_ms, before.source):
        if before is None or now is not None:
            undo()
        raise VerificationError(
            "the version was replaced while its files were hashed",
            expected="a version that stays the same while it is looked at",
            do="gate the version that is there now",
        )


def _version(name: str, version: str) -> VersionRecord:
    if not names.is_version(version):  # a database may take `01` or ` 1` for 1
        raise RegistryError(f"version {version[:20]!a} is no number", expected="a number, as the registry gives them")
    record = stores.version_here(name, version)
    if record is None or record.version != version:
        raise RegistryError(f"{name[:128]!a} has no version {version}", expected="a version that the registry has")
    return record


def _require_said(found: Evidence, record: VersionRecord, key: str, value: str) -> None:
    if names.is_log_entry(key):
        _require_first(found, record, key, value)
        return
    said = verdict_tags(found.statement)
    if said[key] != value:
        raise VerificationError(f"tag {key}: {value[:80]!a}", expected=f"{said[key]}, as attested")


def _require_first(found: Evidence, record: VersionRecord, key: str, value: str) -> None:
    """The log is not here, so its head is not known: it is said once of each attestation, and then stays."""
    own = names.log_entry_tag(found.envelope)
    if key != own:
        raise VerificationError(f"tag {key[:80]!a} is of another attestation", expected=f"{own}, the tag of this one")
    if not is_head(value):
        raise VerificationError(f"tag {key}: {value[:80]!a}", expected="NUMBER:DIGEST, as `audit-log verify` prints it")
    first = record.tags.get(key, value)
    if value != first:
        raise VerificationError(f"tag {key}: {value[:80]!a}", expected=f"{first}, which it has already")


def _refuse_unspellable(alias: str) -> None:
    """MLflow lets in letters of all scripts and a line's end, which a database may take for those of another alias."""
    if not names.ALIAS_PATTERN.fullmatch(alias):
        raise VerificationError(f"alias {alias[:80]!a}", expected="letters of ASCII, digits, dashes and underscores")


def _refuse_lookalike(key: str) -> None:
    """A database may take the key for one of a verdict."""
    plain = names.folded(key)
    if (plain in _SPELLED or names.is_log_entry(plain)) and key != plain:
        raise VerificationError(f"tag {key[:80]!a} looks like a tag of the gate", expected=f"{plain}, spelled so")


def _refuse_posing(key: str) -> None:
    if key == names.POSING:
        raise VerificationError(
            f"tag {names.POSING} makes a prompt of a model",
            expected="models that MLflow's lists show",
            do="register prompts as prompts",
        )


def _refuse_claims(tags: Any) -> None:
    for tag in tags:
        _refuse_lookalike(tag.key)
        if names.is_verdict_tag(tag.key, tag.value):
            raise _claimed(tag.key)


def _claimed(key: str) -> VerificationError:
    return VerificationError(
        f"tag {key} claims a verdict that was not given",
        expected="a model or version without this tag",
        do="leave the tag out; the gate sets it",
    )
