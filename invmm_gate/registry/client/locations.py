"""Where a version's files lie: names of the registry resolved step by step, and nothing that a payload says is opened.

`models:/m-...`, `models:/name/version` and `runs:/id/path` are asked of the registry; what comes out must be the
server's own artefact store, or for a local database a folder beside it.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final
from urllib.parse import unquote, urlsplit

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.names import NAME_PATTERN

LOGGED_MODEL: Final = re.compile(r"models:/(m-[0-9a-f]{8,64})")
VERSION: Final = re.compile(rf"models:/({NAME_PATTERN.pattern})/([0-9]{{1,10}})")
RUN: Final = re.compile(r"runs:/([0-9a-f]{32})(?:/(.+))?")
_STORE: Final = re.compile(r"mlflow-artifacts:/(?!/)(.+)")
_MAX_HOPS: Final = 8
"""A version may be a copy of a copy; a ring of copies ends here."""
_UNSAFE: Final = frozenset('\\%?#:*"<>|')
"""What another file system, or one more decoding, would read as something else than a part of a name."""


class SourceError(RegistryError):
    """A version whose files cannot be had, or are not to be had, by its own fault: asking again does not help."""


class Places(Protocol):
    """Who is asked where things lie: the registry's client, or the stores of the server itself."""

    def logged_model(self, model_id: str) -> str:
        """The location of a logged model's files."""
        ...

    def run(self, run_id: str) -> str:
        """The location of a run's artefacts."""
        ...

    def version_source(self, name: str, version: str) -> str | None:
        """The source that a version names; None if there is no such version."""
        ...

    def repository(self, location: str) -> "Repository":
        """The files at a location that `locate` returned."""
        ...

    @property
    def local_roots(self) -> tuple[Path, ...]:
        """Folders of this machine that hold artefacts; none where a server is asked."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Repository:
    """An artefact repository of MLflow's and the folder in it that counts as its root."""

    store: Any
    base: str = ""

    def place(self, path: str) -> str:
        """A path below the root as MLflow's repository wants it."""
        return "/".join(part for part in (self.base, path) if part)


def locate(source: str, places: Places) -> str:
    """The location that a source stands for. Raises SourceError for one that the gate does not follow."""
    for _ in range(_MAX_HOPS):
        found = next((step(match) for pattern, step in _steps(places) if (match := pattern.fullmatch(source))), None)
        if found is None:
            return _store_location(source, places)
        source = found
    raise SourceError(f"{source[:200]!a} is a copy of a copy, too often", expected=f"at most {_MAX_HOPS} steps")


def _steps(places: Places) -> tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]:
    return (
        (LOGGED_MODEL, lambda match: places.logged_model(match[1])),
        (VERSION, lambda match: _source_of(places, match[1], match[2])),
        (
            RUN,
            lambda match: "/".join((places.run(match[1]).rstrip("/"), *([safe_path(match[2])] if match[2] else []))),
        ),
    )


def _source_of(places: Places, name: str, version: str) -> str:
    source = places.version_source(name, version)
    if source is None:
        raise SourceError(f"version {version} of {name} was deleted", expected="the version that this one copies")
    return source


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
        do="log the checkpoint to this registry: `invmm-gate register`",
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


@final
@dataclass(frozen=True, slots=True)
class ClientPlaces:
    """Asks the registry's own client."""

    uri: str
    client: Callable[[], Any]
    version: Callable[[str, str], Any]

    def logged_model(self, model_id: str) -> str:
        """The location of a logged model's files."""
        return str(self.client().get_logged_model(model_id).artifact_location)

    def run(self, run_id: str) -> str:
        """The location of a run's artefacts."""
        return str(self.client().get_run(run_id).info.artifact_uri)

    def version_source(self, name: str, version: str) -> str | None:
        """The source that a version names."""
        found = self.version(name, version)
        return None if found is None else str(found.source)

    def repository(self, location: str) -> Repository:
        """The files there, through the tracking server."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return Repository(get_artifact_repository(location, tracking_uri=self.uri))

    @property
    def local_roots(self) -> tuple[Path, ...]:
        """For a database file, the folders beside it that MLflow and the gate use."""
        if not self.uri.startswith("sqlite:///"):
            return ()
        beside = Path(self.uri.removeprefix("sqlite:///")).parent
        return (beside / "mlartifacts", beside / "mlruns")
