"""Attestations that hold for a version: each covers the version's own files as they are now."""

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, final

from invmm_gate.attest.demands import Demands
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.core.records import Weights
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.locations import SourceError
from invmm_gate.registry.client.names import RUN
from invmm_gate.registry.promote.choices import Clock, utc_now
from invmm_gate.registry.promote.evidence import (
    Accept,
    accepted,
    envelopes,
    evidence_among,
    once_passed,
    passed_then,
    passing,
)
from invmm_gate.registry.promote.version_digests import HashedFiles, hashed

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The files of a version when it was downloaded."""

    at: float
    """Before that, by the monotonic clock."""
    found: tuple[bytes, ...]
    """Its attestations, of which at least one could do."""
    files: HashedFiles


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
        demands = self._demands()
        return self._doubt(record, passing(demands, self._now()), demands.weights, anew=anew)

    def of_release(self, record: VersionRecord) -> str:
        """A version that never passed, or only by a key that was not trusted when the version was made or is revoked.

        A pass that expired, is too old, of another policy or revoked by itself is the gate's all the same.
        """
        return self._doubt(record, once_passed(self._demands(), _made(record)), None, anew=False)

    def of_approval(self, record: VersionRecord) -> str:
        """A version without a pass that met all demands but the policy's when it was signed, or with a revoked one."""
        return self._doubt(record, passed_then(self._demands(), _made(record)), None, anew=False)

    def _doubt(self, record: VersionRecord, accept: Accept, weights: Weights | None, *, anew: bool) -> str:
        key = (record.name, record.version, record.created_at_ms, record.source, record.tags.get(RUN, ""), weights)
        look = self._remembered(key)
        if look is not None and not _wrong(look, accept):
            return ""
        try:
            found = tuple(envelopes(record.source, record.tags, self._registry.artefacts))
            accepted(found, accept)
            if look is None or look.found != found or anew:
                look = self._remember(key, self._look(record, found, weights))
        except (VerificationError, SourceError) as error:
            return str(error)
        return _wrong(look, accept)

    def _look(self, record: VersionRecord, found: tuple[bytes, ...], weights: Weights | None) -> _Look:
        """Raises SourceError for files that cannot be had, RegistryError if it is not known whether they can."""
        began = time.monotonic()
        with _folder(self._scratch) as folder:
            files = self._registry.artefacts.download(record.source, folder / "files")
            return _Look(at=began, found=found, files=hashed(files, weights))

    def _remembered(self, key: _Key) -> _Look | None:
        look = self._looks.get(key)
        return look if look is not None and time.monotonic() - look.at < self._recheck else None

    def _remember(self, key: _Key, look: _Look) -> _Look:
        """Forgets all that is too old: versions that were deleted, or are not asked about any more, are among it."""
        for other in [other for other, old in self._looks.items() if look.at - old.at >= self._recheck]:
            del self._looks[other]
        self._looks[key] = look
        return look


def _made(record: VersionRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created_at_ms / 1000, datetime.UTC)


def _wrong(look: _Look, accept: Accept) -> str:
    try:
        evidence_among(look.found, accept, look.files)
    except VerificationError as error:
        return str(error)
    return ""


@contextmanager
def _folder(scratch: Path) -> Iterator[Path]:
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".aliased-", dir=scratch))
    except OSError as error:
        raise RegistryError(f"{scratch} cannot be written: {error.strerror}", do="free some space") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
