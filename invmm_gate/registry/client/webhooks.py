"""Webhooks of an MLflow server: listed, tested, created, and how their deliveries are signed.

Its secrets can be written but never read. A signature is HMAC-SHA256 over delivery id, timestamp and the body as it
came.
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.errors import ConfigError, RegistryError
from invmm_gate.files.regular import PRIVATE_MODES, read_small
from invmm_gate.registry.client.connection import asked, connect, require_answer, transferring
from invmm_gate.tracking.server import absolute

EVENT: Final = "model_version.created"
NAME: Final = "invmm-gate"

SECRET_VARIABLE: Final = "INVMM_GATE_WEBHOOK_SECRET"  # noqa: S105  (a variable's name)
SHORTEST_SECRET: Final = 16
"""Characters. MLflow takes any text as the key, so nothing but its length can be asked of it."""
WINDOW: Final = 300.0
"""Seconds, to both sides. MLflow sends its retries, some seconds later, with the first attempt's timestamp."""

DELIVERY_HEADER: Final = "x-mlflow-delivery-id"
TIMESTAMP_HEADER: Final = "x-mlflow-timestamp"
SIGNATURE_HEADER: Final = "x-mlflow-signature"

_DELIVERY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""No dot: it separates the parts that are signed."""
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_SIGNATURE: Final = re.compile(r"v1,[A-Za-z0-9+/]{43}=")
_SECRETS: Final = "a file of webhook secrets, one a line, mode 0600"
_DO: Final = f"set {SECRET_VARIABLE} or give --secret-file, with the secret of the webhook"


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


class SignatureError(Exception):
    """A delivery that nobody who knows the secret has signed just now; the text never quotes the delivery."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets that a delivery may be signed with: one, or the old and the new one during a rotation."""

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuses what would let anybody sign. Raises ConfigError."""
        if not self.keys:
            raise ConfigError("there is no webhook secret", expected=f"at least {SHORTEST_SECRET} characters", do=_DO)
        shortest = min(len(key) for key in self.keys)
        if shortest < SHORTEST_SECRET:
            raise ConfigError(
                f"a webhook secret of {shortest} characters", expected=f"at least {SHORTEST_SECRET}", do=_DO
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The signed headers of a delivery."""

    delivery: str
    timestamp: str
    signature: str


def read_secrets(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Secrets:
    """The secrets of a file, one a line, or of the environment, separated by white space. Raises ConfigError."""
    text = _read_private(file) if file is not None else environ.get(SECRET_VARIABLE, "")
    return Secrets(tuple(word.encode() for word in text.split()))


def _read_private(path: Path) -> str:
    try:
        return read_small(path, what=_SECRETS, limit=65_536, modes=PRIVATE_MODES).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is no text", expected=_SECRETS) from error


def read_headers(headers: Mapping[str, Sequence[str]], *, now: float) -> Signed:
    """The signature's parts, well-formed and of this time; the signature itself is not checked yet.

    `headers` maps a lower-case name to all values given for it. Raises SignatureError.
    """
    signed = Signed(
        delivery=_only(headers, DELIVERY_HEADER, _DELIVERY),
        timestamp=_only(headers, TIMESTAMP_HEADER, _TIMESTAMP),
        signature=_only(headers, SIGNATURE_HEADER, _SIGNATURE),
    )
    age = now - int(signed.timestamp)
    if abs(age) > WINDOW:
        raise SignatureError(f"timestamp {abs(age):.0f} s in the {'past' if age > 0 else 'future'}")
    return signed


def _only(headers: Mapping[str, Sequence[str]], name: str, form: re.Pattern[str]) -> str:
    values = headers.get(name, ())
    if len(values) != 1:
        raise SignatureError(f"{len(values)} headers {name} instead of one")
    if not form.fullmatch(values[0]):
        raise SignatureError(f"malformed header {name}")
    return values[0]


def require_signed(signed: Signed, body: bytes, secrets: Secrets) -> None:
    """Raises SignatureError unless one of the secrets signed these very bytes."""
    given = signed.signature.encode()
    matches = [
        hmac.compare_digest(given, sign(key, delivery=signed.delivery, timestamp=signed.timestamp, body=body).encode())
        for key in secrets.keys
    ]
    if not any(matches):
        raise SignatureError("wrong signature")


def sign(key: bytes, *, delivery: str, timestamp: str, body: bytes) -> str:
    """The signature header that MLflow sends with this delivery."""
    content = b".".join((delivery.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
