"""`doctor`: the server settings that lose webhooks, looked for one by one. A lost webhook only delays a gate."""

import datetime
import email.utils
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from invmm_gate.core.errors import INCONCLUSIVE, PASS, GateError
from invmm_gate.registry.client.webhooks import EVENT, WINDOW, Secrets, Tried, Webhook, Webhooks
from invmm_gate.tracking.spool import without_credentials

_TRIES: Final = 8
"""MLflow starts four processes by default: the chance that eight deliveries miss one of them is a tenth each."""
_WITHIN: Final = 5.0
_SKEW: Final = 30.0
_KEY: Final = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
_UNREADABLE: Final = (
    f"the server's log says why, with MLFLOW_LOGGING_LEVEL=DEBUG; if that is InvalidToken, set {_KEY} on the server,"
    " each process of which makes up another key at each start, empty its database's table `webhooks`, whose rows even"
    " MLflow can no longer delete, and create them anew"
)
_SERVER_SIDE: Final = {
    "Invalid webhook URL scheme": "set MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https on the server, or use https",
    "non-public": "set MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true on the server: the receiver has a private address",
    "not a public IP": "set MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true on the server: the receiver has a private address",
    "Connection refused": "start `invmm-gate registry serve`, or correct the webhook's URL",
}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection is the answer: what is asked must not choose who else is asked."""

    def redirect_request(self, *_: object) -> None:
        return None


Outcome = Literal["ok", "warning", "failed"]

_OPENER: Final = urllib.request.build_opener(_NoRedirects)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    about: str
    outcome: Outcome
    found: str
    do: str = ""

    def __str__(self) -> str:
        """One line, the outcome as a word."""
        return f"{self.outcome:8}{self.about}: {self.found}" + (f"; {self.do}" if self.do else "")


def diagnose(tracking_uri: str, *, receiver: str | None = None, create_for: Secrets | None = None) -> Iterator[Check]:
    """Each check as soon as it is done. `receiver` is the URL that the server should deliver to.

    With `create_for`, a missing webhook is created with its first secret. What does not answer is a failed check.
    """
    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        yield Check(
            "server",
            "failed",
            f"{without_credentials(tracking_uri)} is a database, and only a server sends webhooks",
            "run `invmm-gate registry sync` from cron, or start `mlflow server`",
        )
        return
    try:
        webhooks = Webhooks(tracking_uri)
        yield from _server(webhooks.uri)
    except GateError as error:
        yield Check("server", "failed", str(error))
        return
    try:
        yield from _webhooks(webhooks, receiver, create_for)
    except GateError as error:
        yield Check("webhook", "failed", str(error), _advice(str(error)) or _UNREADABLE)


def exit_code(checks: list[Check]) -> int:
    """0 unless a check failed."""
    return INCONCLUSIVE if any(check.outcome == "failed" for check in checks) else PASS


def _server(uri: str) -> Iterator[Check]:
    answer = _asked(f"{uri.rstrip('/')}/version")
    if isinstance(answer, str):
        yield Check("server", "warning", f"its version is not told: {answer}")
        return
    status, headers, body = answer
    version = body.decode("utf-8", "replace").strip()[:40] if status == http.HTTPStatus.OK else "of unknown version"
    yield Check("server", "ok", f"MLflow {version} at {without_credentials(uri)}")
    yield _clock(headers.get("date", ""))


def _clock(date: str) -> Check:
    try:
        there = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return Check("clock", "warning", "the server does not tell its time")
    apart = abs((datetime.datetime.now(datetime.UTC) - there).total_seconds())
    found = f"{apart:.0f} s apart"
    if apart <= _SKEW:
        return Check("clock", "ok", found)
    refused = apart > WINDOW
    return Check(
        "clock",
        "failed" if refused else "warning",
        f"{found}; deliveries are refused beyond {WINDOW:.0f} s",
        "set both clocks by NTP",
    )


def _webhooks(webhooks: Webhooks, receiver: str | None, create_for: Secrets | None) -> Iterator[Check]:
    found = [webhook for webhook in webhooks.listed() if receiver in (None, webhook.url)]
    if not found and create_for is not None and receiver is not None:
        webhooks.create(receiver, create_for.keys[0])
        yield Check(
            "webhook",
            "ok",
            f"created for {receiver}",
            "versions made in the next 60 s (MLFLOW_WEBHOOK_CACHE_TTL) may not be told of yet",
        )
        found = [webhook for webhook in webhooks.listed() if webhook.url == receiver]
    if not found:
        to = f" to {receiver}" if receiver else ""
        yield Check("webhook", "failed", f"none for {EVENT}{to}", "give --create-webhook and --receiver-url")
    if len(found) > 1 and receiver:
        yield Check("webhook", "warning", f"{len(found)} to {receiver}: each version is told twice")
    for webhook in found:
        yield from _webhook(webhooks, webhook, receiver)


def _webhook(webhooks: Webhooks, webhook: Webhook, receiver: str | None) -> Iterator[Check]:
    about = f"webhook {webhook.name}"
    if not webhook.active:
        yield Check(about, "failed", f"disabled, to {webhook.url}", "set its status to ACTIVE")
        return
    yield Check(about, "ok", f"active, to {webhook.url}")
    yield _deliveries(webhooks.tried(webhook, _TRIES), about)
    yield _unsigned(webhook, about, receiver)


def _deliveries(tried: tuple[Tried, ...], about: str) -> Check:
    taken = [one for one in tried if one.status is not None and one.status < 300 and _is_ours(one.body)]
    if len(taken) == len(tried):
        return Check(
            about,
            "ok",
            f"{len(taken)} of {len(tried)} test deliveries arrived, signed with the receiver's secret",
            f"see that {_KEY} is set on the server: without it a restart loses the secret",
        )
    bad = next(one for one in tried if one not in taken)
    found, do = _why(bad)
    if taken:
        do = f"the server's processes differ: set {_KEY}, empty its table `webhooks` and create them anew"
    return Check(about, "failed", f"{len(taken)} of {len(tried)} test deliveries arrived: {found}", do)


def _why(one: Tried) -> tuple[str, str]:
    if one.status == http.HTTPStatus.UNAUTHORIZED and _is_ours(one.body):
        do = "give webhook and receiver the same secret; a webhook without one is never accepted"
        return f"the receiver does not accept the signature ({_reason(one.body)})", do
    if one.status is not None and not _is_ours(one.body):
        return f"something else than this receiver answered, with {one.status}", "correct the webhook's URL"
    if one.status is not None:
        return f"the receiver answered {one.status} ({_reason(one.body)})", "see the receiver's log"
    return one.error[:200], _advice(one.error) or _UNREADABLE


def _unsigned(webhook: Webhook, about: str, receiver: str | None) -> Check:
    """Straight from here, as anybody could; to the receiver only: who writes to the registry chose the others."""
    if webhook.url != receiver:
        return Check(about, "warning", "not tried from here without a signature", "give --receiver-url")
    answer = _asked(webhook.url, b"{}")
    if isinstance(answer, str):
        return Check(about, "warning", f"not tried from here without a signature: {answer}")
    if answer[0] == http.HTTPStatus.UNAUTHORIZED:
        return Check(about, "ok", "the receiver refuses what is not signed")
    return Check(about, "failed", f"an unsigned delivery was answered with {answer[0]}, not 401")


def _asked(url: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes] | str:
    """Status, headers and the beginning of the answer; or why there is none."""
    if urlsplit(url).scheme not in ("http", "https"):
        return "not an http address"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  (checked above)
    try:
        try:
            answer = _OPENER.open(request, timeout=_WITHIN)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return int(answer.status), headers, bytes(answer.read(1000))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error)


def _is_ours(body: str) -> bool:
    return _said(body).get("service") == "invmm-gate"


def _reason(body: str) -> str:
    return str(_said(body).get("reason", "no reason given"))[:100]


def _said(body: str) -> dict[str, object]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _advice(error: str) -> str:
    return next((do for words, do in _SERVER_SIDE.items() if words in error), "")
