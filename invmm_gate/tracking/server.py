"""MLflow as a place to send to: imported lazily, named by its URI, and asked first whether it answers at all."""

import http.client
import importlib
import logging
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Final
from urllib.parse import urlsplit

from invmm_gate.core.errors import PublishError
from invmm_gate.tracking.spool import without_credentials

DEFAULT_URI: Final = "sqlite:///mlflow.db"
"""A file in the working folder; artefacts lie in `mlartifacts` beside it."""
LATER: Final = "the verdict stands; run `invmm-gate publish RUN --tracking-uri ...` later"

_REACHABLE_WITHIN: Final = 3.0
"""Seconds in which a server must answer anything at all before the first real request is made."""


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
    """Any HTTP answer will do, an error included: it only has to come soon. Raises PublishError."""
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


def absolute(uri: str) -> str:
    """A database file by its full path: MLflow keeps one connection per URI, wherever the process has gone since."""
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).resolve()}"


def artefacts_beside(uri: str) -> str | None:
    """For a local database, a folder beside it; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
