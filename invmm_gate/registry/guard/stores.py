"""The registry as its own server sees it: the stores behind the routes, without HTTP in between."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from invmm_gate.registry.client.artefacts import Artefacts
from invmm_gate.registry.client.client import VersionRecord, record_of
from invmm_gate.registry.client.connection import asked, is_missing
from invmm_gate.registry.client.locations import Repository, locate
from invmm_gate.registry.client.names import folded

_STORE: str = "mlflow-artifacts:/"
_HERE: str = "this server"


@final
@dataclass(frozen=True, slots=True)
class ServerPlaces:
    """Asks the stores of the server that this process is."""

    def logged_model(self, model_id: str) -> str:
        """The location of a logged model's files."""
        return str(_tracking().get_logged_model(model_id).artifact_location)

    def run(self, run_id: str) -> str:
        """The location of a run's artefacts."""
        return str(_tracking().get_run(run_id).info.artifact_uri)

    def version_source(self, name: str, version: str) -> str | None:
        """The source that a version names."""
        found = find_version(name, version)
        return None if found is None else found.source

    def repository(self, location: str) -> Repository:
        """The files there: those that the server hands out, or a folder of this machine."""
        from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if location.startswith(_STORE):
            return Repository(_get_artifact_repo_mlflow_artifacts(), location.removeprefix(_STORE))
        return Repository(get_artifact_repository(location))

    @property
    def local_roots(self) -> tuple[Path, ...]:
        """The server's own artefact folder, where it is one."""
        from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR

        root = os.environ.get(ARTIFACT_ROOT_ENV_VAR, "")
        local = root.removeprefix("file://")
        return (Path(local),) if local.startswith("/") else ()


def server_artefacts() -> Artefacts:
    """The artefact store as the server reaches it."""
    return Artefacts(_HERE, ServerPlaces())


def find_version(name: str, version: str) -> VersionRecord | None:
    """The version as the store has it; None if there is none."""
    try:
        return record_of(_registry().get_model_version(name, version))
    except Exception as error:
        if is_missing(error):
            return None
        raise


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
    places = ServerPlaces()
    with asked(_HERE, f"read the files of {record.label}"):
        folder = _local_folder(places.repository(locate(record.source, places)))
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="invmm-gate-guard-") as scratch:
        yield server_artefacts().download(record.source, Path(scratch) / "files")


def _local_folder(repository: Repository) -> Path | None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not isinstance(repository.store, LocalArtifactRepository):
        return None
    return Path(repository.store.artifact_dir) / repository.base


def _registry() -> Any:
    from mlflow.server.handlers import _get_model_registry_store

    return _get_model_registry_store()


def _tracking() -> Any:
    from mlflow.server.handlers import _get_tracking_store

    return _get_tracking_store()
