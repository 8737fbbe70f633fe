"""Whether the embeddings of a build fit into memory: found out before hours of reading, not after."""

import os
import resource
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError

_COPIES: Final = 2
"""All vectors, and those of one image a cluster, which the intrinsic dimension is estimated from."""
_CONTROL_GROUP: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The limit of a container, in versions 2 and 1."""


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
    for path in _CONTROL_GROUP:
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
