"""The doctor: what loses webhooks is found on real servers, and a sound set-up has nothing failed."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from invmm_gate.registry.client.webhooks import Secrets, Webhooks
from invmm_gate.registry.service import doctor
from invmm_gate.registry.service.doctor import diagnose, exit_code
from invmm_gate.registry.service.receiver import answering, bind, build_app
from tests.registry.door import KEY
from tests.registry.servers import mlflow_server

OTHER = b"quite-another-secret"


@contextmanager
def receiving(key=KEY):
    """A receiver; its URL."""
    app = build_app(secrets=Secrets((key,)), wake=lambda: None)
    bound = bind("127.0.0.1", 0)
    with answering(app, bound):
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/hook"


@pytest.fixture
def webhooks(plain_server):
    """The server's webhooks; gone afterwards."""
    found = Webhooks(plain_server.uri)
    yield found
    for webhook in found.listed():
        found._client.delete_webhook(webhook.id)


def lines(*arguments, **options):
    checks = list(diagnose(*arguments, **options))
    return [str(check) for check in checks], exit_code(checks)


def the(found, *words):
    """The one line with all these words."""
    matching = [line for line in found if all(word in line for word in words)]
    assert len(matching) == 1, found
    return matching[0]


def test_a_sound_set_up_has_nothing_failed_and_its_webhook_is_created_once(plain_server, webhooks):
    with receiving() as url:
        missing, code = lines(plain_server.uri, receiver=url)
        assert (code, the(missing, "none for model_version.created")[:6]) == (11, "failed")
        found, code = lines(plain_server.uri, receiver=url, create_for=Secrets((KEY,)))
        assert code == 0, found
        assert {line.split()[0] for line in found} == {"ok"}
        the(found, "MLflow 3.")
        the(found, "clock")
        the(found, "created for", "60 s")
        the(found, "8 of 8 test deliveries", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")
        the(found, "refuses what is not signed")
        again, code = lines(plain_server.uri, receiver=url, create_for=Secrets((KEY,)))
        assert code == 0
        assert not [line for line in again if "created for" in line]


def test_another_secret_or_none_is_told_apart_from_a_dead_receiver(plain_server, webhooks):
    with receiving(key=OTHER) as url:
        webhooks.create(url, KEY)
        found, code = lines(plain_server.uri, receiver=url)
        assert code == 11
        assert "wrong signature" in the(found, "failed", "0 of 8")
        webhooks._client.create_webhook("unsigned", url + "?no-secret", events=["model_version.created"])
        found, _ = lines(plain_server.uri, receiver=url + "?no-secret")
        assert "0 headers" in the(found, "failed", "0 of 8")
    found, code = lines(plain_server.uri, receiver=url)
    assert code == 11
    assert "invmm-gate registry serve" in the(found, "failed", "0 of 1")
    the(found, "warning", "without a signature")


def test_a_disabled_webhook_and_one_for_other_events_do_not_count(plain_server, webhooks):
    with receiving() as url:
        webhooks._client.create_webhook("aliases", url, events=["model_version_alias.created"], secret=KEY.decode())
        found, code = lines(plain_server.uri, receiver=url)
        the(found, "failed", "none for")
        webhooks._client.create_webhook(
            "off", url, events=["model_version.created"], secret=KEY.decode(), status="DISABLED"
        )
        found, code = lines(plain_server.uri, receiver=url)
        assert "ACTIVE" in the(found, "failed", "disabled")
        assert code == 11
    for webhook in webhooks._client.list_webhooks():
        webhooks._client.delete_webhook(webhook.webhook_id)


class AcceptsAll(BaseHTTPRequestHandler):
    """Something else at the receiver's address, that says yes to everything."""

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"service": "another"}).encode())

    def log_message(self, *_):
        pass


@contextmanager
def elsewhere(answer=200, to=""):
    """Some other service; its URL, and the requests that did not come from MLflow."""
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            if "X-MLflow-Delivery-Id" not in self.headers:
                asked.append(self.path)
            self.send_response(answer)
            if to:
                self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_doctor_asks_nobody_whom_only_the_registry_names(plain_server, webhooks):
    with elsewhere() as (inside, asked), elsewhere(302, to=inside) as (redirecting, redirected):
        webhooks.create(redirecting, KEY)
        found, _ = lines(plain_server.uri)
        the(found, "warning", "not tried from here without a signature", "--receiver-url")
        assert (asked, redirected) == ([], [])
        found, _ = lines(plain_server.uri, receiver=redirecting)
        assert "302" in the(found, "failed", "an unsigned delivery was answered")
        assert (asked, redirected) == ([], ["/hook"])


def test_something_else_at_the_address_is_not_taken_for_the_receiver(plain_server, webhooks):
    server = ThreadingHTTPServer(("127.0.0.1", 0), AcceptsAll)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        webhooks.create(url, KEY)
        found, code = lines(plain_server.uri, receiver=url)
    finally:
        server.shutdown()
        server.server_close()
    assert code == 11
    the(found, "failed", "something else")
    the(found, "failed", "unsigned delivery was answered with 200")


def test_a_server_with_its_defaults_refuses_loopback_and_a_restart_loses_its_secrets(tmp_path):
    bare = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "false",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "",
    }
    here, secrets = "http://127.0.0.1:9/hook", Secrets((KEY,))
    with mlflow_server(tmp_path / "server", environment=bare) as server:
        found, code = lines(server.uri, receiver=here, create_for=secrets)
        assert (code, "MLFLOW_WEBHOOK_ALLOWED_SCHEMES" in the(found, "failed")) == (11, True)
        found, code = lines(server.uri, receiver=here.replace("http:", "https:"), create_for=secrets)
        assert (code, "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS" in the(found, "failed")) == (11, True)
        Webhooks(server.uri).create("https://1.1.1.1/never-called", KEY)
        assert "none for" in the(lines(server.uri, receiver=here)[0], "failed")
        server.stop()
        server.start()
        found, code = lines(server.uri, receiver=here)
        assert (code, "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" in the(found, "failed")) == (11, True)


def test_a_database_or_a_dead_server_is_a_failed_check_and_no_traceback(tmp_path):
    found, code = lines(f"sqlite:///{tmp_path}/mlflow.db")
    assert (code, "registry sync" in the(found, "failed", "only a server")) == (11, True)
    found, code = lines("http://127.0.0.1:9")
    assert (code, len(found)) == (11, 1)


@pytest.mark.parametrize(("seconds", "outcome"), [(0, "ok"), (100, "warning"), (-4000, "failed")])
def test_a_clock_that_differs_is_told_before_deliveries_are_refused(seconds, outcome):
    import datetime
    import email.utils

    there = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    assert doctor._clock(email.utils.format_datetime(there, usegmt=True)).outcome == outcome


def test_a_server_without_a_time_is_a_warning():
    assert doctor._clock("").outcome == "warning"
