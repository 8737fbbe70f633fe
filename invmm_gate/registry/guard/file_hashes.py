"""Hashes of files that were hashed just now, for tags only: setting those of one verdict asks six times in a row."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.models.read.checkpoint_files import list_files
from invmm_gate.registry.promote.version_digests import inspected

_KEPT: Final = 8
_SETTLED: Final = 2.0
"""Seconds since the last change of a file after which another change is sure to get another time stamp."""

_Stamp = tuple[object, ...]


@final
@dataclass(frozen=True, slots=True)
class RecentHashes:
    """The manifests of a few folders, each for as long as no file in it has changed.

    A change shows in size, inode or ctime, which, unlike mtime, cannot be set back.
    """

    _found: OrderedDict[_Stamp, ModelManifest] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inspected(self, checkpoint: Path, weights: Weights | None) -> ModelManifest:
        """The manifest of the files as they are now. Raises ModelError."""
        stamp = (str(checkpoint), weights, *_files(checkpoint))
        with self._lock:
            if stamp in self._found:
                return self._found[stamp]
        manifest = inspected(checkpoint, weights)
        if _has_settled(checkpoint) and stamp == (str(checkpoint), weights, *_files(checkpoint)):
            with self._lock:
                self._found[stamp] = manifest
                while len(self._found) > _KEPT:
                    self._found.popitem(last=False)
        return manifest


def _files(checkpoint: Path) -> tuple[tuple[object, ...], ...]:
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    stats = ((path, (root / path).lstat()) for path in list_files(root))
    return tuple(
        (path, stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats
    )


def _has_settled(checkpoint: Path) -> bool:
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    newest = max((root / path).lstat().st_ctime for path in list_files(root))
    return time.time() - newest > _SETTLED
