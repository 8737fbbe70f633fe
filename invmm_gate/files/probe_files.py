"""Files of a probe set: read once without following links, written by temp + fsync + rename."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ProbeSetError

FILE_LIMIT: Final = 64_000_000
"""Bytes of an image file."""
_REASONS = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is missing",
    errno.ELOOP: "is a symbolic link",
    errno.EACCES: "may not be read by this user",
    errno.ENAMETOOLONG: "has a name that is too long",
}


def read_regular_file(path: Path, *, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes, read through one descriptor.

    Links are not followed, and a pipe or device is refused without waiting for it. Raises ProbeSetError.
    """
    size, data = _begin(path, limit, limit)
    if size > limit:
        raise ProbeSetError(f"{str(path)!r} has {size / 1e6:.1f} MB", expected=f"at most {limit / 1e6:.0f} MB")
    return data


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file of any size, as `read_regular_file` reads it. Raises ProbeSetError."""
    return _begin(path, count, None)[1][:count]


def _begin(path: Path, count: int, limit: int | None) -> tuple[int, bytes]:
    """The size of a regular file, and `count` bytes and one more; none of a file above the limit."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be opened ({error.strerror})")
        raise ProbeSetError(f"{str(path)!r} {reason}", expected="a regular file in the probe set's folder") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ProbeSetError(f"{str(path)!r} is a folder, pipe or device", expected="a regular file")
        # One byte more than allowed: a file that grows while it is read is refused too.
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = b"" if limit is not None and state.st_size > limit else file.read(count + 1)
    except OSError as error:
        raise ProbeSetError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)
    return max(state.st_size, len(data)), data


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or leave the old one as it was. Raises ProbeSetError."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ProbeSetError(
            f"{str(path)!r} cannot be written ({error.strerror})",
            expected="a folder that this user may write to, with room on the disk",
            do="what was there before is unchanged",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
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
