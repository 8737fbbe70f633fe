"""The alias audit: protected aliases and releases that nothing vouches for, and versions that pose as prompts."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, final

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.registry_names import APPROVED, POSING, Watched
from invmm_gate.registry.promote.held_attestations import Doubts
from invmm_gate.registry.service.ledger import Ledger

_LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A version that nothing vouches for, with a protected alias or in a release model; or one posing as a prompt."""

    name: str
    version: str
    alias: str
    """Empty where it is about the version itself."""
    reason: str
    removed: bool
    lapsed: bool = False
    """Whether it is an alias `approved-...` of a release whose verdict has merely run out: old, and nobody's slip."""

    def __str__(self) -> str:
        """One line."""
        if not self.alias:
            return f"{self.name} version {self.version}: {self.reason}"
        done = "removed" if self.removed else "still there"
        return f"alias {self.alias} of {self.name} on version {self.version}: {self.reason}; {done}"


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
            alerts.append(_alert(record, "", f"its tag {POSING} hides the model from MLflow's own lists"))
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
            alerts = [_alert(record, alias, reason, lapsed=lapsed and alias.startswith(APPROVED)) for alias in aliases]
            return [self._without(alert) for alert in alerts] if self.enforce and known else alerts
        if self.watched.is_release(record.name):
            reason, _ = _asked(lambda: self.doubts.of_release(record))
            said = f"only the gate should write to a release model: {reason}"
            return [_alert(record, "", said)] if reason else []
        return []

    def _lapsed(self, record: VersionRecord) -> bool:
        """Whether the gate released it, on a verdict that has run out and was not taken back."""
        if not self.watched.is_release(record.name):
            return False
        reason, known = _asked(lambda: self.doubts.of_approval(record))
        return known and not reason

    def _without(self, alert: Alert) -> Alert:
        """Another look before the alias goes: it may have been moved to a good version meanwhile."""
        if self.registry.aliases(alert.name).get(alert.alias) != alert.version:
            return alert
        self.registry.delete_alias(alert.name, alert.alias)
        return replace(alert, removed=True)


def _alert(record: VersionRecord, alias: str, reason: str, *, lapsed: bool = False) -> Alert:
    return Alert(name=record.name, version=record.version, alias=alias, reason=reason, removed=False, lapsed=lapsed)


def _asked(doubt: Callable[[], str]) -> tuple[str, bool]:
    """What is wrong with a version, and whether that is known: what cannot be checked is no reason to remove."""
    try:
        return doubt(), True
    except RegistryDownError:
        raise
    except RegistryError as error:
        return f"cannot be checked now: {error}", False
