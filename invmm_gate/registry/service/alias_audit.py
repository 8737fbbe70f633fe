"""The alias audit: protected aliases and releases that nothing vouches for, and versions that pose as prompts.

What vouches for a version is an attestation that holds for its files as they are now, or the ledger's own record.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, final

from invmm_gate.attest.demands import Demands
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.core.records import Weights
from invmm_gate.registry.client.artefacts import scratch_in
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.locations import SourceError
from invmm_gate.registry.client.registry_names import APPROVED, POSING, RUN, Watched
from invmm_gate.registry.promote import attested_files as attested
from invmm_gate.registry.promote.choices import Clock, utc_now
from invmm_gate.registry.service.ledger import Ledger

_LOGGER: Final = logging.getLogger(__name__)
RECHECK: Final = 3600.0
"""Seconds for which a version's files are believed to be those that were hashed; its verdict is checked each time."""

_Key = tuple[str, str, int, str, str, Weights | None]


class Doubts(Protocol):
    """The doubts about a version, in one line; empty if there are none.

    Only what is wrong with the version itself does. Where that cannot be found out, as on a full disk or with a store
    that does not hand out the files, RegistryError is raised: RegistryDownError if of no version it can be.
    """

    def of_alias(self, record: VersionRecord, *, anew: bool = False) -> str:
        """Why it may not carry a protected alias now; with `anew` not by anything that was only wrong earlier."""
        ...

    def of_release(self, record: VersionRecord) -> str:
        """Why the gate cannot have released it. Whether its verdict still counts is another question."""
        ...

    def of_approval(self, record: VersionRecord) -> str:
        """Why it cannot have been approved, or is no longer to be; a verdict that has merely run out is no reason."""
        ...


@final
@dataclass(frozen=True, slots=True)
class ByRecord:
    """Without trust roots: believes the ledger's own record of a pass under the terms of now, and nothing else.

    The record does not tell whether the version's files were changed afterwards; only an attestation does.
    """

    ledger: Ledger
    terms: Callable[[], str]

    def of_alias(self, record: VersionRecord, *, anew: bool = False) -> str:
        """Every version without such a record."""
        return "" if self.ledger.of(record, self.terms()).state == "pass" else "no pass of ours on record"

    of_approval = of_release = of_alias


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The files of a version when it was downloaded."""

    at: float
    """Before that, by the monotonic clock."""
    found: tuple[bytes, ...]
    """Its attestations, of which at least one could do."""
    files: attested.HashedFiles


@final
@dataclass(frozen=True, slots=True)
class ByAttestation:
    """Believes what a trusted key signed for the version's files, and nothing else.

    Files are downloaded only where an attestation could cover them, and then remembered for a while, whether it did or
    not. What was right is believed meanwhile; what was wrong is looked into again once the attestations change.
    """

    registry: Registry
    demands: Callable[[], Demands]
    """Asked for each time."""
    scratch: Path
    recheck: float = RECHECK
    """In seconds."""
    now: Clock = utc_now
    _looks: dict[_Key, _Look] = field(default_factory=dict, init=False)

    def of_alias(self, record: VersionRecord, *, anew: bool = False) -> str:
        """A version without a pass under an accepted policy that holds now."""
        return self._doubt(record, attested.passing, self.now(), anew=anew)

    def of_release(self, record: VersionRecord) -> str:
        """A version that never passed, or only by a key that was not trusted when the version was made or is revoked.

        A pass that expired, is too old, of another policy or revoked by itself is the gate's all the same.
        """
        return self._doubt(record, attested.once_passed, _made(record))

    def of_approval(self, record: VersionRecord) -> str:
        """A version without a pass that met all demands but the policy's when it was signed, or with a revoked one."""
        return self._doubt(record, attested.passed_then, _made(record))

    def _doubt(
        self, record: VersionRecord, accept: attested.Accept, when: datetime.datetime, *, anew: bool = False
    ) -> str:
        demands = self.demands()
        weights = demands.weights if accept is attested.passing else None
        key = (record.name, record.version, record.created_at_ms, record.source, record.tags.get(RUN, ""), weights)
        for old in [old for old, look in self._looks.items() if time.monotonic() - look.at >= self.recheck]:
            del self._looks[old]  # also of versions that nobody asks about any more
        look = self._looks.get(key)

        def wrong(look: _Look) -> str:
            try:
                attested.evidence_among(attested.accepted(look.found, accept, demands, when), look.files)
            except VerificationError as error:
                return str(error)
            return ""

        if look is not None and not wrong(look):
            return ""
        try:
            found = tuple(attested.envelopes(record.source, record.tags, self.registry.artefacts))
            attested.accepted(found, accept, demands, when)
            if look is None or look.found != found or anew:
                look = self._looks[key] = self._look(record, found, weights)
        except (VerificationError, SourceError) as error:
            return str(error)
        return wrong(look)

    def _look(self, record: VersionRecord, found: tuple[bytes, ...], weights: Weights | None) -> _Look:
        """Raises SourceError for files that cannot be had, RegistryError if it is not known whether they can."""
        began = time.monotonic()
        with scratch_in(self.scratch) as folder:
            files = self.registry.artefacts.download(record.source, folder / "files")
            return _Look(at=began, found=found, files=attested.hashed(files, weights))


