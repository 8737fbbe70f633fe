"""One gate at a time for the same files under the same terms: what it measures counts for every version of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.promote.gate_process import machine_lock


class SameFilesError(RegistryError):
    """Another process of this machine gates the same files."""


@contextmanager
def alone(runs: Path, name: str) -> Iterator[None]:
    """Hold the run folders of this name, from before the measurement until the verdict is sent.

    A run folder's own lock is let go between its stages, and a second gate would then take the attestation away that
    the first one is about to send. Raises SameFilesError at once if another process holds them.
    """
    with machine_lock(runs / f".{name}.lock") as lock:
        if lock is None:
            raise SameFilesError(
                "another process gates a version with the same files, under the same terms",
                expected="one at a time, as they are measured once",
                do="gate this version again when that one has its verdict",
            )
        yield
