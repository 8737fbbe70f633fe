"""One gate a version, also with several receivers: a claim written to the version itself, as a tag.

The registry has no compare-and-set, so the last writer wins: look, write, wait, read back. Of two that both looked
while no claim was there, the one whose text is read back goes on. A write that took longer than that wait could fall
behind another's reading back; whoever was so slow waits for half a lease instead, within which a holder renews its
claim and so takes it back. Two gates can then run at once only if a holder loses the registry for longer than that, or
if the machines' clocks differ by more than a lease. MLflow answers with an error to one of two that set a new tag at
the same moment; that one tries again later.

A claim is signed with the webhook secret, and bound to the very version: whoever may edit tags could otherwise keep a
version from being gated. What is not signed counts as absent, and so does an end under other terms. That another
receiver's work ended with a pass is believed only of a version that something vouches for. Receivers without a common
secret do not see each other's claims and each start the gate.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, final

from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.names import CLAIM
from invmm_gate.registry.client.webhook_signature import Secrets

ENDED: Final = ("pass", "block", "inconclusive", "bad_input")
_PURPOSE: Final = b"invmm-gate claim v1"
"""Keeps a claim's signature from being one of a webhook delivery, which is made with the same secret."""
_FIELDS: Final = 5
_LONGEST_LEASE: Final = 3600.0
"""Seconds; a claim that is to last longer was made by a clock far ahead, and would keep everybody away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who works on a version, and until when; or what somebody's work on it ended with."""

    owner: str
    until: float
    """Seconds since 1970; 0 once it has ended."""
    outcome: str = ""
    """One of ENDED, or empty while it runs."""
    terms: str = ""
    """What it was judged under; empty while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a version stands after a try to claim it."""

    state: Literal["held", "elsewhere", "ended", "gone"]
    """held = by us; elsewhere = somebody else works on it; ended = somebody else has; gone = no such version."""
    record: VersionRecord | None = None
    outcome: str = ""
    until: float = 0.0
    terms: str = ""
    """Those that the version is to be judged under."""


@final
class Claims:
    """Claims of one owner in one registry; every method raises RegistryError where it does not answer."""

    def __init__(
        self,
        registry: Registry,
        secrets: Secrets,
        owner: str,
        *,
        vouched: Callable[[VersionRecord], bool],
        lease: float = 120.0,
        settle: float = 2.0,
    ) -> None:
        """`lease` and `settle` are seconds; every receiver of a registry should be given the same `settle`.

        `vouched` says whether a pass that another receiver tells of is proved.
        """
        self._registry, self._secrets, self._owner, self._vouched = registry, secrets, owner, vouched
        self._lease, self._settle = lease, settle

    def take(self, name: str, version: str, wait: Callable[[float], object], *, terms: str) -> Standing:
        """Claim the version, unless somebody holds it or has ended it under these terms. `wait` sleeps for seconds."""
        began = time.monotonic()
        record = self._registry.version(name, version)
        if record is None:
            return Standing(state="gone")
        taken = self._of_another(record, terms)
        if taken is not None:
            return taken
        until = self._hold(record)
        slow = time.monotonic() - began > self._settle
        wait(max(self._settle, self._lease / 2) if slow else self._settle)
        return self._read_back(name, version, until, terms)

    def _read_back(self, name: str, version: str, until: float, terms: str) -> Standing:
        record = self._registry.version(name, version)
        if record is None:
            return Standing(state="gone")
        claim = self._claim(record)
        if claim is not None and claim.owner == self._owner and not claim.outcome:
            return Standing(state="held", record=record, until=until, terms=terms)
        return self._of_another(record, terms) or Standing(state="elsewhere", until=time.time())

    def renew(self, held: Standing) -> Standing:
        """Hold the claim longer, unless it ran out and somebody else has it, or the version was deleted."""
        name, version = (held.record.name, held.record.version) if held.record else ("", "")
        record = self._registry.version(name, version)
        if record is None:
            return Standing(state="gone")
        taken = self._of_another(record, held.terms)
        if taken is not None and time.time() > held.until:
            return taken
        return Standing(state="held", record=record, until=self._hold(record), terms=held.terms)

    def _hold(self, record: VersionRecord) -> float:
        until = time.time() + self._lease
        self._write(record, Claim(owner=self._owner, until=until))
        return until

    def end(self, record: VersionRecord, outcome: str, *, terms: str) -> None:
        """Say what the work ended with; an outcome that is not one of ENDED only lets go of the claim."""
        if outcome in ENDED:
            self._write(record, Claim(owner=self._owner, until=0, outcome=outcome, terms=terms))
        else:
            self._registry.delete_tag(record.name, record.version, CLAIM)

    def _of_another(self, record: VersionRecord, terms: str) -> Standing | None:
        """How the version stands by a claim that keeps us away; None if it is free."""
        claim = self._claim(record)
        if claim is None:
            return None
        if claim.outcome:
            believed = claim.terms == terms and (claim.outcome != "pass" or self._vouched(record))
            return Standing(state="ended", record=record, outcome=claim.outcome, terms=terms) if believed else None
        now = time.time()
        if claim.owner == self._owner or not now < claim.until <= now + _LONGEST_LEASE:
            return None
        return Standing(state="elsewhere", until=claim.until)

    def _claim(self, record: VersionRecord) -> Claim | None:
        """The claim on the version, if somebody who knows the secret made it for this very version."""
        text, _, given = record.tags.get(CLAIM, "").rpartition(" ")
        right = [hmac.compare_digest(given.encode(), _mac(key, record, text).encode()) for key in self._secrets.keys]
        parts = text.split(" ")
        if not any(right) or len(parts) != _FIELDS or parts[0] != "v2":
            return None
        return Claim(
            owner=parts[1], until=float(parts[2]), outcome=parts[3] if parts[3] in ENDED else "", terms=parts[4]
        )

    def _write(self, record: VersionRecord, claim: Claim) -> None:
        text = f"v2 {claim.owner} {claim.until:.3f} {claim.outcome or '-'} {claim.terms or '-'}"
        value = f"{text} {_mac(self._secrets.keys[0], record, text)}"
        self._registry.set_tags(record.name, record.version, {CLAIM: value})


def _mac(key: bytes, record: VersionRecord, text: str) -> str:
    content = "\n".join((record.name, record.version, str(record.created_at_ms), text))
    mac = hmac.digest(hmac.digest(key, _PURPOSE, hashlib.sha256), content.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode()
