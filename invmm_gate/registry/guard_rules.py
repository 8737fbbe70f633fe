"""What the guard lets through: one rule for each kind of request that can promote a version or claim a verdict."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from invmm_gate.errors import RegistryError, VerificationError
from invmm_gate.registry.client import VersionRecord
from invmm_gate.registry.evidence import Evidence, envelopes, evidence_for, no_evidence, state_of, verdict_tags
from invmm_gate.registry.guard_settings import GuardSettings
from invmm_gate.registry.guard_stores import aliases_of, checkpoint_of, find_version, server_artefacts
from invmm_gate.registry.names import STATE, VERDICT_TAGS, is_verdict_tag

_UNPROMOTED_STAGES: Final = ("none", "archived")
_CLAIMING: Final = frozenset(VERDICT_TAGS | {STATE})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Each method takes a request as MLflow itself read it, and raises a GateError unless it may go on."""

    settings: GuardSettings
    now: Callable[[], datetime.datetime]

    def set_alias(self, request: Any) -> None:
        """A protected alias may point only at a version that passed."""
        if self.settings.protects(request.name, request.alias):
            self._require_pass(request.name, request.version)

    def transition_stage(self, request: Any) -> None:
        """A stage is an alias by another name."""
        if request.stage.strip().casefold() not in _UNPROMOTED_STAGES:
            self._require_pass(request.name, request.version)

    def rename(self, request: Any) -> None:
        """Under its new name an alias of the model may be a protected one."""
        for alias, version in aliases_of(request.name).items():
            if self.settings.protects(request.new_name, alias):
                self._require_pass(request.name, version)

    def set_version_tag(self, request: Any) -> None:
        """A tag that claims a verdict may say only what an attestation of the version says."""
        _refuse_lookalike(request.key)
        if is_verdict_tag(request.key, request.value):
            self._require(request.name, request.version, lambda found: _require_said(found, request.key, request.value))

    def delete_version_tag(self, request: Any) -> None:
        """A verdict that was given stays; gating again replaces it."""
        _refuse_lookalike(request.key)
        if is_verdict_tag(request.key, None):
            raise VerificationError(
                f"tag {request.key} tells of a verdict",
                expected="tags of verdicts to stay",
                do="gate the version again",
            )

    def create(self, request: Any) -> None:
        """Nothing is born with a verdict: a copy of a version does not inherit that of its source."""
        for tag in request.tags:
            _refuse_lookalike(tag.key)
            if is_verdict_tag(tag.key, tag.value):
                raise _claimed(tag.key)

    def set_model_tag(self, request: Any) -> None:
        """A registered model has no verdict, its versions have."""
        _refuse_lookalike(request.key)
        if request.key in _CLAIMING:
            raise _claimed(request.key)

    def _require_pass(self, name: str, version: str) -> None:
        demands = self.settings.demands
        self._require(name, version, lambda found: found.require_pass(demands, self.now()), left_out=False)

    def _require(self, name: str, version: str, demand: Callable[[Evidence], None], *, left_out: bool = True) -> None:
        """Raise the VerificationError of the last attestation, unless one holds and says what is demanded."""
        record = _version(name, version)
        wrong = no_evidence()
        with checkpoint_of(record) as checkpoint:
            for envelope in envelopes(record.source, record.tags, server_artefacts()):
                try:
                    roots = self.settings.demands.roots
                    demand(evidence_for(checkpoint, envelope, roots, now=self.now(), left_out=left_out))
                except VerificationError as error:
                    wrong = error
                else:
                    return
        raise wrong


def _version(name: str, version: str) -> VersionRecord:
    if not version.isdecimal() or str(int(version)) != version:  # a database may take `01` or ` 1` for 1
        raise RegistryError(f"version {version[:20]!a}", expected="a number, as the registry gives them")
    record = find_version(name, version)
    if record is None or record.version != version:
        raise RegistryError(f"{name[:128]!a} has no version {version}", expected="a version that is there")
    return record


def _require_said(found: Evidence, key: str, value: str) -> None:
    said = verdict_tags(found.statement) | {STATE: state_of(found.statement.decision)}
    if said[key] != value:
        raise VerificationError(f"tag {key}: {value[:80]!a}", expected=f"{said[key]}, as attested")


def _refuse_lookalike(key: str) -> None:
    """Some databases take upper for lower case and drop spaces at the end."""
    plain = key.strip().casefold()
    if plain in _CLAIMING and key != plain:
        raise VerificationError(f"tag {key[:80]!a}", expected=f"{plain}, spelled so")


def _claimed(key: str) -> VerificationError:
    return VerificationError(
        f"tag {key} claims a verdict that was not given", expected="a version without it", do="gate it afterwards"
    )
