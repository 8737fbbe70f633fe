"""Embeddings of images by their content, in two files that only grow, and whether those of a build fit into memory."""

import os
import resource
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, final

import numpy as np

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.curation.neighbours import Vectors

_KEY: Final = 32
"""Bytes of a sha256."""
_COPIES: Final = 2
"""In memory at once: all vectors, and those of one image a cluster, which give the intrinsic dimension."""
_CONTAINER_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, in versions 2 and 1 of control groups."""


@final
class EmbeddingStore:
    """`<identity>.keys` holds the sha256 of a file beside that of its pixels; `<identity>.vectors` one row for pixels.

    Rows are in the order in which their pixels first came, and written before the keys: a store that was cut off holds
    whole entries and a tail, which is dropped.
    """

    def __init__(self, folder: Path, *, identity: str, width: int) -> None:
        self._bytes = width * 4
        self._width = width
        self._pixels: dict[bytes, bytes] = {}
        self._rows: dict[bytes, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keys = open(folder / f"{identity}.keys", "a+b")  # noqa: SIM115  (closed by `close`)
            self._vectors = open(folder / f"{identity}.vectors", "a+b")  # noqa: SIM115
            self._load()
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._folder = folder

    def pixels_of(self, sha256: bytes) -> bytes | None:
        """The sha256 of the pixels of a file that was seen before."""
        return self._pixels.get(sha256)

    def holds(self, pixels: bytes) -> bool:
        """Whether these pixels were embedded."""
        return pixels in self._rows

    def add(self, files: Sequence[tuple[bytes, bytes]], pixels: Sequence[bytes], vectors: Vectors) -> None:
        """Keep the vectors of new pixels, then which files show which pixels."""
        try:
            self._vectors.write(np.ascontiguousarray(vectors, np.float32).tobytes())
            self._vectors.flush()
            new = [(sha256, shown) for sha256, shown in files if sha256 not in self._pixels]
            self._keys.write(b"".join(sha256 + shown for sha256, shown in new))
            self._keys.flush()
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        self._rows |= {shown: row for row, shown in enumerate(pixels, start=len(self._rows))}
        self._pixels |= dict(new)

    def vectors(self, pixels: Sequence[bytes]) -> Vectors:
        """One row for each of the pixels, in memory."""
        stored = np.memmap(self._vectors.name, np.float32, mode="r", shape=(len(self._rows), self._width))
        rows = np.fromiter((self._rows[shown] for shown in pixels), np.int64, len(pixels))
        gathered = np.empty((len(rows), self._width), np.float32)
        for start in range(0, len(rows), 4096):
            gathered[start : start + 4096] = stored[rows[start : start + 4096]]
        return gathered

    def close(self) -> None:
        """Close both files."""
        self._keys.close()
        self._vectors.close()

    def _load(self) -> None:
        self._keys.seek(0)
        content = self._keys.read()
        complete = os.fstat(self._vectors.fileno()).st_size // self._bytes
        kept = 0
        for start in range(0, len(content) - 2 * _KEY + 1, 2 * _KEY):
            sha256, shown = content[start : start + _KEY], content[start + _KEY : start + 2 * _KEY]
            if self._rows.setdefault(shown, len(self._rows)) >= complete:
                del self._rows[shown]
                break
            self._pixels[sha256] = shown
            kept = start + 2 * _KEY
        self._keys.truncate(kept)
        self._vectors.truncate(len(self._rows) * self._bytes)


def _unwritable(folder: Path, error: OSError) -> ProbeSetError:
    return ProbeSetError(
        f"embeddings cannot be kept in {str(folder)!r} ({error.strerror})",
        expected="a folder to write to, with room for them",
        do="name one with --cache FOLDER",
    )


def check_memory(count: int, *, size: int, width: int, available: int | None = None) -> None:
    """Raises ConfigError where the vectors of `count` images exceed the memory (by default what there is now)."""
    available = _available() if available is None else available
    needed = _COPIES * 4 * count * width
    if needed > available:
        raise ConfigError(
            f"the vectors of {count:,} images, compared at {size} x {size} pixels, need {needed / 1e9:,.1f} GB",
            expected=f"at most the {available / 1e9:,.1f} GB of memory that are free",
            do="compare at a smaller --size, with SSCD (--metric sscd_disc_large), or build from a sample",
        )


def _available() -> int:
    """Bytes that this process may still take."""
    return min(_limits())


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _fields(Path("/proc/meminfo")).get("MemAvailable:")
    if free is not None:
        yield int(free) * 1024
    for path in _CONTAINER_LIMITS:
        yield from (int(word) for word in _words(path) if word.isdigit())
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        taken = _fields(Path("/proc/self/status")).get("VmSize:", "0")
        yield max(address_space - int(taken) * 1024, 0)


def _fields(path: Path) -> dict[str, str]:
    """Each word -> the one after it."""
    words = _words(path)
    return dict(pairwise(words))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # another system: the other limits hold
        return []
