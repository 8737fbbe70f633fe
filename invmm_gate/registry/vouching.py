"""What may carry a protected alias: a version whose own files an attestation covers, as they are now."""

import datetime
import tempfile
import time
from pathlib import Path
from typing import Final

from invmm_gate.errors import GateError, VerificationError
from invmm_gate.registry.client import Registry, VersionRecord
from invmm_gate.registry.connection import RegistryDownError
from invmm_gate.registry.evidence import Demands, envelopes, evidence_for, no_evidence
from invmm_gate.registry.reconcile import Doubt

RECHECK: Final = 3600.0
"""Seconds for which a version that was verified is believed: its files are downloaded and hashed each time."""


def doubt_by_attestation(registry: Registry, demands: Demands, *, scratch: Path, recheck: float = RECHECK) -> Doubt:
    """Believes a signed pass for the version's files under an accepted policy, and nothing else."""
    verified: dict[tuple[str, str, int], float] = {}

    def doubt(record: VersionRecord) -> str:
        key = (record.name, record.version, record.created_at_ms)
        if key in verified and time.monotonic() - verified[key] < recheck:
            return ""
        try:
            _verify(registry, record, demands, scratch)
        except RegistryDownError:
            raise
        except GateError as error:  # a source that leads nowhere must not end the pass over all other versions
            verified.pop(key, None)
            return str(error)
        verified[key] = time.monotonic()
        return ""

    return doubt


def _verify(registry: Registry, record: VersionRecord, demands: Demands, scratch: Path) -> None:
    """Raises VerificationError with what is wrong with the last attestation, unless one of them holds."""
    now = datetime.datetime.now(datetime.UTC)
    wrong = no_evidence()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".aliased-", dir=scratch) as folder:
        for number, envelope in enumerate(envelopes(record.source, record.tags, registry.artefacts)):
            checkpoint = registry.download(record, Path(folder) / f"files-{number}")
            try:
                evidence = evidence_for(checkpoint, envelope, demands.roots, now=now, weights=demands.weights)
                evidence.require_pass(demands, now)
            except VerificationError as error:
                wrong = error
            else:
                return
    raise wrong
