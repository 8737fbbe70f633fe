"""A version's files, fetched as plain files into a private folder.

Nothing is ever loaded with MLflow's own loaders, which run code that a model brings along.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from invmm_gate.core.errors import RegistryError
from invmm_gate.models.read.checkpoint_files import list_files
from invmm_gate.registry.client.connection import asked, is_missing, transferring
from invmm_gate.registry.client.listing import StoredFile, file_at_root, listed
from invmm_gate.registry.client.locations import Places, Repository, SourceError, locate, safe_path

SMALL_FILE_BYTES: Final = 8_000_000
"""What is read into memory: an attestation, a verdict."""


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
            return _require_same(target, files)

    def read(self, source: str, name: str) -> bytes | None:
        """One small file that lies beside the checkpoint; None if it is not there."""
        with asked(self.uri, f"send {name} of {source[:100]}"):
            repository = self._repository(source)
            found = file_at_root(repository, safe_path(name))
            if found is None:
                return None
            if (found.size or 0) > SMALL_FILE_BYTES:
                raise SourceError(f"{name} has {found.size} bytes", expected=f"at most {SMALL_FILE_BYTES}")
            with tempfile.TemporaryDirectory(prefix="invmm-gate-") as folder:
                _fetch(repository, found, Path(folder))
                return _small(Path(folder) / name)

    def _repository(self, source: str) -> Repository:
        try:
            return self.places.repository(locate(source, self.places))
        except Exception as error:
            if is_missing(error):
                raise SourceError(
                    f"{source[:100]!a} does not exist", expected="a model, version or run of this registry"
                ) from error
            raise


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


def _require_same(target: Path, files: tuple[StoredFile, ...]) -> Path:
    """What was fetched is what was listed, in plain files only."""
    wanted = {file.path: file.size for file in files}
    sizes = {path: (target / path).lstat().st_size for path in list_files(target)}
    wrong = [path for path in sorted(wanted.keys() | sizes.keys()) if not _agrees(path, wanted, sizes)]
    if wrong:
        raise RegistryError(
            f"{len(wrong)} files did not arrive as listed, {wrong[0]!a} among them",
            expected="the size that the store lists",
            do="let the writer of the version finish, then try again",
        )
    return target


def _agrees(path: str, wanted: dict[str, int | None], sizes: dict[str, int]) -> bool:
    return path in wanted and path in sizes and wanted[path] in (None, sizes[path])
