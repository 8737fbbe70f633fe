"""Webhooks of an MLflow server: listed, tested, created. Its secrets can be written but never read."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, final

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.connection import asked, connect, require_answer, transferring
from invmm_gate.tracking.server import absolute

EVENT: Final = "model_version.created"
NAME: Final = "invmm-gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook that tells of new versions."""

    id: str
    name: str
    url: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The result of one delivery that the server made on request."""

    status: int | None
    """None if there was no answer, or if the server itself failed."""
    body: str = ""
    error: str = ""


@final
class Webhooks:
    """Raises RegistryError where the server does not answer or refuses."""

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)
        require_answer(self.uri)
        self._client = connect(self.uri)

    def listed(self) -> tuple[Webhook, ...]:
        """The webhooks for new versions, by name."""
        found = [
            Webhook(id=str(item.webhook_id), name=str(item.name), url=str(item.url), active=_is(item.status, "ACTIVE"))
            for item in self._pages()
            if any(_is(event.entity, "model_version") and _is(event.action, "created") for event in item.events)
        ]
        return tuple(sorted(found, key=lambda webhook: webhook.name))

    def create(self, url: str, secret: bytes) -> None:
        """An active webhook for new versions."""
        with asked(self.uri, "create the webhook"):
            self._client.create_webhook(NAME, url, events=[EVENT], secret=secret.decode(), status="ACTIVE")

    def tried(self, webhook: Webhook, times: int) -> tuple[Tried, ...]:
        """Test deliveries: one, and if that was answered so many in all, side by side to reach all server processes."""
        with transferring(), ThreadPoolExecutor(times) as pool:  # a server tries a dead receiver for some 10 s
            first = self._try(webhook)
            if first.status is None:
                return (first,)
            return (first, *pool.map(lambda _: self._try(webhook), range(times - 1)))

    def _try(self, webhook: Webhook) -> Tried:
        try:
            with asked(self.uri, "test the webhook"):
                result = self._client.test_webhook(webhook.id, EVENT)
        except RegistryError as error:
            return Tried(status=None, error=str(error))
        return Tried(status=result.response_status, body=result.response_body or "", error=result.error_message or "")

    def _pages(self) -> Iterator[Any]:
        token: str | None = None
        while True:
            with asked(self.uri, "list its webhooks"):
                page = self._client.list_webhooks(max_results=100, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _is(value: object, name: str) -> bool:
    return str(value).lower() == name.lower()
