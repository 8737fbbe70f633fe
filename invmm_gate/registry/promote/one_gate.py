"""One gate at a time: for a version, and for the same files under the same terms. The kernel frees a lock on death."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invmm_gate.core.errors import RegistryError


class SameFilesError(RegistryError):
    """Another process of this machine gates the same files."""


@contextmanager
def machine_lock(path: Path) -> Iterator[int | None]:
    """The lock's file descriptor, None if it is taken.

    A child that is given the descriptor keeps the lock for as long as it lives, also when this process is killed: a
    receiver that is started afterwards then waits for the child that was left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


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
