"""Where a version's files lie: names of the registry resolved step by step, and nothing that a payload says is opened.

`models:/m-...`, `models:/name/version` and `runs:/id/path` are asked of the registry; what comes out must be the
server's own artefact store, or for a local database a folder beside it. What is listed there is checked by name, number
and size before anything is fetched.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, final
from urllib.parse import unquote, urlsplit

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.registry_names import NAME_PATTERN

LOGGED_MODEL: Final = re.compile(r"models:/(m-[0-9a-f]{8,64})")
VERSION: Final = re.compile(rf"models:/({NAME_PATTERN.pattern})/([0-9]{{1,10}})")
RUN: Final = re.compile(r"runs:/([0-9a-f]{32})(?:/(.+))?")
_STORE: Final = re.compile(r"mlflow-artifacts:/(?!/)(.+)")
MAX_FILES: Final = 10_000
MAX_BYTES: Final = 1 << 40
MAX_DEPTH: Final = 10
_MAX_HOPS: Final = 8
"""A version may be a copy of a copy; a ring of copies ends here."""
_UNSAFE: Final = frozenset('\\%?#:*"<>|')
"""What another file system, or one more decoding, would read as something else than a part of a name."""


_OF_A_SERVER: Final = (
    ", to a server that serves its artefacts itself (`mlflow server` without --no-serve-artifacts), in an experiment "
    "that was made since: an experiment keeps the place that it was made with"
)


class SourceError(RegistryError):
    """A version whose files cannot be had, or are not to be had, by its own fault: asking again does not help."""


@final
@dataclass(frozen=True, slots=True)
class Repository:
    """An artefact repository of MLflow's and the folder in it that counts as its root."""

    store: Any
    base: str = ""

    def place(self, path: str) -> str:
        """A path below the root as MLflow's repository wants it."""
        return "/".join(part for part in (self.base, path) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Who is asked where things lie: the registry's client, or the stores of the server itself."""

    tracking: Callable[[], Any]
    """Knows logged models and runs, by the methods that client and store share."""
    version: Callable[[str, str], Any]
    """The record of a version; None if there is none."""
    repository: Callable[[str], Repository]
    """The files at a location that `locate` returned."""
    local_roots: tuple[Path, ...]
    """Folders of this machine that hold artefacts; none where a server is asked."""


def client_places(uri: str, client: Callable[[], Any], version: Callable[[str, str], Any]) -> Places:
    """Asks the registry's own client. Beside a database file lie the folders that MLflow and the gate use."""
    beside = Path(uri.removeprefix("sqlite:///")).parent
    local = (beside / "mlartifacts", beside / "mlruns") if uri.startswith("sqlite:///") else ()

    def repository(location: str) -> Repository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return Repository(get_artifact_repository(location, tracking_uri=uri))

    return Places(tracking=client, version=version, repository=repository, local_roots=local)


def locate(source: str, places: Places) -> str:
    """The location that a source stands for. Raises SourceError for one that the gate does not follow."""
    for _ in range(_MAX_HOPS):
        found = _step(source, places)
        if found is None:
            return _store_location(source, places)
        source = found
    raise SourceError(f"{source[:200]!a} is a copy of a copy, too often", expected=f"at most {_MAX_HOPS} steps")


def _step(source: str, places: Places) -> str | None:
    if match := LOGGED_MODEL.fullmatch(source):
        return str(places.tracking().get_logged_model(match[1]).artifact_location)
    if match := VERSION.fullmatch(source):
        found = places.version(match[1], match[2])
        if found is None:
            deleted = f"version {match[2]} of {match[1]} was deleted"
            raise SourceError(deleted, expected="the version that this one copies")
        return str(found.source)
    if match := RUN.fullmatch(source):
        root = str(places.tracking().get_run(match[1]).info.artifact_uri).rstrip("/")
        return f"{root}/{safe_path(match[2])}" if match[2] else root
    return None


def _store_location(location: str, places: Places) -> str:
    if stored := _STORE.fullmatch(location):
        safe_path(stored[1])
        return location
    path = _local_path(location)
    roots = [root.resolve() for root in places.local_roots]
    if path is not None and any(path.is_relative_to(root) for root in roots):
        return str(path)
    raise SourceError(
        f"the files are said to lie at {location[:200]!a}",
        expected="the registry's own artefact store (models:/, runs:/ or mlflow-artifacts:/)",
        do="log the checkpoint to this registry: `invmm-gate register`" + ("" if roots else _OF_A_SERVER),
    )


def _local_path(location: str) -> Path | None:
    parts = urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc or parts.query or parts.fragment or "\0" in unquote(location):
        return None
    path = Path(unquote(parts.path) if parts.scheme else location)
    return path.resolve() if path.is_absolute() else None


def safe_path(path: str) -> str:
    """The path itself, if it is a plain relative posix path. Raises SourceError."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or not _is_plain(part) for part in parts):
        raise SourceError(
            f"an artefact is called {path[:200]!a}",
            expected="plain relative names, without `..`, backslashes, control characters or %",
            do="log the checkpoint again under plain names",
        )
    return path


def _is_plain(part: str) -> bool:
    control = any(unicodedata.category(character)[0] == "C" for character in part)
    return not control and not _UNSAFE & set(part) and len(part.encode()) <= 255 and part == part.strip()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store lists it, by its path below the repository's root."""

    path: str
    size: int | None


def listed(repository: Repository) -> tuple[StoredFile, ...]:
    """Every file below the root, sorted. Raises SourceError for an unsafe name and beyond the limits."""
    files: list[StoredFile] = []
    for file in _walk(repository, "", 0):
        files.append(file)
        if len(files) > MAX_FILES:
            raise SourceError("the version holds too many files", expected=f"at most {MAX_FILES}")
    if sum(file.size or 0 for file in files) > MAX_BYTES:
        raise SourceError("the version is too large", expected=f"at most {MAX_BYTES >> 30} GiB")
    refuse_collisions([file.path for file in files])
    return tuple(sorted(files, key=lambda file: file.path))


def file_at_root(repository: Repository, name: str) -> StoredFile | None:
    """A file that lies directly in the root; None if there is none of this name."""
    return next(
        (entry for entry in _children(repository, "") if isinstance(entry, StoredFile) and entry.path == name), None
    )


def refuse_collisions(paths: Sequence[str]) -> None:
    """Names that a case-insensitive or normalising file system would take for one another, a file's for a folder's."""
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."}
    seen: dict[str, str] = {}
    for name in (*sorted(folders), *paths):
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise SourceError(
                f"artefacts {seen[key]!a} and {name!a} collide", expected="names that every file system keeps apart"
            )
        seen[key] = name


def _walk(repository: Repository, folder: str, depth: int) -> Iterator[StoredFile]:
    if depth > MAX_DEPTH:
        raise SourceError(f"folder {folder!a} lies too deep", expected=f"at most {MAX_DEPTH} levels")
    for entry in _children(repository, folder):
        if isinstance(entry, StoredFile):
            yield entry
        else:
            yield from _walk(repository, entry, depth + 1)


def _children(repository: Repository, folder: str) -> Iterator[StoredFile | str]:
    """The files right below a folder, and its folders by their paths."""
    prefix = f"{repository.base}/" if repository.base else ""
    found: Sequence[Any] = repository.store.list_artifacts(repository.place(folder) or None)
    for item in found:
        path = safe_path(str(item.path).removeprefix(prefix))
        if path.rpartition("/")[0] != folder:
            raise SourceError(f"the store lists {path!a} below {folder!a}", expected="what lies in that folder")
        yield path if item.is_dir else StoredFile(path, None if item.file_size is None else int(item.file_size))
