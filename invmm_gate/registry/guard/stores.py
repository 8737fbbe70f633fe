"""The registry as its own server sees it: the stores behind the routes, without HTTP in between."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.files.scratch import scratch_folder
from invmm_gate.models.read.checkpoint_files import list_files
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client.artefacts import Artefacts
from invmm_gate.registry.client.client import VersionRecord, find_version
from invmm_gate.registry.client.connection import asked
from invmm_gate.registry.client.locations import Places, Repository, locate
from invmm_gate.registry.client.registry_names import folded

_STORE: Final = "mlflow-artifacts:/"
_HERE: Final = "this server"
_KEPT: Final = 8
_SETTLED: Final = 2.0
"""Seconds since the last change of a file after which another change is sure to get another time stamp."""

_Stamp = tuple[object, ...]


def server_artefacts() -> Artefacts:
    """The artefact store as the server reaches it."""
    return Artefacts(_HERE, _places())


def _places() -> Places:
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR

    own = os.environ.get(ARTIFACT_ROOT_ENV_VAR, "").removeprefix("file://")
    local = (Path(own),) if own.startswith("/") else ()
    return Places(tracking=_tracking, version=version_here, repository=_repository, local_roots=local)


def _repository(location: str) -> Repository:
    """The files there: those that the server hands out, or a folder of this machine."""
    from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if location.startswith(_STORE):
        return Repository(_get_artifact_repo_mlflow_artifacts(), location.removeprefix(_STORE))
    return Repository(get_artifact_repository(location))


def version_here(name: str, version: str) -> VersionRecord | None:
    """The version as the store has it; None if there is none."""
    return find_version(_registry(), name, version)


def is_prompt(name: str) -> bool:
    """Whether MLflow made this registered model for a prompt."""
    return bool(_registry().get_registered_model(name)._is_prompt())  # the public tags leave it out


def drop_alias(name: str, alias: str, version: str) -> None:
    """Take the alias away if it points at this version, as the database spells it."""
    for stored, target in aliases_of(name).items():
        if folded(stored) == folded(alias) and target == version:
            _registry().delete_registered_model_alias(name, stored)


def drop_tag(name: str, version: str, key: str) -> None:
    """Take the tag away."""
    _registry().delete_model_version_tag(name, version, key)


def drop_stage(name: str, version: str) -> None:
    """Take the version out of its stage."""
    _registry().transition_model_version_stage(name, version, "None", False)


def aliases_of(name: str) -> dict[str, str]:
    """Alias -> version number of a registered model."""
    return {str(alias): str(version) for alias, version in _registry().get_registered_model(name).aliases.items()}


@contextmanager
def files_of(record: VersionRecord) -> Iterator[Path]:
    """The version's files: where they lie on this machine's disk, else as a download that is gone afterwards."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    places = _places()
    with asked(_HERE, f"read the files of {record.label}"):
        found = places.repository(locate(record.source, places))
    if isinstance(found.store, LocalArtifactRepository):
        yield Path(found.store.artifact_dir) / found.base
        return
    with scratch_folder() as scratch:
        yield server_artefacts().download(record.source, scratch / "files")


def _registry() -> Any:
    from mlflow.server.handlers import _get_model_registry_store

    return _get_model_registry_store()


def _tracking() -> Any:
    from mlflow.server.handlers import _get_tracking_store

    return _get_tracking_store()


@final
@dataclass(frozen=True, slots=True)
class RecentHashes:
    """The manifests of a few folders, each for as long as no file in it has changed, for tags only.

    Setting the tags of one verdict asks six times in a row. A change shows in size, inode or ctime, which, unlike
    mtime, cannot be set back.
    """

    _found: OrderedDict[_Stamp, ModelManifest] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inspected(self, checkpoint: Path, *, weights: Weights | None) -> ModelManifest:
        """The manifest of the files as they are now. Raises ModelError."""
        stamp, newest = _stamp(checkpoint, weights)
        with self._lock:
            if stamp in self._found:
                return self._found[stamp]
        manifest = inspect_checkpoint(checkpoint, weights=weights)
        if time.time() - newest > _SETTLED and _stamp(checkpoint, weights)[0] == stamp:
            with self._lock:
                self._found[stamp] = manifest
                while len(self._found) > _KEPT:
                    self._found.popitem(last=False)
        return manifest


def _stamp(checkpoint: Path, weights: Weights | None) -> tuple[_Stamp, float]:
    """What a change of any file shows in, and when the last change was, in seconds since 1970."""
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    stats = {path: (root / path).lstat() for path in list_files(root)}
    states = ((path, st.st_size, st.st_dev, st.st_ino, st.st_mtime_ns, st.st_ctime_ns) for path, st in stats.items())
    return (str(checkpoint), weights, *states), max((stat.st_ctime for stat in stats.values()), default=0.0)
