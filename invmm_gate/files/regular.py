"""Regular files: read through one descriptor up to a limit, and written as a whole or not at all."""

import errno
import os
import stat
import tempfile
from io import BufferedReader
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError, MeasurementError, ProbeSetError, RunFolderError

RECORDS_LIMIT: Final = 1_000_000_000
"""Bytes of a file of records."""
LINE_LIMIT: Final = 16_000_000
"""Bytes of one record: no inversion has so many tests that it comes near."""
IMAGE_LIMIT: Final = 64_000_000
"""Bytes of an image file."""
PRIVATE_MODES: Final = frozenset({0o600, 0o400})

_TEMPORARY: Final = ".tmp"
_SPECIAL: Final = "is a folder, pipe or device"
_REASONS: Final = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is missing",
    errno.ELOOP: "is a symbolic link",
    errno.EACCES: "may not be read by this user",
    errno.ENAMETOOLONG: "has a name that is too long",
}
_NO_BLOCK: Final = getattr(os, "O_NONBLOCK", 0)  # a FIFO would make a plain open wait for a writer
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)


def read_records(path: Path, *, limit: int = RECORDS_LIMIT) -> bytes:
    """All bytes of a file of a run. Raises RunFolderError for a pipe or device and above the limit; OSError."""
    try:
        state, data = _begin(path, limit, limit, follow_links=True)
    except SpecialFileError as error:
        raise RunFolderError(f"{path} {_SPECIAL}", expected="a file as this version writes it") from error
    size = max(state.st_size, len(data))
    if size > limit:
        raise RunFolderError(
            f"{path} has {size / 1e6:,.0f} MB",
            expected=f"at most {limit / 1e6:,.0f} MB, more than this version ever writes",
            do="restore the file, or start again with another --out",
        )
    return data


def whole_lines(path: Path) -> list[bytes]:
    """The file's complete lines; a last line that a crash cut off is not one. Raises RunFolderError for a huge one."""
    lines = read_records(path).split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_LIMIT:
            raise RunFolderError(
                f"{path}:{number} has {len(line) / 1e6:,.0f} MB",
                expected=f"records of at most {LINE_LIMIT / 1e6:,.0f} MB",
                do="restore the file, or start again with another --out",
            )
    return lines


def read_small(path: Path, *, what: str, limit: int, modes: frozenset[int] | None = None) -> bytes:
    """The file's bytes. Raises ConfigError for a missing, special or larger file, or one with none of the `modes`."""
    try:
        state, data = _begin(path, limit, limit, follow_links=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} {_reason(error)}", expected=what) from error
    if modes is not None and stat.S_IMODE(state.st_mode) not in modes:
        raise ConfigError(
            f"{str(path)!r} has mode {stat.S_IMODE(state.st_mode):04o}",
            expected="a file that only its owner can read: mode 0600 or 0400",
            do=f"chmod 600 {path}, and make a new key or secret if others could read this one",
        )
    if max(state.st_size, len(data)) > limit:
        raise ConfigError(f"{str(path)!r} is larger than {limit} bytes", expected=what)
    return data


def read_probe_file(path: Path, *, limit: int) -> bytes:
    """All bytes of a file of a probe set, of at most `limit` bytes. Links are not followed. Raises ProbeSetError."""
    state, data = _begin_probe_file(path, limit, limit)
    size = max(state.st_size, len(data))
    if size > limit:
        raise ProbeSetError(f"{str(path)!r} has {size / 1e6:.1f} MB", expected=f"at most {limit / 1e6:.0f} MB")
    return data


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of a file of any size, as `read_probe_file` reads it. Raises ProbeSetError."""
    return _begin_probe_file(path, count, None)[1][:count]


def _begin_probe_file(path: Path, count: int, limit: int | None) -> tuple[os.stat_result, bytes]:
    try:
        return _begin(path, count, limit, follow_links=False)
    except (OSError, ValueError) as error:
        raise ProbeSetError(f"{str(path)!r} {_reason(error)}", expected="a regular file, not a link") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "has a NUL in its name"
    if isinstance(error, SpecialFileError):
        return _SPECIAL
    return _REASONS.get(error.errno or 0, f"cannot be read ({error.strerror})")


class SpecialFileError(OSError):
    """What was opened is no regular file."""


def open_regular(path: Path, *, follow_links: bool) -> BufferedReader:
    """Open a regular file, without waiting for the writer of a pipe. Raises SpecialFileError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | _NO_BLOCK | (0 if follow_links else _NO_FOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SpecialFileError(errno.EINVAL, _SPECIAL)
    return os.fdopen(descriptor, "rb")


def _begin(path: Path, count: int, limit: int | None, *, follow_links: bool) -> tuple[os.stat_result, bytes]:
    """The state of a regular file, and `count` bytes and one more; none of a file above the limit. Raises OSError."""
    with open_regular(path, follow_links=follow_links) as file:
        state = os.fstat(file.fileno())
        # One byte more than allowed: a file that grows while it is read is refused too.
        return state, b"" if limit is not None and state.st_size > limit else file.read(count + 1)


def write_whole(path: Path, content: str | bytes, *, option: str = "--out") -> None:
    """Write a file and its folder; a crash leaves the old file or the new one. Raises as `explained` says.

    `option`: the one that names another place.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as error:
        raise explained(error, path, needed=len(data), option=option) from error


def write_probe_file(path: Path, data: bytes) -> None:
    """Write a whole file of a probe set or leave the old one as it was. Raises ProbeSetError."""
    try:
        _replace(path, data)
    except OSError as error:
        raise ProbeSetError(
            f"{str(path)!r} cannot be written ({error.strerror})",
            expected="a folder that this user may write to, with room on the disk",
            do="what was there before is unchanged",
        ) from error


def _replace(path: Path, data: bytes) -> None:
    """Through a temporary file, fsync and rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: Path, line: str) -> None:
    """Append one whole line and flush it to the disk."""
    data = line.encode() + b"\n"
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explained(error, path, needed=len(data)) from error


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, before appending to the file again."""
    if not path.exists():
        return
    data = read_records(path)
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)  # needs no room, unlike a new file: the disk may still be full


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote. Only for the holder of the folder."""
    for leftover in folder.rglob(f".*{_TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def explained(
    error: OSError, path: Path, *, needed: int | None = None, option: str = "--out"
) -> MeasurementError | RunFolderError:
    """What a file that could not be written means: a full disk leaves the run unfinished (11), all else is a slip (2).

    `needed`: bytes that were to be written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MeasurementError(
            f"the disk is full: {path} could not be written{'' if needed is None else f', which takes {needed} bytes'}",
            expected="free space for the run folder",
            do="free some and give the same command again; what was measured is kept",
        )
    return RunFolderError(
        f"{path} cannot be written: {error.strerror or error}",
        expected="a place that this user can write to",
        do=f"give another {option}",
    )


def unreadable(error: OSError, path: Path) -> RunFolderError:
    """What a file of a run that could not be read means."""
    return RunFolderError(
        f"{path} cannot be read: {error.strerror or error}",
        expected="a file of a run that this user can read",
        do="correct its permissions, or name another run",
    )
