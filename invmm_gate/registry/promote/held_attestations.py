"""Attestations that the registry holds already, and what they still say of a version's files as they are now.

One that holds spares a measurement, a new one is chained to that of the release, and one that does not hold any more is
a doubt about what is served.
"""

import datetime
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol, final

from invmm_gate.attest.demands import Demands
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import Statement
from invmm_gate.attest.verification import check_standing, open_statement
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.core.options import GateChoices
from invmm_gate.core.records import Weights
from invmm_gate.core.version import __version__
from invmm_gate.registry.client.artefacts import scratch_in
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.locations import SourceError
from invmm_gate.registry.client.registry_names import RUN, is_release, release_name
from invmm_gate.registry.promote import attested_files as attested
from invmm_gate.registry.promote.choices import Clock, demands_under, trusted_roots, utc_now
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.public_edition import PUBLIC_REPORT

RECHECK: Final = 3600.0
"""Seconds for which a version's files are believed to be those that were hashed; its verdict is checked each time."""

_Key = tuple[str, str, int, str, str, Weights | None]


def verdict_that_holds(
    registry: Registry, record: VersionRecord, inputs: Inputs, choices: GateChoices, *, now: datetime.datetime
) -> attested.Evidence | None:
    """A trusted pass or block on the same bytes, under the same policy, probe set and seed, that still stands."""
    roots = trusted_roots(choices)
    if roots is None:
        return None
    demands = demands_under(choices, roots)
    wanted = (inputs.policy.digest, inputs.probe_set.digest, inputs.seed)
    for envelope in attested.envelopes(record.source, record.tags, registry.artefacts):
        with suppress(VerificationError):
            checkpoint = Path(inputs.model.path)
            evidence = attested.evidence_for(checkpoint, envelope, roots, now=now, weights=choices.weights)
            check_standing(evidence.trusted, demands, now)
            said = evidence.statement
            found = (said.policy_digest, said.probe_set_digest, said.tested.seed)
            if found == wanted and _is_final(registry, record, said, choices):
                return evidence
    return None


def _is_final(registry: Registry, record: VersionRecord, said: Statement, choices: GateChoices) -> bool:
    """Whether judging again could not come out otherwise; waivers and baselines are no part of what is attested.

    What was signed for another version of the same files is signed again: attestation and audit log name this one.
    """
    if is_release(record.name, choices.release_name):
        return True
    if said.subject_name != record.file_label:
        return False
    unchanged = choices.waivers is None and choices.baseline is None and said.verifier_version == __version__
    return said.decision in ("pass", "block") and unchanged and _lies_in_our_run(registry, record, said)


def _lies_in_our_run(registry: Registry, record: VersionRecord, said: Statement) -> bool:
    """Whether the run that the version names, under which it would be released, is the gate's and has its report."""
    place = record.tags.get(RUN, "")
    if not place or not registry.uploads.is_ours(place.partition("/")[0]):
        return False
    report = registry.artefacts.read(f"runs:/{place}", PUBLIC_REPORT)
    return report is not None and sha256(report).hexdigest() == said.report_digest


def attestation_before(
    registry: Registry, name: str, choices: GateChoices, *, folder: Path, now: datetime.datetime
) -> Path | None:
    """The attestation of what the alias points at now, in a file; None if there is none that a trusted key signed."""
    roots = trusted_roots(choices)
    held = registry.alias(release_name(name, choices.release_name), choices.alias) if roots and choices.alias else None
    if roots is None or held is None:
        return None
    try:
        found = tuple(attested.envelopes(held.source, {}, registry.artefacts))
    except RegistryDownError:
        raise
    except RegistryError:  # a release whose files are gone is followed by nothing
        return None
    for envelope in found:
        with suppress(VerificationError):
            open_statement(envelope, roots, now=now)
            path = folder / ATTESTATION
            path.write_bytes(envelope)
            return path
    return None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The files of a version when it was downloaded."""

    at: float
    """Before that, by the monotonic clock."""
    found: tuple[bytes, ...]
    """Its attestations, of which at least one could do."""
    files: attested.HashedFiles


@final
class ByAttestation:
    """Believes what a trusted key signed for the version's files, and nothing else.

    Files are downloaded only where an attestation could cover them, and then remembered for a while, whether it did or
    not. What was right is believed meanwhile; what was wrong is looked into again once the attestations change.
    """

    def __init__(
        self,
        registry: Registry,
        demands: Callable[[], Demands],
        *,
        scratch: Path,
        recheck: float = RECHECK,
        now: Clock = utc_now,
    ) -> None:
        """`demands` are asked for each time; `recheck` is in seconds."""
        self._registry, self._demands, self._scratch, self._recheck = registry, demands, scratch, recheck
        self._now = now
        self._looks: dict[_Key, _Look] = {}

    def of_alias(self, record: VersionRecord, *, anew: bool = False) -> str:
        """A version without a pass under an accepted policy that holds now."""
        return self._doubt(record, attested.passing, self._now(), anew=anew)

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
        demands = self._demands()
        weights = demands.weights if accept is attested.passing else None
        key = (record.name, record.version, record.created_at_ms, record.source, record.tags.get(RUN, ""), weights)
        look = self._remembered(key)

        def wrong(look: _Look) -> str:
            try:
                attested.evidence_among(attested.accepted(look.found, accept, demands, when), look.files)
            except VerificationError as error:
                return str(error)
            return ""

        if look is not None and not wrong(look):
            return ""
        try:
            found = tuple(attested.envelopes(record.source, record.tags, self._registry.artefacts))
            attested.accepted(found, accept, demands, when)
            if look is None or look.found != found or anew:
                look = self._looks[key] = self._look(record, found, weights)
        except (VerificationError, SourceError) as error:
            return str(error)
        return wrong(look)

    def _look(self, record: VersionRecord, found: tuple[bytes, ...], weights: Weights | None) -> _Look:
        """Raises SourceError for files that cannot be had, RegistryError if it is not known whether they can."""
        began = time.monotonic()
        with scratch_in(self._scratch) as folder:
            files = self._registry.artefacts.download(record.source, folder / "files")
            return _Look(at=began, found=found, files=attested.hashed(files, weights))

    def _remembered(self, key: _Key) -> _Look | None:
        """Forgets all that is too old: versions that were deleted, or are not asked about any more, are among it."""
        now = time.monotonic()
        self._looks = {other: look for other, look in self._looks.items() if now - look.at < self._recheck}
        return self._looks.get(key)


def _made(record: VersionRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created_at_ms / 1000, datetime.UTC)
