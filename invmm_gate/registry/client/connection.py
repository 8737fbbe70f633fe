"""The connection to MLflow: imported lazily, quick to say that a server is down, and with one kind of error."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from invmm_gate.core.errors import GateError, PublishError, RegistryError
from invmm_gate.tracking.server import import_mlflow, require_reachable
from invmm_gate.tracking.spool import without_credentials

Answer = TypeVar("Answer")
_DEFAULT: Final = "MLFLOW_TRACKING_URI"
_TIMEOUT: Final = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_TRANSFER_SECONDS: Final = "600"
"""For one file: a server stores it in its own store before it answers."""
_ANSWERED: Final = range(400, 500)
_TOO_MANY: Final = 429
_MISSING: Final = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_lock = threading.Lock()
_before: Final[list[str | None]] = []


class RegistryDownError(RegistryError):
    """A registry that does not answer now: what was to be sent can be sent later."""


def connect(uri: str) -> Any:
    """A client of one server or database, for tracking and registry alike. Raises RegistryError."""
    try:
        mlflow = import_mlflow()
    except PublishError as error:
        raise RegistryError(
            "MLflow is not installed", expected="the extra `server`", do="run `pip install 'invmm-gate[server]'`"
        ) from error
    with asked(uri, "open"):
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def registry_store(uri: str) -> Any:
    """The registry's records, below MLflow's client: that one says of all that carries a prompt's tag it is missing.

    Raises RegistryError.
    """
    with asked(uri, "open"):
        from mlflow.tracking._model_registry.utils import _get_store

        return _get_store(uri, uri)


def require_answer(uri: str) -> None:
    """Any answer will do, but it has to come within 3 s. Raises RegistryDownError."""
    try:
        require_reachable(uri)
    except PublishError as error:
        raise RegistryDownError(error.found, do="start the server, or correct the tracking URI") from error


@contextmanager
def asked(uri: str, what: str) -> Iterator[None]:
    """Whatever MLflow raises within becomes one RegistryError that says what the registry did not do."""
    try:
        yield
    except GateError:
        raise
    except Exception as error:  # MLflow, its HTTP client and its database each have their own kinds
        shown = without_credentials(uri)
        reason = " ".join(str(error).replace(uri, shown).split())[:200]
        kind = RegistryError if _was_answered(error) else RegistryDownError
        raise kind(f"the registry at {shown} would not {what}: {reason or type(error).__name__}") from error


def unless_missing(ask: Callable[[], Answer]) -> Answer | None:
    """The answer; None if MLflow says that what was asked for does not exist."""
    try:
        return ask()
    except Exception as error:
        if getattr(error, "error_code", "") in _MISSING:
            return None
        raise


def _was_answered(error: Exception) -> bool:
    """Whether it is the registry that refused; otherwise asking again later may help."""
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return status in _ANSWERED and status != _TOO_MANY


@contextmanager
def transferring() -> Iterator[None]:
    """Long timeouts, for whole files: elsewhere MLflow is told to give up after seconds.

    MLflow takes them from the environment only, so they hold for all threads until the last transfer is over.
    """
    with _lock:
        _before.append(os.environ.get(_TIMEOUT))
        os.environ[_TIMEOUT] = _TRANSFER_SECONDS
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:  # the last one to leave takes what the first one found
                _restore(_TIMEOUT, before)


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """A local database's store looks logged models up in MLflow's default place, whatever the client was told."""
    if urlsplit(uri).scheme in ("http", "https"):
        yield
        return
    mlflow = import_mlflow()
    with _lock:
        before = os.environ.get(_DEFAULT)
        os.environ[_DEFAULT] = uri
        chosen = mlflow.get_tracking_uri()  # another one if the process was told a default, which goes before this
        try:
            if chosen != uri:
                mlflow.set_tracking_uri(uri)
            yield
        finally:
            if chosen != uri:
                mlflow.set_tracking_uri(chosen)
            _restore(_DEFAULT, before)  # which MLflow sets too


def _restore(name: str, before: str | None) -> None:
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before
