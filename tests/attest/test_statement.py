"""What is said comes back unchanged, and only what this version understands is believed."""

import datetime
import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.attest.envelope import sign_envelope
from invmm_gate.attest.statement import PREDICATE_TYPE, STATEMENT_TYPE, Statement, from_payload, to_payload
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.core.verdict_records import Scope, Waiver
from tests.attest.material import STATEMENT, TESTED, WAIVER, expected, signed, verify_attestation

lines = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
moments = st.datetimes(
    min_value=datetime.datetime(2000, 1, 1), max_value=datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)
).map(lambda moment: moment.replace(microsecond=0))
waivers = st.builds(
    Waiver,
    reason=lines,
    owner=lines,
    expires=st.dates(),
    probe=st.none() | lines,
    rule=st.none() | lines,
    approved_by=st.none() | digests,
    line=st.just(0),
)
sides = st.integers(min_value=1, max_value=10_000)
scales = st.decimals(min_value=0, max_value=100, places=3).map(float)
tested = st.builds(
    Scope,
    image_size=st.tuples(sides, sides),
    samplers=st.lists(lines, min_size=1, max_size=3).map(tuple),
    sampler_steps=sides,
    guidance_scales=st.lists(scales, min_size=1, max_size=3).map(tuple),
    seed=st.integers(min_value=0, max_value=2**80),
    seed_chosen=st.booleans(),
)
statements = st.builds(
    Statement,
    subject_name=lines,
    subject_digest=digests,
    policy_name=lines,
    policy_digest=digests,
    probe_set_digest=digests,
    probes=st.integers(min_value=0),
    controls=st.integers(min_value=0),
    report_digest=digests,
    results_digest=digests,
    fingerprint=digests,
    profile=lines,
    tested=tested,
    pipeline=lines,
    left_out=st.lists(lines, max_size=3).map(tuple),
    pickles=st.lists(lines, max_size=3).map(tuple),
    versions=st.dictionaries(lines, lines, max_size=3),
    environment=digests,
    waivers=st.lists(waivers, max_size=3).map(tuple),
    verifier=lines,
    verifier_version=lines,
    issued_at=moments,
    expires_at=moments,
    sequence=st.integers(min_value=1),
    previous=st.none() | digests,
    attempt=st.none() | st.integers(min_value=1),
)


@settings(max_examples=100, deadline=None)
@given(statement=statements)
def test_a_statement_comes_back_as_it_was_said(statement):
    payload = to_payload(statement)
    assert from_payload(payload) == statement
    assert to_payload(from_payload(payload)) == payload


