"""`--model models:/...` and `runs:/...`: a checkpoint of the registry as a local folder while it is needed."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.locations import LOGGED_MODEL, RUN, VERSION, SourceError
from invmm_gate.registry.client.registry_names import ALIAS_PATTERN, NAME_PATTERN, is_registry_name

DOWNLOADS: Final = Path("reports")
"""Where the run folders lie: a checkpoint may not fit where temporary files usually go."""

_SCHEMES: Final = ("models:/", "runs:/")
_ALIAS: Final = re.compile(rf"models:/({NAME_PATTERN.pattern})@({ALIAS_PATTERN.pattern})")
_EXPECTED: Final = "models:/name/version, models:/name@alias, models:/m-<id> or runs:/<run id>/<path>"


@contextmanager
def local_checkpoint(model: str, tracking_uri: str | None = None) -> Iterator[Path]:
    """The checkpoint as a path: a plain path as it is, a registry's URI as a download that is gone afterwards.

    Raises ConfigError for what is not there or is not to be had, RegistryError where the registry does not say.
    """
    if not model.startswith(_SCHEMES):
        yield Path(model)
        return
    registry = Registry(tracking_uri)
    label, source = _resolved(model, registry)
    try:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{label}-", dir=DOWNLOADS, ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{DOWNLOADS} cannot be written: {error.strerror}", do="free some space, or run where this user can write"
        ) from error
    with folder as inner:
        try:
            path = registry.fetch(source, Path(inner) / "files", label=label)
        except SourceError as error:
            raise ConfigError(error.found, expected=error.expected, do=error.do) from error
        yield path


def _resolved(model: str, registry: Registry) -> tuple[str, str]:
    """A label for folder names, as `name-v3`, and the source that the URI stands for now.

    Raises ConfigError if it cannot be read, or names no version or alias.
    """
    if match := LOGGED_MODEL.fullmatch(model):
        return match[1], model
    if (match := RUN.fullmatch(model)) and match[2]:
        return f"{_safe_label(match[2])}-{match[1][:8]}", model
    numbered, aliased = VERSION.fullmatch(model), _ALIAS.fullmatch(model)
    match = numbered or aliased
    if match is None or not is_registry_name(match[1]):
        raise ConfigError(f"--model {model[:200]!a}", expected=_EXPECTED)
    record = registry.version(match[1], match[2]) if numbered else registry.alias(match[1], match[2])
    if record is None:
        raise ConfigError(f"{registry.shown} has no {model}", expected="a version or an alias that the registry has")
    return record.file_label, record.source


def _safe_label(path: str) -> str:
    """The last part of an artefact path as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.rstrip("/").rpartition("/")[2])[:64].lstrip(".") or "model"
