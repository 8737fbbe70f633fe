"""Each check names the field that does not match, and the checks come in their order."""

import base64
import datetime
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from invmm_gate.attest.demands import Revocations, load_revocations
from invmm_gate.attest.envelope import sign_envelope
from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.attest.statement import to_payload
from invmm_gate.attest.verification import CLOCK_SKEW
from invmm_gate.core.errors import ConfigError, VerificationError
from tests.attest.material import (
    DAY,
    NOW,
    SECOND,
    STATEMENT,
    TESTED,
    WAIVER,
    digest,
    expected,
    signed,
    verify_attestation,
)

EXPIRY = STATEMENT.expires_at
CHOSEN = {"tested": replace(TESTED, seed_chosen=True)}
WAIVED = {"decision": "pass_with_waiver", "waivers": (WAIVER,)}


def held(roots, key, *, said=None, **demanded):
    return verify_attestation(signed(key, **(said or {})), roots, expected(**demanded))


def test_what_holds_gives_the_statement(key, roots):
    assert held(roots, key) == STATEMENT
    assert held(roots, key, said=WAIVED).decision == "pass_with_waiver"
    assert held(roots, key, said=CHOSEN).tested.seed_chosen, "who demands nothing of the seed takes any"
    demanded = {
        "weights": "ema",
        "probe_set_digest": digest("probes"),
        "min_probes": 200,
        "image_size": (512, 768),
        "allow_chosen_seed": False,
        "max_attempts": 2,
        "environment": digest("environment"),
        "max_age": DAY,
        "min_sequence": 3,
        "revoked": Revocations(verdicts={"0" * 64: "other"}, keys={"1" * 64: "other"}),
    }
    assert held(roots, key, **demanded) == STATEMENT


@pytest.mark.parametrize(
    ("said", "demanded", "says"),
    [
        ({}, {"subject_digest": digest("other")}, f"subject digest: the model's files give {digest('other')}; expected "
         f"{digest('model')}, the attested model 'memorizing'; serve exactly"),
        ({}, {"weights": "raw"}, "weights: ema; expected raw"),
        ({"decision": "block"}, {}, "verdict: block; expected pass"),
        ({"decision": "inconclusive"}, {}, "verdict: inconclusive; expected pass"),
        ({"decision": "block", "waivers": (WAIVER,)}, {}, "verdict: block; expected pass"),
        (WAIVED, {"allow_waivers": False}, "waivers: 1 used; expected none, as --refuse-waivers says"),
        ({"waivers": (WAIVER,)}, {}, "verdict: pass with 1 waivers; expected"),
        ({"decision": "pass_with_waiver"}, {}, "verdict: pass_with_waiver with 0 waivers; expected"),
        ({}, {"policies": {digest("lenient"): "lenient"}},
         f"policy digest: {digest('policy')} (strict); expected {digest('lenient')} (lenient)"),
        ({}, {"policies": {}}, "expected a policy, and none is accepted"),
        ({}, {"probe_set_digest": digest("small")},
         f"probe-set digest: {digest('probes')}; expected {digest('small')}"),
        ({}, {"min_probes": 201}, "probe count: 200; expected at least 201"),
        ({}, {"image_size": (768, 512)}, "image size: 512x768; expected 768x512; gate the size in use"),
        ({}, {"image_size": (512, 512)}, "image size: 512x768; expected 512x512"),
        (CHOSEN, {"allow_chosen_seed": False}, "seed: 7, which is not the one that model, probe set and policy give; "
         "expected that one, as --refuse-chosen-seed says; gate the model without --seed"),
        ({}, {"max_attempts": 1}, "attempt: 2; expected at most 1, as --max-attempts says"),
        ({"attempt": None}, {"max_attempts": 9}, "attempt: none, as it was signed without --log; expected at most 9"),
        ({}, {"environment": digest("other")},
         f"environment: {digest('environment')}; expected {digest('other')}; gate the model in"),
        ({"probes": 0}, {}, "probe count: 0; expected at least 1"),
        ({}, {"min_sequence": 4}, "sequence: 3; expected at least 4"),
    ],
)  # fmt: skip
def test_a_mismatch_is_named_with_what_was_found_and_expected(said, demanded, says, key, roots):
    with pytest.raises(VerificationError) as refusal:
        held(roots, key, said=said, **demanded)
    assert says in str(refusal.value)
    assert refusal.value.exit_code == 10


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (EXPIRY - SECOND, ""),
        (EXPIRY, "expiresAt: 2027-02-20T12:00:00Z; expected later than now, 2027-02-20T12:00:00Z"),
        (EXPIRY + SECOND, "expiresAt"),
        (NOW - CLOCK_SKEW, ""),
        (NOW - CLOCK_SKEW - SECOND, "issuedAt: 2026-11-22T12:00:00Z; expected no later than now, 2026-11-22T11:54:59Z"),
        (NOW - 400 * DAY, "issuedAt"),
    ],
)
def test_it_holds_from_its_issue_to_the_second_of_its_expiry(now, says, key, roots):
    for zone in (datetime.UTC, datetime.timezone(datetime.timedelta(hours=-11))):
        if not says:
            assert held(roots, key, now=now.astimezone(zone)) == STATEMENT
            continue
        with pytest.raises(VerificationError) as refusal:
            held(roots, key, now=now.astimezone(zone))
        assert says in str(refusal.value)


