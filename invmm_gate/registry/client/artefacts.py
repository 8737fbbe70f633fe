"""The files of versions: fetched as plain files into a private folder, and logged as new models.

Nothing is ever loaded with MLflow's own loaders, which run code that a model brings along.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.core.errors import ConfigError, ModelError, RegistryError
from invmm_gate.files.scratch import scratch_folder
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.models.read.checkpoint_files import list_files
from invmm_gate.models.read.inspect import checkpoint_files
from invmm_gate.registry.client.connection import asked, transferring, unless_missing
from invmm_gate.registry.client.locations import (
    Places,
    Repository,
    SourceError,
    StoredFile,
    file_at_root,
    listed,
    locate,
    safe_path,
)
from invmm_gate.tracking.server import artefacts_beside

SMALL_FILE_BYTES: Final = 8_000_000
"""What is read into memory: an attestation, a verdict."""
CHECKPOINT: Final = "checkpoint"
"""The folder of a logged model that holds the checkpoint and nothing else."""
EXPERIMENT: Final = "invmm-gate"
"""The experiment that the gate's runs and the models that it logs belong to; the tracker's own."""
_DESCRIPTION: Final = "MLmodel"
_TOLD: Final = 3
"""How many of the files beside are named."""
_MODEL_TYPE: Final = "diffusers"


@contextmanager
def scratch_in(parent: Path) -> Iterator[Path]:
    """A private folder that is gone afterwards: a checkpoint may not fit where temporary files usually go.

    Raises RegistryError if the parent cannot be written.
    """
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".version-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise RegistryError(
            f"{parent} cannot be written: {error.strerror}", do="free some space, or give another --state"
        ) from error
    with folder as path:
        yield Path(path)


def checkpoint_in(files: Path) -> Path:
    """The checkpoint among all files of a version: their folder `checkpoint` if there is one, else all of them.

    A single weights file, with what belongs to it by name, is itself the checkpoint. Raises ModelError if a file lies
    there that is no part of the checkpoint: it would be judged by some of what a consumer of the version loads. The
    attestation may lie beside it, and an MLmodel without flavors.
    """
    names = list_files(files)
    checkpoint = _checkpoint(files, names)
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    own = {(root / name).relative_to(files).as_posix() for name in checkpoint_files(checkpoint)}
    beside = [name for name in names if name not in own and not _may_lie_beside(files, name)]
    if beside:
        raise ModelError(
            f"{len(beside)} files that are not attested lie beside the checkpoint,"
            f" {', '.join(ascii(name) for name in beside[:_TOLD])} among them",
            expected=f"the checkpoint and {ATTESTATION} alone, as whoever loads the version gets all of its files",
            do="register the checkpoint by itself: `invmm-gate register`",
        )
    return checkpoint


def _checkpoint(files: Path, names: tuple[str, ...]) -> Path:
    prefix = f"{CHECKPOINT}/"
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    root, within = (files / CHECKPOINT, inner) if inner else (files, names)
    weights = [name for name in within if name.endswith(".safetensors") and "/" not in name]
    is_folder = "model_index.json" in within or "config.json" in within
    return root / weights[0] if len(weights) == 1 and not is_folder else root


def _may_lie_beside(files: Path, name: str) -> bool:
    """A flavor of MLmodel could name other weights, even a hub's; without one MLflow loads nothing by it."""
    if name != _DESCRIPTION:
        return name == ATTESTATION
    try:
        found = load_document(files / name).data
    except ConfigError:
        return False
    return isinstance(found, dict) and found.get("flavors") == {}


@final
@dataclass(frozen=True, slots=True)
class Artefacts:
    """The artefact store behind a registry. Every failure is a RegistryError."""

    uri: str
    places: Places

    def download(self, source: str, target: Path) -> Path:
        """All files of a version's source in a fresh folder of mode 0700, each of the size that was listed."""
        with asked(self.uri, f"send the files of {source[:100]}"):
            repository = self._repository(source)
            files = listed(repository)
            if not files:
                raise SourceError(f"{source[:100]!a} holds no files", do="log the checkpoint again")
            _make_room(target, sum(file.size or 0 for file in files))
            with transferring():
                for file in files:
                    _fetch(repository, file, target)
            _require_same(target, files)
            return target

    def read(self, source: str, name: str) -> bytes | None:
        """One small file that lies beside the checkpoint; None if it is not there."""
        with asked(self.uri, f"send {name} of {source[:100]}"):
            repository = self._repository(source)
            found = file_at_root(repository, safe_path(name))
            if found is None:
                return None
            if (found.size or 0) > SMALL_FILE_BYTES:
                raise SourceError(f"{name} has {found.size} bytes", expected=f"at most {SMALL_FILE_BYTES}")
            with scratch_folder() as folder:
                _fetch(repository, found, folder)
                return _small(folder / name)

    def _repository(self, source: str) -> Repository:
        found = unless_missing(lambda: self.places.repository(locate(source, self.places)))
        if found is None:
            raise SourceError(f"{source[:100]!a} does not exist", expected="a model, version or run of this registry")
        return found


