"""The receiver: what is refused, with which status, and that nothing of it wakes the service."""

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.client.webhooks import (
    Secrets,
    SignatureError,
    read_headers,
    read_secrets,
    require_signed,
    sign,
)
from invmm_gate.registry.service.receiver import BODY_LIMIT, answering, bind, build_app
from tests.registry.door import KEY, deliver, event, headers, post, until

OLD_KEY = b"the-secret-of-last-month"


class Set:
    """A receiver on loopback that counts how often it wakes the service."""

    def __init__(self, **changes):
        self.woken = 0
        app = build_app(secrets=Secrets((KEY, OLD_KEY)), wake=self.wake, **changes)
        bound = bind("127.0.0.1", 0)
        self.port, self.server = bound.getsockname()[1], answering(app, bound)

    def wake(self):
        self.woken += 1

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)


@pytest.fixture
def here():
    with Set() as found:
        yield found


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", "invmm_gate.registry")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("invmm_gate.registry")]


def test_a_signed_delivery_wakes_the_service_and_connections_are_closed(here):
    status, answer, head = post(here.port, event("cand.x", "12"))
    assert (status, answer["status"]) == (202, "woken")
    assert head["connection"] == "close"
    assert here.woken == 1


def test_what_a_delivery_says_goes_nowhere(here, lines):
    body = event("../../etc", "\x1b[2J", source="http://169.254.169.254/latest", tags={"invmm.gate": "pass"})
    assert post(here.port, body)[0] == 202
    assert here.woken == 1
    assert not [line for line in lines() if "etc" in line or "169.254" in line or "\x1b" in line]


def without(head, name):
    return {key: value for key, value in head.items() if key != name}


BAD = {
    "no signature": (401, lambda body: without(headers(body), "X-MLflow-Signature")),
    "no delivery id": (401, lambda body: without(headers(body), "X-MLflow-Delivery-Id")),
    "no timestamp": (401, lambda body: without(headers(body), "X-MLflow-Timestamp")),
    "another key": (401, lambda body: headers(body, key=b"somebody-else-entirely")),
    "another body": (401, lambda body: headers(body + b" ")),
    "another delivery id": (401, lambda body: headers(body) | {"X-MLflow-Delivery-Id": "a-b-c"}),
    "another timestamp": (401, lambda body: headers(body) | {"X-MLflow-Timestamp": str(int(time.time()) - 1)}),
    "an old timestamp": (401, lambda body: headers(body, at=time.time() - 302)),
    "a future timestamp": (401, lambda body: headers(body, at=time.time() + 302)),
    "a timestamp that is no number": (401, lambda body: headers(body) | {"X-MLflow-Timestamp": "+1e9"}),
    "a timestamp in other digits": (401, lambda body: headers(body) | {"X-MLflow-Timestamp": "\xb2\xb3"}),
    "an empty signature": (401, lambda body: headers(body) | {"X-MLflow-Signature": ""}),
    "a version of signatures that is not ours": (
        401,
        lambda body: headers(body) | {"X-MLflow-Signature": headers(body)["X-MLflow-Signature"].replace("v1", "v2")},
    ),
    "a delivery id with a dot": (401, lambda body: headers(body, delivery="a.b")),
    "a delivery id without end": (401, lambda body: headers(body, delivery="a" * 129)),
    "another content type": (415, lambda body: headers(body, Content_Type="text/plain")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_delivery_that_is_not_signed_now_is_refused_and_logged_without_its_body(here, lines, case):
    status, make = BAD[case]
    body = event(description="the private words of the body")
    answer = post(here.port, body, make(body))
    assert answer[0] == status
    assert answer[1]["status"] == "refused"
    assert here.woken == 0
    refused = [line for line in lines() if line.startswith("refused")]
    assert len(refused) == 1
    assert str(status) in refused[0]
    assert "private" not in refused[0]


def test_a_signature_given_twice_is_refused(here):
    body = event()
    head = headers(body)
    raw = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    raw += f"X-MLflow-Signature: {head['X-MLflow-Signature']}\r\nContent-Length: {len(body)}\r\nHost: h\r\n"
    assert b" 401 " in send(here.port, b"POST /hook HTTP/1.1\r\n" + raw.encode() + b"\r\n" + body)
    assert here.woken == 0


def test_both_secrets_count_during_a_rotation(here):
    assert deliver(here.port, version="1", key=KEY) == 202
    assert deliver(here.port, version="2", key=OLD_KEY) == 202


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"\xff\xfe"),
        (400, b"[" * 100_000),
        (400, b"[1]"),
        (400, b"null"),
    ],
)
def test_a_signed_delivery_that_makes_no_sense_is_refused(here, status, body):
    answer = post(here.port, body)
    assert answer[0] == status
    assert len(json.dumps(answer[1])) < 200
    assert here.woken == 0


