"""What may carry a protected alias: a version whose own files an attestation covers, as they are now."""

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from invmm_gate.errors import RegistryError, VerificationError
from invmm_gate.registry.client import Registry, VersionRecord
from invmm_gate.registry.evidence import Demands, Evidence, envelopes, evidence_that_promotes, no_evidence
from invmm_gate.registry.places import SourceError
from invmm_gate.registry.reconcile import Doubt

RECHECK: Final = 3600.0
"""Seconds for which a version's files are believed to be those that were hashed; its verdict is checked each time."""


def doubt_by_attestation(
    registry: Registry, demands: Callable[[], Demands], *, scratch: Path, recheck: float = RECHECK
) -> Doubt:
    """Believes a signed pass for the version's files under an accepted policy, and nothing else.

    Only what is wrong with the version itself is a doubt. A full disk here, or a store that does not hand out the
    files, is a RegistryError.
    """
    verified: dict[tuple[str, str, int], tuple[float, Evidence]] = {}

    def doubt(record: VersionRecord) -> str:
        key = (record.name, record.version, record.created_at_ms)
        hashed, evidence = verified.get(key, (0.0, None))
        try:
            if evidence is None or time.monotonic() - hashed >= recheck:
                verified[key] = time.monotonic(), _verify(registry, record, demands(), scratch)
            else:
                evidence.require_pass(demands(), datetime.datetime.now(datetime.UTC))
        except (VerificationError, SourceError) as error:
            verified.pop(key, None)
            return str(error)
        return ""

    return doubt


def _verify(registry: Registry, record: VersionRecord, demands: Demands, scratch: Path) -> Evidence:
    """Raises VerificationError or SourceError unless an attestation holds, RegistryError if that is not known."""
    found = tuple(envelopes(record.source, record.tags, registry.artefacts))
    if not found:
        raise no_evidence()
    with _folder(scratch) as folder:
        files = registry.artefacts.download(record.source, folder / "files")
        return evidence_that_promotes(files, found, demands, now=datetime.datetime.now(datetime.UTC))


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
