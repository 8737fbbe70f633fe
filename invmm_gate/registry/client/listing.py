"""Listings of an artefact store, checked by name, number and size before anything is fetched."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from invmm_gate.registry.client.locations import Repository, SourceError, safe_path

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 1 << 40
MAX_DEPTH: Final = 10


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