@pytest.mark.parametrize(
    ("entity", "action"),
    [
        ("model_version_tag", "set"),
        ("model_version_tag", "deleted"),
        ("model_version_alias", "created"),
        ("registered_model", "created"),
        ("model_version", "deleted"),
        ("\x1b[2J", "created"),
        (None, None),
        ({"a": 1}, ["b"]),
    ],
)
def test_other_events_are_taken_but_never_run(here, lines, entity, action):
    status, answer, _ = post(here.port, event(entity=entity, action=action, key="invmm.gate", value="pending"))
    assert (status, answer["status"]) == (202, "ignored")
    assert here.woken == 0
    assert any(line.startswith("ignored") and "\x1b" not in line for line in lines())


def test_a_replay_is_one_more_wake_up(here):
    body = event()
    head = headers(body)
    assert [post(here.port, body, head)[0] for _ in range(3)] == [202] * 3
    assert here.woken == 3


def test_a_flood_is_put_off_and_what_is_not_signed_has_no_part_in_it():
    with Set(a_minute=5) as here:
        assert [deliver(here.port, key=b"somebody-else-entirely") for _ in range(20)] == [401] * 20
        answers = [post(here.port, event()) for _ in range(8)]
        assert [status for status, _, _ in answers[:5]] == [202] * 5
        status, answer, head = answers[-1]
        assert (status, answer["reason"]) == (429, "over 5 deliveries a minute")
        assert int(head["retry-after"]) > 0
        assert here.woken == 5 + [status for status, _, _ in answers[5:]].count(202)


def test_more_deliveries_are_taken_as_time_goes_by():
    with Set(a_minute=120) as here:
        for _ in range(1000):
            if deliver(here.port) == 429:
                break
        assert until(lambda: deliver(here.port) == 202, 20, what="the next allowance")


