"""Every change of an attestation file is found, whatever it would decode to."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.attest.envelope import MAX_BYTES, open_envelope, pre_authentication_encoding, sign_envelope
from invmm_gate.attest.keys import SigningKey, TrustRoots
from invmm_gate.attest.statement import PAYLOAD_TYPE, to_payload
from invmm_gate.core.errors import VerificationError
from tests.attest.material import STATEMENT, WAIVER, expected, key_pair, signed, verify_attestation


@pytest.fixture(scope="module")
def envelope(key: SigningKey) -> bytes:
    """About 4 KiB, as a run with a few waivers gives."""
    waivers = tuple(replace(WAIVER, probe=f"planted08-{n:02d}") for n in range(7))
    left_out = tuple(f"unet/part-{n:02d}.safetensors" for n in range(15))
    return signed(key, decision="pass_with_waiver", waivers=waivers, left_out=left_out)


EXPECTED = expected()


def accepted(envelope: bytes, roots: TrustRoots) -> bool:
    try:
        verify_attestation(envelope, roots, EXPECTED)
    except VerificationError:
        return False
    return True


def spoilt(envelope: bytes) -> Iterator[bytes]:
    """Each byte with each of its 8 bits flipped, dropped, and doubled; each gap with a space put in."""
    for at, byte in enumerate(envelope):
        before, after = envelope[:at], envelope[at + 1 :]
        yield from (before + bytes((byte ^ 1 << bit,)) + after for bit in range(8))
        yield before + after
        yield from (before + bytes((extra, byte)) + after for extra in (byte, 0x20))
    yield from (envelope + extra for extra in (b" ", b"\n", b"\0", b"A"))


def test_no_single_byte_of_a_4_kib_attestation_can_be_changed_dropped_or_added(envelope, roots):
    assert 3_900 <= len(envelope) <= 4_400
    assert accepted(envelope, roots)
    tried = let_through = 0
    for changed in spoilt(envelope):
        if changed != envelope:
            tried += 1
            let_through += accepted(changed, roots)
    assert let_through == 0
    assert tried > 10 * len(envelope)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_run_of_bytes_can_be_replaced(data, envelope, roots):
    start = data.draw(st.integers(0, len(envelope)))
    end = data.draw(st.integers(start, min(len(envelope), start + 40)))
    changed = envelope[:start] + data.draw(st.binary(max_size=40)) + envelope[end:]
    assert accepted(changed, roots) == (changed == envelope)


@settings(max_examples=200, deadline=None)
@given(garbage=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_a_file_of_something_else_is_refused_in_one_line(garbage, roots):
    with pytest.raises(VerificationError, match=r"\Aenvelope: .*; expected the unchanged file"):
        verify_attestation(garbage, roots, expected())


def other_spellings(envelope: bytes) -> dict[str, bytes]:
    """Files that a lenient reader would take for the same envelope."""
    plain = json.loads(envelope)
    payload, signature = plain["payload"], plain["signatures"][0]
    return {
        "indented": json.dumps(plain, indent=2).encode() + b"\n",
        "another order": json.dumps(dict(reversed(plain.items())), separators=(",", ":")).encode() + b"\n",
        "escaped letter": envelope.replace(b'"payload"', b'"p\\u0061yload"', 1),
        "escaped slash": envelope.replace(b"application/vnd", b"application\\/vnd", 1),
        "no newline": envelope.rstrip(b"\n"),
        "carriage return": envelope.replace(b"\n", b"\r\n"),
        "byte order mark": b"\xef\xbb\xbf" + envelope,
        "key twice": envelope.replace(b'{"payload"', b'{"payload":"AA==","payload"', 1),
        "unknown key": envelope.replace(b'{"payload"', b'{"note":1,"payload"', 1),
        "two signatures": json.dumps(plain | {"signatures": [signature, signature]}, separators=(",", ":")).encode()
        + b"\n",
        "no signature": json.dumps(plain | {"signatures": []}, separators=(",", ":")).encode() + b"\n",
        "base64 of the web": envelope.replace(
            payload.encode(), base64.urlsafe_b64encode(base64.b64decode(payload))[:-1] + b"-", 1
        ),
        "base64 with loose bits": with_loose_bits(envelope),
        "base64 with a newline": envelope.replace(
            payload.encode(), payload.encode()[:40] + b"\\n" + payload.encode()[40:], 1
        ),
        "key id in capitals": envelope.replace(signature["keyid"].encode(), signature["keyid"].upper().encode(), 1),
    }


def with_loose_bits(envelope: bytes) -> bytes:
    """The signature's base64 with other unused bits: 64 bytes leave four of them."""
    text = json.loads(envelope)["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    loose = alphabet[alphabet.index(text[-3]) + 1]
    changed = text[:-3] + loose + "=="
    assert base64.b64decode(changed) == base64.b64decode(text)
    return envelope.replace(text.encode(), changed.encode(), 1)


def test_another_spelling_of_the_same_envelope_is_refused(envelope, roots):
    for name, changed in other_spellings(envelope).items():
        assert changed != envelope, name
        assert not accepted(changed, roots), name


def test_a_signature_of_another_key_is_refused_and_named(tmp_path, roots):
    stranger, _ = key_pair(tmp_path, "stranger")
    with pytest.raises(VerificationError, match=f"signature: made by the key {stranger.key_id}; expected a key of the"):
        verify_attestation(signed(stranger), roots, expected())


def test_a_signature_of_another_key_under_a_trusted_key_id_is_refused(tmp_path, key, roots):
    stranger, _ = key_pair(tmp_path, "stranger")
    forged = signed(stranger).replace(stranger.key_id.encode(), key.key_id.encode())
    with pytest.raises(VerificationError, match="signature: it does not fit the content"):
        verify_attestation(forged, roots, expected())


def test_a_signed_payload_of_another_type_is_refused_after_its_signature_held(key, roots):
    payload, kind = to_payload(STATEMENT), "application/json"
    envelope = json.loads(sign_envelope(payload, key))
    signature = key.sign(pre_authentication_encoding(kind, payload))
    envelope["payloadType"] = kind
    unsigned = json.dumps(envelope, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(VerificationError, match="signature"):
        open_envelope(unsigned, roots)
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    other = json.dumps(envelope, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(VerificationError, match=f"payloadType: '{kind}'; expected '{re.escape(PAYLOAD_TYPE)}'"):
        open_envelope(other, roots)


def test_an_endless_file_is_refused_unread(key, roots):
    with pytest.raises(VerificationError, match="larger than"):
        open_envelope(b" " * (MAX_BYTES + 1), roots)
    with pytest.raises(VerificationError, match="envelope"):
        open_envelope(b'{"payload":' + b"[" * 900_000, roots)


def test_the_signed_bytes_are_those_of_the_dsse_specification():
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, its own example
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
