"""The webhook receiver. A delivery is a wake-up and nothing else: the next pass finds out by itself what is to be done.

So a replay does nothing twice, and a delivery that is lost or put off costs at most the time between two passes. It is
served by uvicorn in a thread of its own, with a time limit on headers, which uvicorn does not have.
"""

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.client.webhooks import Secrets, SignatureError, Signed, read_headers, require_signed

_LOGGER: Final = logging.getLogger(__name__)
SERVICE: Final = "invmm-gate"
"""Named in every answer, so that `doctor` can tell this receiver from something else at the same address."""
BODY_LIMIT: Final = 1 << 20
BODY_WITHIN: Final = 10.0
"""Seconds for the whole body."""
CREATED: Final = ("model_version", "created")
"""The one event that wakes. Tag events above all do not: the gate sets tags itself."""
A_MINUTE: Final = 600
"""Signed deliveries that are taken a minute. MLflow tries a delivery again that was put off, and nobody misses it."""
HEADERS_WITHIN: Final = 10.0
"""Seconds from the connection to the end of the headers."""
_CONNECTIONS: Final = 512
"""Open at a time; more are answered with 503, which MLflow tries again."""
_DRAIN_WITHIN: Final = 5
_RETRY_AFTER: Final = {"Retry-After": "30"}
_CLOSE: Final[dict[str, str]] = {"Connection": "close"}
"""One request a connection: then the time that uvicorn gives the first headers bounds every connection."""


@final
class _Allowance:
    """So many at once, and as many more in a minute."""

    def __init__(self, a_minute: int) -> None:
        self._most, self._left, self._at = float(a_minute), float(a_minute), time.monotonic()

    def take(self) -> bool:
        """Whether one more is within it."""
        now = time.monotonic()
        self._left, self._at = min(self._most, self._left + (now - self._at) * self._most / 60), now
        self._left -= (taken := self._left >= 1)
        return taken


def build_app(
    *,
    secrets: Secrets,
    wake: Callable[[], None],
    alive: Callable[[], bool] = lambda: True,
    path: str = "/hook",
    body_within: float = BODY_WITHIN,
    a_minute: int = A_MINUTE,
) -> Starlette:
    """POST on the path wakes, GET /health says whether `alive`; every answer is JSON and closes the connection."""
    allowance = _Allowance(a_minute)

    async def hook(request: Request) -> Response:
        signed, body = await _authentic(request, secrets, body_within)
        if not allowance.take():
            raise HTTPException(429, f"over {a_minute} deliveries a minute", _RETRY_AFTER)
        entity, action = _event(body)
        if (entity, action) != CREATED:
            _LOGGER.info("ignored delivery %s: event %.80r", signed.delivery, f"{entity}.{action}")
            return _json(202, "ignored")
        wake()
        _LOGGER.info("woken by delivery %s", signed.delivery)
        return _json(202, "woken")

    async def health(_: Request) -> Response:
        well = alive()
        return _json(200 if well else 503, "ok" if well else "failing")

    routes = [Route(path, hook, methods=["POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


async def _refused(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, HTTPException) else HTTPException(500)
    reason = "no such page or method" if refusal.status_code in (404, 405) else refusal.detail
    peer = request.client.host if request.client else "an unknown address"
    _LOGGER.warning("refused %d from %s: %s", refusal.status_code, peer, reason)
    return _json(refusal.status_code, "refused", {"reason": reason}, refusal.headers)


async def _authentic(request: Request, secrets: Secrets, body_within: float) -> tuple[Signed, bytes]:
    """The headers and the body of a delivery that was signed just now. Nothing of the body is read before that."""
    given: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        given.setdefault(name, []).append(value)
    try:
        signed = read_headers(given, now=time.time())
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body is not application/json")
        body = await _body(request, body_within)
        require_signed(signed, body, secrets)
    except SignatureError as error:
        raise HTTPException(401, str(error)) from error
    return signed, body


async def _body(request: Request, within: float) -> bytes:
    """The body as it came; its length is counted while it comes, whatever was declared."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_LIMIT:
        raise HTTPException(413, f"a body of over {BODY_LIMIT} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(within):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise HTTPException(413, f"a body of over {BODY_LIMIT} bytes")
    except TimeoutError as error:
        raise HTTPException(408, f"the body took over {within:g} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the sender hung up") from error
    return bytes(body)


def _event(body: bytes) -> tuple[object, object]:
    """Entity and action: all that is taken from a delivery."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise HTTPException(400, "the body is no JSON object")
    return event.get("entity"), event.get("action")


def _json(
    status: int, said: str, more: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse({"service": SERVICE, "status": said, **(more or {})}, status, {**_CLOSE, **(headers or {})})


@final
class ImpatientProtocol(H11Protocol):
    """Hangs up on a sender whose headers are not complete in time; the app limits the body itself."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the time."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADERS_WITHIN, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            _LOGGER.warning("hung up on %s: no complete headers in %g s", (self.client or ("?",))[0], HEADERS_WITHIN)
            self.transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}", expected="a free port of this machine"
        ) from error


@contextlib.contextmanager
def answering(app: Starlette, bound: socket.socket) -> Iterator[threading.Thread]:
    """A thread that serves the app on the bound socket, and that ends if it fails.

    At the end of the block it takes no more connections, and finishes those that are open.
    """
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a sender could otherwise choose the address that is logged
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_DRAIN_WITHIN,
    )
    server = uvicorn.Server(config)

    def run() -> None:
        try:
            server.run(sockets=[bound])
        except Exception:  # the thread's outermost place: the supervisor sees that it is dead and stops
            _LOGGER.exception("the receiver stopped")

    thread = threading.Thread(target=run, name="receiver", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(_DRAIN_WITHIN + 2)
        with contextlib.suppress(OSError):
            bound.close()