def send(port, data, wait=60.0):
    """The whole answer to raw bytes; what is cut off by a reset counts as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        received = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def raw_head(body, *length):
    return (
        b"POST /hook HTTP/1.1\r\nHost: h\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in (*headers(body).items(), *length)).encode()
    )


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_read(here):
    assert b" 413 " in send(here.port, raw_head(b"", ("Content-Length", 10 << 20)) + b"\r\n")


def test_a_body_of_ten_mebibytes_leaves_nothing_behind(here, lines):
    body = event(description="x" * (10 << 20))
    send(here.port, raw_head(body, ("Content-Length", len(body))) + b"\r\n" + body)
    assert here.woken == 0
    assert any("refused 413" in line for line in lines())


def test_a_body_that_grows_beyond_the_limit_without_saying_so_is_refused(here):
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    answer = send(
        here.port, raw_head(b"", ("Transfer-Encoding", "chunked")) + b"\r\n" + chunk * (BODY_LIMIT // 65536 + 1)
    )
    assert b" 413 " in answer
    assert here.woken == 0


def test_a_body_in_chunks_below_the_limit_is_fine(here):
    body = event()
    data = raw_head(body, ("Transfer-Encoding", "chunked")) + b"\r\n"
    data += b"".join(b"1\r\n" + body[at : at + 1] + b"\r\n" for at in range(len(body))) + b"0\r\n\r\n"
    assert b" 202 " in send(here.port, data)


def test_a_body_that_trickles_in_is_given_up():
    with Set(body_within=0.5) as here:
        assert b" 408 " in send(here.port, raw_head(b"", ("Content-Length", 100)) + b"\r\nab")
        assert here.woken == 0


def test_headers_that_trickle_in_are_given_up_while_others_are_served(monkeypatch):
    monkeypatch.setattr("invmm_gate.registry.service.receiver.HEADERS_WITHIN", 0.7)
    with Set() as here, ThreadPoolExecutor(20) as pool:
        stop = threading.Event()

        def trickle():
            with socket.create_connection(("127.0.0.1", here.port), timeout=60) as connection:
                try:
                    for byte in b"POST /hook HTTP/1.1\r\nX-Long: " + b"a" * 10_000:
                        connection.send(bytes([byte]))
                        if stop.wait(0.05):
                            return "still open"
                except OSError:
                    return "hung up"
            return "still open"

        slow = [pool.submit(trickle) for _ in range(20)]
        assert deliver(here.port) == 202
        closed = [one.result(60) for one in slow]
        stop.set()
    assert closed == ["hung up"] * 20


def test_a_second_request_on_a_connection_is_not_read(here):
    body = event()
    request = raw_head(body, ("Content-Length", len(body))) + b"\r\n" + body
    assert send(here.port, request + request).count(b"HTTP/1.1") == 1


def test_other_pages_and_methods_are_refused_in_json(here):
    assert post(here.port, method="GET", path="/hook")[0] == 405
    assert post(here.port, method="POST", path="/other")[:2] == (
        404,
        {"service": "invmm-gate", "status": "refused", "reason": "no such page or method"},
    )


def test_health_says_whether_the_parts_are_alive():
    alive = [True]
    with Set(alive=lambda: alive[0]) as here:
        answer = post(here.port, method="GET", path="/health", head={})
        assert answer[:2] == (200, {"service": "invmm-gate", "status": "ok"})
        alive[0] = False
        assert post(here.port, method="GET", path="/health", head={})[0] == 503


def test_a_port_in_use_is_said_in_one_line(here):
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("127.0.0.1", here.port)


@pytest.mark.parametrize("secret", ["", "  ", "short", "long-enough-to-be-used short"])
def test_a_receiver_without_a_real_secret_does_not_start(secret):
    with pytest.raises(ConfigError, match="secret"):
        read_secrets(environ={"INVMM_GATE_WEBHOOK_SECRET": secret})


def test_a_secret_file_must_be_private_and_may_hold_two(tmp_path):
    path = tmp_path / "secret"
    path.write_text("the-new-secret-of-june\nthe-old-secret-of-may\n")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="has mode 0640"):
        read_secrets(path)
    path.chmod(0o600)
    secrets = read_secrets(path)
    assert secrets.keys == (b"the-new-secret-of-june", b"the-old-secret-of-may")
    assert "june" not in repr(secrets)
    with pytest.raises(ConfigError, match="No such file"):
        read_secrets(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="folder, pipe or device"):
        read_secrets(tmp_path / "fifo")


def test_a_delivery_as_mlflow_sent_it_is_accepted():
    """Header and body as a real server sent them, signed by MLflow's own function."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = event("sd-1", "1").decode()
    theirs = _generate_hmac_signature(KEY.decode(), "e3fa2e86-5104", "1795279036", body)
    assert theirs == sign(KEY, delivery="e3fa2e86-5104", timestamp="1795279036", body=body.encode())


@given(body=st.binary(max_size=200), at=st.integers(0, 2**31), flip=st.integers(0, 10_000), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_a_signed_delivery_is_noticed(body, at, flip, data):
    head = {name.lower(): [value] for name, value in headers(body, at=at).items()}
    signed = read_headers(head, now=at)
    require_signed(signed, body, Secrets((OLD_KEY, KEY)))
    changed = bytearray(body or b"x")
    changed[flip % len(changed)] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        require_signed(signed, bytes(changed), Secrets((KEY,)))
    with pytest.raises(SignatureError):
        require_signed(signed, body, Secrets((OLD_KEY,)))


@given(st.floats(-400, 400))
def test_the_window_is_five_minutes_to_both_sides(late):
    head = {name.lower(): [value] for name, value in headers(b"", at=1_000_000).items()}
    if abs(late) <= 300:
        assert read_headers(head, now=1_000_000 + late).timestamp == "1000000"
    else:
        with pytest.raises(SignatureError, match="timestamp"):
            read_headers(head, now=1_000_000 + late)
