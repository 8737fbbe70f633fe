"""uvicorn in a thread of its own, with a time limit on headers, which uvicorn does not have."""

import asyncio
import contextlib
import socket
import threading
from typing import Final, final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.service.logs import LOGGER

HEADERS_WITHIN: Final = 10.0
"""Seconds from the connection to the end of the headers."""
_CONNECTIONS: Final = 512
"""Open at a time; more are answered with 503, which MLflow tries again."""
_DRAIN_WITHIN: Final = 5


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
            LOGGER.warning("hung up on %s: no complete headers in %g s", (self.client or ("?",))[0], HEADERS_WITHIN)
            self.transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}", expected="a free port of this machine"
        ) from error
    return bound


@final
class HttpServer:
    """Serves one app on one bound socket. In a `with` block: started on entry, drained and stopped on exit."""

    def __init__(self, app: Starlette, bound: socket.socket) -> None:
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
        self._bound, self._server = bound, uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def __enter__(self) -> "HttpServer":
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more connections, and finish those that are open."""
        self._server.should_exit = True
        self._thread.join(_DRAIN_WITHIN + 2)
        with contextlib.suppress(OSError):
            self._bound.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._bound.getsockname()[1])

    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._bound])
        except Exception:  # the thread's outermost place: the supervisor sees that it is dead and stops
            LOGGER.exception("the receiver stopped")