def _made(record: VersionRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created_at_ms / 1000, datetime.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A version that nothing vouches for, with a protected alias or in a release model; or one posing as a prompt."""

    record: VersionRecord
    reason: str
    alias: str = ""
    """Empty where it is about the version itself."""
    removed: bool = False
    lapsed: bool = False
    """Whether it is an alias `approved-...` of a release whose verdict has merely run out: old, and nobody's slip."""

    def __str__(self) -> str:
        """One line."""
        if not self.alias:
            return f"{self.record}: {self.reason}"
        done = "removed" if self.removed else "still there"
        return f"alias {self.alias} of {self.record.name} on version {self.record.version}: {self.reason}; {done}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AliasAudit:
    """Looks for what nobody should have put into the registry."""

    registry: Registry
    watched: Watched
    doubts: Doubts
    aliases: frozenset[str] = frozenset(("champion",))
    """Protected aliases, beside those that begin with `approved-`."""
    enforce: bool = False
    """Take a protected alias away from a version that nothing vouches for."""

    def concerns(self, record: VersionRecord) -> bool:
        """Whether it has to be asked what speaks for the version."""
        return bool(self._protected(record)) or POSING in record.tags or self.watched.is_release(record.name)

    def alerts(self, record: VersionRecord) -> list[Alert]:
        """Told at once: an alias that was taken away must be told of, whatever becomes of the pass.

        Raises RegistryDownError.
        """
        alerts = self._doubted(record)
        if POSING in record.tags:
            alerts.append(Alert(record=record, reason=f"its tag {POSING} hides the model from MLflow's own lists"))
        for alert in alerts:
            if alert.removed or not alert.lapsed:  # a lapsed one stays so, and is in the pass's result
                _LOGGER.log(logging.INFO if alert.lapsed else logging.WARNING, "%s", alert)
        return alerts

    def _protected(self, record: VersionRecord) -> list[str]:
        return [alias for alias in record.aliases if alias in self.aliases or alias.startswith(APPROVED)]

    def _doubted(self, record: VersionRecord) -> list[Alert]:
        """One for each protected alias, or one for a version of a release model without any."""
        if aliases := self._protected(record):
            reason, known = _asked(lambda: self.doubts.of_alias(record, anew=self.enforce))
            if not reason:
                return []
            lapsed = known and self._lapsed(record)
            alerts = [
                Alert(record=record, reason=reason, alias=alias, lapsed=lapsed and alias.startswith(APPROVED))
                for alias in aliases
            ]
            return [self._without(alert) for alert in alerts] if self.enforce and known else alerts
        if self.watched.is_release(record.name):
            reason, _ = _asked(lambda: self.doubts.of_release(record))
            said = f"only the gate should write to a release model: {reason}"
            return [Alert(record=record, reason=said)] if reason else []
        return []

    def _lapsed(self, record: VersionRecord) -> bool:
        """Whether the gate released it, on a verdict that has run out and was not taken back."""
        if not self.watched.is_release(record.name):
            return False
        reason, known = _asked(lambda: self.doubts.of_approval(record))
        return known and not reason

    def _without(self, alert: Alert) -> Alert:
        """Another look before the alias goes: it may have been moved to a good version meanwhile."""
        name = alert.record.name
        if self.registry.aliases(name).get(alert.alias) != alert.record.version:
            return alert
        self.registry.delete_alias(name, alert.alias)
        return replace(alert, removed=True)


def _asked(doubt: Callable[[], str]) -> tuple[str, bool]:
    """What is wrong with a version, and whether that is known: what cannot be checked is no reason to remove."""
    try:
        return doubt(), True
    except RegistryDownError:
        raise
    except RegistryError as error:
        return f"cannot be checked now: {error}", False
