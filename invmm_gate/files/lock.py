"""Locks: one process a run folder, one writer a probe set. The kernel frees a lock when its holder dies."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ProbeSetError, RunFolderError
from invmm_gate.files.regular import explained, write_whole

_LOCK: Final = ".lock"
_HOLDER: Final = ".lock-holder"
_LOOKERS_GONE_WITHIN: Final = 0.5
"""Seconds. Who looks holds the lock for microseconds, and must not keep a run from starting."""
_ASKED_EVERY: Final = 0.01


@contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be. Raises RunFolderError within a second if another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        _hold(handle, folder)
        write_whole(folder / _HOLDER, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        os.close(handle)


def refuse_locked(folder: Path) -> None:
    """Raise RunFolderError at once if another process holds the folder. Writes nothing."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explained(error, folder) from error
    try:
        if not _locked(handle, folder, shared=True):
            raise _in_use(folder)
    finally:
        os.close(handle)


@contextmanager
def probe_set_lock(folder: Path) -> Iterator[None]:
    """One writer at a time; a second one waits. The kernel frees the lock when its holder dies.

    The folder itself is locked, so that no lock file becomes part of a probe set under version control.
    """
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ProbeSetError(
            f"probe set {str(folder)!r} cannot be opened ({error.strerror})",
            expected="a folder",
            do=f"create it with `invmm-gate probes init {folder}`",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(handle: int, folder: Path) -> None:
    until = time.monotonic() + _LOOKERS_GONE_WITHIN
    while not _locked(handle, folder, shared=False):
        if time.monotonic() > until:
            raise _in_use(folder)
        time.sleep(_ASKED_EVERY)


def _locked(handle: int, folder: Path, *, shared: bool) -> bool:
    """Take the lock without waiting; False if another process has it. Raises RunFolderError where there are none."""
    import fcntl  # not on Windows, where `verify` works without a run folder

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # ENOSYS, ENOLCK, EOPNOTSUPP: some network and user-space file systems
        raise RunFolderError(
            f"{folder} cannot be locked: {error.strerror or error}",
            expected="a file system with locks, as every local one has, so that no two runs mix in one folder",
            do="give an --out on a local disk",
        ) from error
    return True


def _in_use(folder: Path) -> RunFolderError:
    holder = folder / _HOLDER
    return RunFolderError(
        f"{folder} is in use by {holder.read_text() if holder.exists() else 'another process'}",
        expected="a folder that no other run uses",
        do="wait for that run, or give another --out",
    )
