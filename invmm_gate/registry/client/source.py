"""`--model models:/...` and `runs:/...`: a checkpoint of the registry as a local folder while it is needed."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.client.locations import LOGGED_MODEL, RUN, VERSION, SourceError
from invmm_gate.registry.client.names import ALIAS_PATTERN, NAME_PATTERN, is_registry_name, version_label

if TYPE_CHECKING:
    from invmm_gate.registry.client.client import Registry

SCHEMES: Final = ("models:/", "runs:/")
DOWNLOADS: Final = Path("reports")
"""Where the run folders lie: a checkpoint may not fit where temporary files usually go."""

_ALIAS: Final = re.compile(rf"models:/({NAME_PATTERN.pattern})@({ALIAS_PATTERN.pattern})")
_EXPECTED: Final = "models:/name/version, models:/name@alias, models:/m-<id> or runs:/<run id>/<path>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The checkpoint that a URI stood for when it was resolved."""

    uri: str
    label: str
    """For folder names: `name-v3`; does not depend on where the files were put."""
    source: str
    name: str = ""
    version: str = ""
    """Empty for a logged model or a run's artefact, which have no version."""


def is_registry_uri(model: str) -> bool:
    """Whether a `--model` names something in the registry rather than a path."""
    return model.startswith(SCHEMES)


@contextmanager
def local_checkpoint(model: str, tracking_uri: str | None = None, *, cache: Path | None = None) -> Iterator[Path]:
    """The checkpoint as a path: a plain path as it is, a registry's URI as a download that is gone afterwards.

    With `cache` the download stays there, in place of one of the same version. Raises ConfigError for what is not there
    or is not to be had, RegistryError where the registry does not say.
    """
    if not is_registry_uri(model):
        yield Path(model)
        return
    with resolved_checkpoint(model, tracking_uri, cache=cache) as (path, _):
        yield path


@contextmanager
def resolved_checkpoint(
    model: str, tracking_uri: str | None = None, *, cache: Path | None = None
) -> Iterator[tuple[Path, Resolved]]:
    """The same as `local_checkpoint`, with what the URI stood for."""
    from invmm_gate.registry.client.client import Registry

    registry = Registry(tracking_uri)
    found = resolve(model, registry)
    parent = cache or DOWNLOADS
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{found.label}-", dir=parent))
    except OSError as error:
        raise ConfigError(f"{parent} cannot be written: {error.strerror}", do="give another --cache") from error
    try:
        path = named(_fetched(found.source, registry, folder), found.label)
        yield (_kept(path, folder, parent / found.label) if cache else path), found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def resolve(model: str, registry: "Registry") -> Resolved:
    """What the URI stands for now. Raises ConfigError if it cannot be read, or names no version or alias."""
    if match := LOGGED_MODEL.fullmatch(model):
        return Resolved(uri=model, label=match[1], source=model)
    if (match := RUN.fullmatch(model)) and match[2]:
        return Resolved(uri=model, label=f"{safe_label(match[2])}-{match[1][:8]}", source=model)
    match = VERSION.fullmatch(model) or _ALIAS.fullmatch(model)
    if match is None or not is_registry_name(match[1]):
        raise ConfigError(f"--model {model[:200]!a}", expected=_EXPECTED)
    by_alias = _ALIAS.fullmatch(model) is not None
    record = registry.alias(match[1], match[2]) if by_alias else registry.version(match[1], match[2])
    if record is None:
        raise ConfigError(f"{registry.shown} has no {model}", expected="a version or an alias that is there")
    return Resolved(
        uri=model,
        label=version_label(record.name, record.version),
        source=record.source,
        name=record.name,
        version=record.version,
    )


def _fetched(source: str, registry: "Registry", folder: Path) -> Path:
    try:
        return registry.fetch(source, folder / "files")
    except SourceError as error:
        raise ConfigError(error.found, expected=error.expected, do=error.do) from error


def named(checkpoint: Path, label: str) -> Path:
    """A checkpoint's folder under the version's own name, so that nothing is named after a temporary folder."""
    return checkpoint.rename(checkpoint.parent / label) if checkpoint.is_dir() else checkpoint


def safe_label(path: str) -> str:
    """The last part of an artefact path as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.rstrip("/").rpartition("/")[2])[:64].lstrip(".") or "model"


def _kept(path: Path, folder: Path, place: Path) -> Path:
    """The download under its name in the cache, in place of an older one."""
    whole = path if path.is_dir() else path.parent
    if place.exists():
        place.rename(folder / "old")
    whole.rename(place)
    return place if whole == path else place / path.name