def test_an_old_verdict_is_refused_where_an_age_is_demanded(key, roots):
    assert held(roots, key, now=NOW + 7 * DAY, max_age=7 * DAY)
    with pytest.raises(
        VerificationError, match=r"issuedAt: .* expected 2026-11-22T12:00:01Z or later, as --max-age says"
    ):
        held(roots, key, now=NOW + 7 * DAY + SECOND, max_age=7 * DAY)


def test_a_waiver_that_has_expired_since_no_longer_holds(key, roots):
    last = datetime.datetime.combine(WAIVER.expires, datetime.time(23, 59, 59), datetime.UTC)
    said = WAIVED | {"expires_at": last + 30 * DAY}
    assert held(roots, key, said=said, now=last)
    with pytest.raises(VerificationError, match=r"waivers: that of d\.okafor expired on 2027-06-30"):
        held(roots, key, said=said, now=last + SECOND)


def test_a_revoked_attestation_or_key_is_refused_with_the_reason(key, roots, tmp_path):
    envelope = signed(key)
    listed = tmp_path / "revoked.yaml"
    listed.write_text(f"- {{verdict: {sha256(envelope).hexdigest()}, reason: probe set was broken}}\n")
    with pytest.raises(VerificationError, match=r"revocation: the attestation [0-9a-f]{64} was revoked: probe set was"):
        verify_attestation(envelope, roots, expected(revoked=load_revocations(listed)))
    listed.write_text(f"- verdict: {'cd' * 32}\n  reason: other\n- key: {key.key_id}\n  reason: laptop was stolen\n")
    with pytest.raises(VerificationError, match=r"revocation: the key [0-9a-f]{64} was revoked: laptop was stolen"):
        verify_attestation(envelope, roots, expected(revoked=load_revocations(listed)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {verdict: abc, reason: r}\n", "revoked.yaml:1: [0].verdict"),
        ("- {reason: r}\n", "names a verdict"),
        (f"- {{verdict: {'ab' * 32}, key: {'ab' * 32}, reason: r}}\n", "not both"),
        (f"- {{verdict: {'ab' * 32}}}\n", "[0].reason: this key is missing"),
        (f"- {{vedict: {'ab' * 32}, reason: r}}\n", "revoked.yaml:1: [0].vedict: unknown key 'vedict'; did you mean"),
        ("verdict: x\n", "revoked.yaml:1"),
        ("", "the file is empty"),
    ],
)
def test_a_slip_in_the_revocations_is_named_with_its_line(text, says, tmp_path):
    path = tmp_path / "revoked.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_revocations(path)
    assert says in str(refusal.value)


def test_a_key_may_sign_only_for_its_verifier(key, roots):
    assert held(replaced(roots, verifier="ci"), key, said={"verifier": "ci"}).verifier == "ci"
    with pytest.raises(VerificationError, match="verifier: 'desk'; expected 'ci', for whom the key gate may sign"):
        held(replaced(roots, verifier="ci"), key, said={"verifier": "desk"})


def test_a_key_counts_from_its_first_to_its_last_day(key, roots):
    day = NOW.date()
    window = replaced(roots, valid_from=day, valid_until=day)
    assert held(window, key, now=NOW)
    with pytest.raises(
        VerificationError, match="the key gate was valid until 2026-11-22; expected a key that is still"
    ):
        held(window, key, now=NOW + DAY)
    with pytest.raises(VerificationError, match="issuedAt: 2026-11-22T12:00:00Z; expected from 2026-11-23 on"):
        held(replaced(roots, valid_from=day + DAY), key, now=NOW + DAY)


def replaced(roots: TrustRoots, **changes: object) -> TrustRoots:
    return TrustRoots(keys=(replace(roots.keys[0], **changes),))


ORDER = [
    ("verifier", {"verifier": "desk"}, {}),
    ("subject digest", {}, {"subject_digest": digest("other")}),
    ("weights", {}, {"weights": "raw"}),
    ("verdict", {"decision": "block"}, {}),
    ("policy digest", {}, {"policies": {}}),
    ("probe-set digest", {}, {"probe_set_digest": digest("small")}),
    ("probe count", {}, {"min_probes": 10_000}),
    ("image size", {}, {"image_size": (1, 1)}),
    ("seed", CHOSEN, {"allow_chosen_seed": False}),
    ("attempt", {}, {"max_attempts": 1}),
    ("expiresAt", {}, {"now": EXPIRY + DAY}),
    ("sequence", {}, {"min_sequence": 99}),
]


@pytest.mark.parametrize("first", range(len(ORDER)), ids=[name for name, _, _ in ORDER])
def test_the_first_mismatch_in_the_order_is_the_one_that_is_named(first, key, roots):
    said, demanded = {}, {}
    for _, statement_change, demand in ORDER[first:]:
        said |= statement_change
        demanded |= demand
    with pytest.raises(VerificationError) as refusal:
        held(roots, key, said=said, **demanded)
    assert str(refusal.value).startswith(ORDER[first][0] + ":")


def test_an_attestation_of_an_earlier_version_still_holds(root: Path):
    golden = root / "tests" / "golden"
    envelope = (golden / "attestation-v1.json").read_bytes()
    said = verify_attestation(envelope, load_roots(golden / "attestation-v1.pub"), expected())
    assert said == replace(STATEMENT, **WAIVED)
    assert to_payload(said) == base64.b64decode(json.loads(envelope)["payload"]), "it is still written so"


def test_signing_the_same_twice_gives_the_same_bytes(key):
    assert signed(key) == signed(key) == sign_envelope(to_payload(STATEMENT), key)
