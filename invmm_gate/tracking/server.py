"""MLflow as a place to send to: imported lazily, asked first whether it answers, with the limits that it has."""

import http.client
import importlib
import logging
import math
import os
import re
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar
from urllib.parse import urlsplit

from invmm_gate.core.errors import PublishError
from invmm_gate.tracking.spool import without_credentials

DEFAULT_URI: Final = "sqlite:///mlflow.db"
"""A file in the working folder; artefacts lie in `mlartifacts` beside it."""
LATER: Final = "the verdict stands; run `invmm-gate publish RUN --tracking-uri ...` later"

_SQLITE: Final = "sqlite:///"
_REACHABLE_WITHIN: Final = 3.0
"""Seconds in which a server must answer anything at all before the first real request is made."""
NAME_LIMIT: Final = 250
VALUE_LIMIT: Final = 6000
TAG_LIMIT: Final = 5000
METRICS_PER_REQUEST: Final = 1000
PARAMS_PER_REQUEST: Final = 100
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_.\-/ ]")


def import_mlflow() -> ModuleType:
    """MLflow, imported without telemetry and with short timeouts (by default a dead server blocks for 4 minutes)."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is for the verdict
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    try:
        mlflow = importlib.import_module("mlflow")
        importlib.import_module("mlflow.entities")
    except ImportError as error:
        raise PublishError(
            "MLflow is not installed", expected="the extra `tracking`", do="run `pip install 'invmm-gate[tracking]'`"
        ) from error
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.store.db_migrations"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow


def require_reachable(uri: str) -> None:
    """Any HTTP answer will do, an error included; a database file must take a lock. Raises PublishError within seconds.

    MLflow itself tries a file that it cannot write to for minutes.
    """
    if uri.startswith(_SQLITE):
        _require_writable(Path(uri.removeprefix(_SQLITE)))
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    shown = without_credentials(uri)
    try:
        # The scheme is http or https, checked above.
        with urllib.request.urlopen(shown, timeout=_REACHABLE_WITHIN):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # MLflow may be told to accept this certificate; let it decide
        raise PublishError(f"no answer from MLflow at {shown}: {error.reason}", do=LATER) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PublishError(f"no answer from MLflow at {shown}: {error}", do=LATER) from error


def _require_writable(path: Path) -> None:
    try:
        if not path.exists():
            folder = path.parent
            reason = (
                "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is no folder that this user may write to"
            )
        else:
            reason = _refusal(path)
    except (OSError, sqlite3.Error) as error:
        reason = str(error)
    if reason:
        raise PublishError(
            f"the MLflow database {path} cannot be written: {reason}",
            expected="a place for mlflow.db and the folder mlartifacts beside it",
            do=f"name a server or another file with --tracking-uri, or give --no-track; {LATER}",
        )


def _refusal(path: Path) -> str:
    """Why the file takes no changes; empty if it does."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} is no folder that this user may write to"  # SQLite's journal lies beside the file
    with closing(
        sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_REACHABLE_WITHIN)
    ) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()
    return ""


def absolute(uri: str) -> str:
    """A database file by its full path: MLflow keeps one connection per URI, wherever the process has gone since."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).resolve()}"


def artefacts_beside(uri: str) -> str | None:
    """For a local database, a folder beside it; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()


_Item = TypeVar("_Item")


def safe_name(name: str) -> str:
    """A name that MLflow accepts on every backend and that cannot be read as a path that climbs."""
    cleaned = _FORBIDDEN.sub("_", name)
    parts = [part.strip() for part in cleaned.split("/")]
    kept = [part if set(part) - {"."} else "_" * len(part) for part in parts]
    return "/".join(part for part in kept if part)[:NAME_LIMIT].strip(" /") or "_"


def unique_names(items: Mapping[str, str]) -> dict[str, str]:
    """The items under safe names; names that become the same get a number."""
    named: dict[str, str] = {}
    for name, value in items.items():
        safe, number = safe_name(name), 2
        while safe in named:
            safe, number = f"{safe_name(name)[: NAME_LIMIT - 6]}_{number}", number + 1
        named[safe] = value[:VALUE_LIMIT]
    return named


def finite(metrics: Mapping[str, float | int | None]) -> dict[str, float]:
    """The metrics that are finite numbers: MLflow turns an infinity into 1.8e308."""
    return {
        safe_name(name): float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)
    }


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def flattened(settings: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted name, text) of every setting, in order."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
