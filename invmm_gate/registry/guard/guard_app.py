"""The guard: an MLflow server that sets protected aliases and verdict tags only where an attestation entitles to them.

Started by `mlflow server --app-name invmm-gate`. For every request that could promote a version or claim a verdict it
asks whether an attestation holds for the bytes that lie in the artefact store at that moment. Of each attestation the
audit log's head is said once: the guard does not know the log, but nobody changes what the gate wrote.

Between MLflow's answer and the question whether it is the version that was judged, some milliseconds, an alias may
point at one that was made in its place; then it is taken away, and the answer is a refusal.

What it cannot see: writes to the database that do not pass through this server, and another server on the same
database without it; that a database takes more names for one another than `folded` does; files that are changed after
an alias was set, so a deployer runs `invmm-gate verify` on what it downloads. Prompts share the routes of models, so a
protected alias cannot be given to a prompt. MLflow has room for one app: `basic-auth` cannot be used beside it, so
authentication has to stand in front of the server.
"""

import http
import logging
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from invmm_gate.core.errors import ConfigError, GateError
from invmm_gate.registry.guard.guard_rules import After, Guard
from invmm_gate.registry.guard.guard_settings import settings_from
from invmm_gate.registry.promote.choices import utc_now

_LOGGER: Final = logging.getLogger("invmm_gate.guard")
_GUARDED: Final = ("/registered-models", "/model-versions")
_READING: Final = frozenset(("GET", "HEAD", "OPTIONS"))

Result = TypeVar("Result")
Rule = Callable[[Guard, Any], After | None]
_RULES: Final[Mapping[str, tuple[str, Rule]]] = MappingProxyType(
    {
        "_set_registered_model_alias": ("SetRegisteredModelAlias", Guard.set_alias),
        "_transition_stage": ("TransitionModelVersionStage", Guard.transition_stage),
        "_rename_registered_model": ("RenameRegisteredModel", Guard.rename),
        "_set_model_version_tag": ("SetModelVersionTag", Guard.set_version_tag),
        "_delete_model_version_tag": ("DeleteModelVersionTag", Guard.delete_version_tag),
        "_create_model_version": ("CreateModelVersion", Guard.create_version),
        "_create_registered_model": ("CreateRegisteredModel", Guard.create_model),
        "_set_registered_model_tag": ("SetRegisteredModelTag", Guard.set_model_tag),
    }
)
"""MLflow's handler -> what it reads a request as, and the rule for it. By handler, so that no second spelling of a
route, and no newer version of it, gets past."""
_HARMLESS: Final = frozenset(
    (
        "_delete_registered_model",
        "_delete_registered_model_alias",
        "_delete_registered_model_tag",
        "_delete_model_version",
        "_update_registered_model",
        "_update_model_version",
        "_get_latest_versions",
    )
)
"""Handlers of the registry that write, or are asked by POST, and can neither promote anything nor claim a verdict."""


def create_app(app: Any = None) -> Any:
    """MLflow's app with the guard before every request. Ends the server if the guard cannot be set up."""
    from mlflow.server import app as mlflow_app

    try:
        guarded = mlflow_app if app is None else app
        guarded.before_request(_before(Guard(settings=settings_from(), now=utc_now)))
        guarded.after_request(_look_again)
        _refuse_unknown_server(guarded)
        return _served(guarded)
    except GateError as error:
        _LOGGER.critical("the guard cannot start: %s", error)
        raise SystemExit(error.exit_code) from error


def _before(guard: Guard) -> Callable[[], Any]:
    """Runs before each request; whatever it returns is the answer in place of MLflow's."""

    def guard_request() -> Any:
        from flask import g, request

        if request.method in _READING or request.endpoint in _HARMLESS or not _is_guarded(request):
            return None
        g.invmm_gate_afterwards, answer = _judged(lambda: _rule(guard, request))
        return answer

    return guard_request


def _look_again(response: Any) -> Any:
    """After each request: whether MLflow did to the very version that was judged what was asked for."""
    from flask import g

    afterwards = g.pop("invmm_gate_afterwards", None)
    if afterwards is None or response.status_code != http.HTTPStatus.OK:
        return response
    return _judged(afterwards)[1] or response


def _judged(judge: Callable[[], Result]) -> tuple[Result | None, Any]:
    """The result, or the answer that refuses the request."""
    try:
        return judge(), None
    except GateError as error:
        return None, _refusal(str(error))
    except Exception as error:  # the outermost: what the guard cannot judge does not happen
        _LOGGER.exception("a request could not be judged")
        return None, _refusal(f"the request could not be judged: {type(error).__name__}")


def _is_guarded(request: Any) -> bool:
    return request.endpoint in _RULES or any(part in request.path for part in _GUARDED)


def _rule(guard: Guard, request: Any) -> After | None:
    from mlflow.protos import model_registry_pb2
    from mlflow.server.handlers import _get_request_message

    known = _RULES.get(request.endpoint)
    if known is None:
        raise ConfigError(
            f"the request {request.method} {request.path[:200]!a}", expected="a route that the guard knows"
        )
    kind, rule = known
    message = _get_request_message(getattr(model_registry_pb2, kind)(), flask_request=request)
    if not message.name:  # a body that could not be read leaves the fields empty
        raise ConfigError(
            f"the request {request.method} {request.path[:200]!a} names no model",
            expected="a request as MLflow sends it",
        )
    return rule(guard, message)


def _refusal(reason: str) -> Any:
    from flask import Response
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    _LOGGER.warning("refused: %s", reason)
    error = MlflowException(f"invmm-gate: {reason}", error_code=PERMISSION_DENIED)
    return Response(error.serialize_as_json(), status=error.get_http_status_code(), mimetype="application/json")


def _refuse_unknown_server(app: Any) -> None:
    """A version of MLflow whose handlers have other names would be guarded by nothing."""
    missing = sorted(_RULES.keys() - {rule.endpoint for rule in app.url_map.iter_rules()})
    if missing:
        raise ConfigError(f"this MLflow has no handler {', '.join(missing)}", expected="an MLflow that the guard knows")
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES", "").strip().lower() in ("true", "1"):
        raise ConfigError("MLFLOW_ENABLE_WORKSPACES is on", expected="a server without workspaces")


def _served(app: Any) -> Any:
    """The app as MLflow serves it: below FastAPI, or alone under gunicorn and waitress."""
    from mlflow.environment_variables import _MLFLOW_SGI_NAME

    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return app
    from mlflow.server.fastapi_app import create_fastapi_app

    served = create_fastapi_app(app)
    native = [
        path for route in served.routes if any(part in (path := str(getattr(route, "path", ""))) for part in _GUARDED)
    ]
    if native:
        raise ConfigError(f"this MLflow serves {native[0]} past the guard", expected="an MLflow that the guard knows")
    return served
