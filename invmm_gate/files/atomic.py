"""Files that are either there as a whole or not at all."""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import MeasurementError, RunFolderError

FILE_LIMIT: Final = 1_000_000_000
"""Bytes of a file of records."""
LINE_LIMIT: Final = 16_000_000
"""Bytes of one record: no inversion has so many tests that it comes near."""
_TEMPORARY: Final = ".tmp"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write through a temporary file, fsync and rename, so a crash leaves the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        _sync_folder(path.parent)
    except OSError as error:
        raise explained(error, path, needed=len(data)) from error


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


def read_whole(path: Path, *, limit: int = FILE_LIMIT) -> bytes:
    """All bytes of a regular file. Raises RunFolderError for a pipe or device and above the limit; OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", closefd=True) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise RunFolderError(f"{path} is a pipe or device", expected="a file as this version writes it")
        data = file.read(limit + 1) if state.st_size <= limit else b""
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
    lines = read_whole(path).split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_LIMIT:
            raise RunFolderError(
                f"{path}:{number} has {len(line) / 1e6:,.0f} MB",
                expected=f"records of at most {LINE_LIMIT / 1e6:,.0f} MB",
                do="restore the file, or start again with another --out",
            )
    return lines


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, before appending to the file again."""
    if not path.exists():
        return
    data = read_whole(path)
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)  # needs no room, unlike a new file: the disk may still be full


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote. Only for the holder of the folder."""
    for leftover in folder.rglob(f".*{_TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def explained(error: OSError, path: Path, *, needed: int | None = None) -> MeasurementError | RunFolderError:
    """A full disk leaves the run unfinished (11); any other refusal is a bad run folder (2).

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
        expected="a run folder that can be written",
        do="give another --out",
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
