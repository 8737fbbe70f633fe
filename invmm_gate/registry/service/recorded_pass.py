"""Without trust roots, what speaks for a version is the queue's own record of its pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from invmm_gate.registry.client.client import VersionRecord
from invmm_gate.registry.service.queue import Queue


@final
@dataclass(frozen=True, slots=True)
class ByRecord:
    """Believes this queue's own record of a pass under the terms of now, and nothing else.

    The record does not tell whether the version's files were changed afterwards; only an attestation does.
    """

    queue: Queue
    terms: Callable[[], str]

    def of_alias(self, record: VersionRecord, *, anew: bool = False) -> str:
        """Every version without such a record."""
        job = self.queue.find(record.name, record.version)
        same = job is not None and job.created_at_ms == record.created_at_ms and job.terms == self.terms()
        return "" if same and job is not None and job.outcome == "pass" else "no pass of ours on record"

    def of_approval(self, record: VersionRecord) -> str:
        """As `of_alias`, for the same reason."""
        return self.of_alias(record)

    def of_release(self, record: VersionRecord) -> str:
        """As `of_alias`: without trust roots nothing shows what the gate released."""
        return self.of_alias(record)