def _small(file: Path) -> bytes:
    """What was sent, whatever size was listed. Raises SourceError above the limit."""
    with file.open("rb") as stream:
        data = stream.read(SMALL_FILE_BYTES + 1)
    if len(data) > SMALL_FILE_BYTES:
        raise SourceError(f"{file.name} is larger than was listed", expected=f"at most {SMALL_FILE_BYTES} bytes")
    return data


def _make_room(target: Path, size: int) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(mode=0o700)
        free = shutil.disk_usage(target).free
    except OSError as error:
        raise RegistryError(
            f"{target} cannot be made: {error.strerror}", expected="a fresh folder for the files"
        ) from error
    if free < size:
        raise RegistryError(f"{target} has {free} bytes of room, the files need {size}", do="free some space")


def _fetch(repository: Repository, file: StoredFile, target: Path) -> None:
    """One file to `target/<its path>`, with no bar and no second listing as `download_artifacts` has them."""
    local = target / file.path
    local.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    repository.store._download_file(repository.place(file.path), str(local))


def _require_same(target: Path, files: tuple[StoredFile, ...]) -> None:
    """What was fetched is what was listed, in plain files only."""
    sizes = {path: (target / path).lstat().st_size for path in list_files(target)}
    wanted = {file.path: sizes.get(file.path) if file.size is None else file.size for file in files}
    wrong = [path for path in sorted(wanted.keys() | sizes.keys()) if wanted.get(path, -1) != sizes.get(path, -2)]
    if wrong:
        raise RegistryError(
            f"{len(wrong)} files did not arrive as listed, {wrong[0]!a} among them",
            expected="the size that the store lists",
            do="let the writer of the version finish, then try again",
        )


@final
@dataclass(frozen=True, slots=True)
class Uploads:
    """Writes to the tracking side of the server. Every failure is a RegistryError."""

    uri: str
    client: Callable[[], Any]

    def log_model(self, name: str, files: Mapping[str, Path], *, run_id: str | None = None) -> str:
        """A new logged model of these files, by their paths in it; its source, `models:/m-...`.

        A folder of plain files cannot be registered as it is (`register_model("runs:/...")` fails on it, and leaves an
        empty model behind). What could not be sent whole is marked FAILED and never becomes a version.
        """
        with asked(self.uri, f"take the files of {name}"):
            client = self.client()
            made = client.create_logged_model(
                self._experiment(), name=name, source_run_id=run_id, model_type=_MODEL_TYPE
            )
            try:
                self._send(made.artifact_location, files)
            except Exception:
                client.finalize_logged_model(made.model_id, "FAILED")
                raise
            client.finalize_logged_model(made.model_id, "READY")
            return f"models:/{made.model_id}"

    def run_of(self, key: str) -> str:
        """The id of the run that the tracker published under this key."""
        with asked(self.uri, "tell of the gate's run"):
            wanted = f"tags.`invmm.key` = '{key}' and tags.`invmm.state` = 'published'"
            found = self.client().search_runs([self._experiment()], filter_string=wanted, max_results=1)
        if not found:
            raise RegistryError("the run that was just published is not there", do="try again")
        return str(found[0].info.run_id)

    def is_ours(self, run_id: str) -> bool:
        """Whether it is a run that the tracker published, in the gate's own experiment."""
        with asked(self.uri, "tell of the gate's run"):
            run = unless_missing(lambda: self.client().get_run(run_id))
            if run is None or str(run.info.experiment_id) != self._experiment():
                return False
            return bool(run.data.tags.get("invmm.state") == "published")

    def add_file(self, run_id: str, path: Path, folder: str) -> None:
        """Put one file into a folder of a run, in place of one of its name."""
        with asked(self.uri, f"take {path.name}"), transferring():
            self.client().log_artifact(run_id, str(path), folder)

    def _experiment(self) -> str:
        client = self.client()
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(EXPERIMENT, artifact_location=artefacts_beside(self.uri)))

    def _send(self, location: str, files: Mapping[str, Path]) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(location, tracking_uri=self.uri)
        with transferring():
            for path, local in files.items():
                if local.name != path.rpartition("/")[2]:
                    raise RegistryError(
                        f"{local.name} would be stored as {path}", expected="a file that keeps its own name"
                    )
                store.log_artifact(str(local), path.rpartition("/")[0] or None)