def test_the_payload_is_an_in_toto_statement_with_one_subject_and_no_fraction():
    plain = json.loads(to_payload(STATEMENT), parse_float=lambda text: pytest.fail(f"the float {text}"))
    assert set(plain) == {"_type", "subject", "predicateType", "predicate"}
    assert (plain["_type"], plain["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert plain["subject"] == [{"name": "memorizing", "digest": {"sha256": STATEMENT.subject_digest}}]
    predicate = plain["predicate"]
    assert predicate["verdict"] == "pass"
    assert predicate["policy"] == {"name": "strict", "digest": {"sha256": STATEMENT.policy_digest}}
    assert predicate["probeSet"]["count"] == 200
    assert (predicate["issuedAt"], predicate["sequence"]) == ("2026-11-22T12:00:00Z", 3)


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from paths(child, (*path, key))


def changed(path, change):
    """The plain statement with the value at `path` changed, or dropped where `change` is None."""
    plain = json.loads(to_payload(FULL))
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    if change is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = change(parent[path[-1]])
    return json.dumps(plain).encode()


FULL = Statement(
    **{name: getattr(STATEMENT, name) for name in Statement.__slots__}
    | {"decision": "pass_with_waiver", "waivers": (WAIVER,)}
)
EVERYWHERE = [path for path in paths(json.loads(to_payload(FULL))) if path]
FREE = {("predicate", "versions", name) for name in STATEMENT.versions} | {
    ("predicate", "leftOut", 0),
    ("predicate", "leftOut", 1),
    ("predicate", "tested", "guidanceScales", 0),
    ("predicate", "tested", "guidanceScales", 1),
}
"""Entries of lists and tables of any length."""


@pytest.mark.parametrize("path", [path for path in EVERYWHERE if path not in FREE], ids=str)
def test_a_field_that_is_dropped_never_lets_a_release_through(path, key, roots):
    payload = changed(path, None)
    with pytest.raises(VerificationError):
        verify_attestation(sign_envelope(payload, key), roots, expected())


KEYS = [path for path in EVERYWHERE if isinstance(path[-1], str)]


@pytest.mark.parametrize("path", [path for path in KEYS if path not in FREE], ids=str)
def test_a_field_that_is_missing_is_named(path):
    with pytest.raises(VerificationError) as refusal:
        from_payload(changed(path, None))
    assert ".".join(map(str, path)) in str(refusal.value)


@pytest.mark.parametrize("path", EVERYWHERE, ids=str)
def test_a_field_of_another_type_is_refused(path):
    def other(value):
        return [value] if isinstance(value, dict | str) else str(value) if isinstance(value, int | list) else 3

    with pytest.raises(VerificationError):
        from_payload(changed(path, other))


@pytest.mark.parametrize("path", KEYS, ids=str)
def test_an_unknown_field_beside_any_other_changes_nothing(path):
    plain = json.loads(to_payload(FULL))
    parent = plain
    for name in path[:-1]:
        parent = parent[name]
    if path[-2:-1] != ("versions",):
        parent["verdict_"] = parent["unknown"] = "pass"
        assert from_payload(json.dumps(plain).encode()) == FULL


def test_an_unknown_field_never_turns_a_block_into_a_pass(key, roots):
    plain = json.loads(to_payload(STATEMENT))
    plain["predicate"] |= {"verdict": "block", "Verdict": "pass", "decision": "pass", "override": True}
    with pytest.raises(VerificationError, match="verdict: block; expected pass"):
        verify_attestation(sign_envelope(json.dumps(plain).encode(), key), roots, expected())


def test_a_field_counts_in_its_own_place_alone():
    plain = json.loads(to_payload(STATEMENT))
    others = {field.name: getattr(STATEMENT, field.name) for field in fields(Statement)} | {"decision": "block"}
    beside = json.dumps(plain | others, default=str)
    assert from_payload(beside.encode()) == STATEMENT
    del plain["predicate"]["verdict"]
    with pytest.raises(VerificationError, match=r"predicate\.verdict"):
        from_payload(json.dumps(plain | {"decision": "pass", "verdict": "pass"}).encode())


@pytest.mark.parametrize("subject", [[], {}, None, "subject", {"0": 1}, [1], [[]]], ids=str)
def test_a_statement_of_anything_but_one_subject_is_refused(subject):
    plain = json.loads(to_payload(STATEMENT)) | {"subject": subject}
    with pytest.raises(VerificationError, match="statement: subject"):
        from_payload(json.dumps(plain).encode())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"verdict":"pass"', b'"verdict":"block","verdict":"pass"', "key 'verdict' occurs twice"),
        (b'"seed":7', b'"seed":7.0', "the number 7.0 is no integer"),
        (b'"seed":7', b'"seed":7e0', "the number 7e0 is no integer"),
        (b'"seed":7', b'"seed":NaN', "the number NaN is no integer"),
        (b'"seed":7', b'"seed":true', "predicate.tested.seed"),
        (b'"seed":7', b'"seed":"7"', "predicate.tested.seed"),
        (b'"seed":7', b'"seed":-7', "predicate.tested.seed"),
        (b'"seed":7', b'"seed":' + b"7" * 5_000, "statement: "),
        (b'"sequence":3', b'"sequence":0', "predicate.sequence"),
        (b'"attempt":2', b'"attempt":0', "predicate.attempt"),
        (b'"imageSize":[512,768]', b'"imageSize":[512]', "predicate.tested.imageSize"),
        (b'"imageSize":[512,768]', b'"imageSize":[512,0]', "predicate.tested.imageSize"),
        (b'"guidanceScales":["1.0","7.5"]', b'"guidanceScales":[]', "predicate.tested.guidanceScales"),
        (b'"7.5"', b'"nan"', "predicate.tested.guidanceScales"),
        (b'"7.5"', b'"-7.5"', "predicate.tested.guidanceScales"),
        (b'"verdict":"pass"', b'"verdict":"PASS"', "predicate.verdict"),
        (b"2026-11-22T12:00:00Z", b"2026-11-22T12:00:00+00:00", "predicate.issuedAt"),
        (b"2026-11-22T12:00:00Z", b"2026-11-31T12:00:00Z", "predicate.issuedAt"),
        (b"urn:invmm-gate:verdict:v1", b"urn:invmm-gate:verdict:v2", "predicateType: 'urn:invmm-gate:verdict:v2'"),
        (b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v0.1", "_type: 'https://in-toto.io/Statement/v0.1'"),
        (b'"subject":[', b'"subject":[{"name":"m","digest":{"sha256":"' + b"0" * 64 + b'"}},', "subject"),
        (b'{"_type"', b'[{"_type"', "statement: "),
        (b"memorizing", b"memor\xffizing", "statement: "),
    ],
)  # fmt: skip
def test_a_statement_of_another_shape_is_refused_with_the_field(old, new, says):
    payload = to_payload(STATEMENT)
    assert old in payload
    with pytest.raises(VerificationError) as refusal:
        from_payload(payload.replace(old, new, 1))
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "payload", [b"[]", b'"pass"', b"null", b"", b"[" * 200_000], ids=lambda payload: repr(payload[:8])
)
def test_a_payload_that_is_no_object_is_refused(payload):
    with pytest.raises(VerificationError, match=r"\Astatement: "):
        from_payload(payload)


def test_what_a_statement_cannot_hold_is_refused_before_it_is_signed(key):
    with pytest.raises(ConfigError, match=r"this cannot be attested: statement: subject.0.name"):
        signed(key, subject_name="")
    with pytest.raises(ConfigError, match=r"predicate.policy.digest.sha256"):
        signed(key, policy_digest="0" * 63)
    for scales in ((-1.0,), (1e-7,), (float("nan"),), (1.0, float("inf")), ()):
        with pytest.raises(ConfigError, match=r"predicate.tested.guidanceScales"):
            signed(key, tested=replace(TESTED, guidance_scales=scales))
    with pytest.raises(ConfigError, match=r"predicate.tested.imageSize"):
        signed(key, tested=replace(TESTED, image_size=(512,)))
    with pytest.raises(ConfigError, match=r"predicate.waivers.0.owner"):
        signed(key, waivers=(replace(WAIVER, owner=""),))
    with pytest.raises(ConfigError, match="this cannot be attested: statement: : Invalid JSON"):
        signed(key, left_out=("a name that is no UTF-8 \udc80",))
    with pytest.raises(ConfigError, match="the number NaN is no integer"):
        signed(key, probes=float("nan"))
