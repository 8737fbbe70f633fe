"""A reviewer's signature on waivers: what it covers, what spoils it, and who may give it."""

import base64
import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.attest.demands import Revocations
from invmm_gate.attest.envelope import sign_envelope
from invmm_gate.attest.keys import load_roots, load_signing_key, new_key_pair
from invmm_gate.attest.waiver_approval import approval_file, approve, approved
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.policy.waivers import load_waivers
from tests.attest.material import DAY, NOW, WAIVER, digest, expected, key_pair, signed, verify_attestation

MODEL, IMAGE = digest("model"), digest("image")
ENTRY = f"- {{probe: p%d, image: {IMAGE}, model: %s, reason: agreed, owner: ann, expires: 2027-06-30}}\n"
TODAY = NOW.date()


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "waivers.yaml"
    path.write_text(ENTRY % (1, MODEL) + ENTRY % (2, MODEL))
    return path


@pytest.fixture
def reviewer(tmp_path: Path):
    return key_pair(tmp_path, "reviewer")


def give(listed: Path, key) -> None:
    approval_file(listed).write_bytes(approve(load_waivers(listed), key, now=NOW))


def seen(listed: Path, reviewers, *, today: datetime.date = TODAY):
    return [waiver.approved_by for waiver in approved(load_waivers(listed), listed, reviewers, today=today)]


def test_what_a_reviewer_signed_is_approved_whatever_its_place_and_comments(listed, reviewer):
    key, roots = reviewer
    give(listed, key)
    assert seen(listed, roots) == [key.key_id] * 2
    first, second = listed.read_text().splitlines(keepends=True)
    listed.write_text(f"# moved\n\n{second}{first}")
    assert seen(listed, roots) == [key.key_id] * 2


def test_what_was_added_or_changed_afterwards_is_not(listed, reviewer):
    key, roots = reviewer
    give(listed, key)
    listed.write_text(listed.read_text().replace("probe: p2", "probe: p9") + ENTRY % (3, MODEL))
    assert seen(listed, roots) == [key.key_id, None, None]
    for before, after in (
        ("agreed", "other"),
        ("ann", "bob"),
        ("2027-06-30", "2028-06-30"),
        (MODEL, digest("x")),
        (IMAGE, digest("y")),
    ):
        listed.write_text((ENTRY % (1, MODEL)).replace(before, after))
        assert seen(listed, roots) == [None]


def test_without_an_approval_or_without_reviewers_nothing_is_approved(listed, reviewer):
    key, roots = reviewer
    assert seen(listed, roots) == [None, None]
    give(listed, key)
    assert seen(listed, None) == [None, None]


def test_an_approval_by_somebody_else_is_bad_input(listed, reviewer, tmp_path):
    give(listed, key_pair(tmp_path, "stranger")[0])
    with pytest.raises(ConfigError, match=r"waivers\.yaml\.approval: signature: made by the key .* \(reviewer"):
        seen(listed, reviewer[1])


def test_every_changed_byte_of_an_approval_is_bad_input(listed, reviewer):
    key, roots = reviewer
    give(listed, key)
    path = approval_file(listed)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ConfigError):
            seen(listed, roots)


def test_an_attestation_is_no_approval_and_an_approval_no_attestation(listed, reviewer):
    key, roots = reviewer
    approval_file(listed).write_bytes(signed(key))
    with pytest.raises(ConfigError, match=r"payloadType: 'application/vnd\.in-toto\+json'"):
        seen(listed, roots)
    with pytest.raises(VerificationError, match="payloadType"):
        verify_attestation(approve(load_waivers(listed), key, now=NOW), roots, expected())


@pytest.mark.parametrize("changes", [{"waivers": []}, {"kind": "other"}, {"more": 1}, {"approved_at": "today"}])
def test_what_a_reviewer_signed_and_is_no_approval_is_bad_input(listed, reviewer, changes):
    key, roots = reviewer
    envelope = json.loads(approve(load_waivers(listed), key, now=NOW))
    payload = json.loads(base64.b64decode(envelope["payload"])) | changes
    approval_file(listed).write_bytes(sign_envelope(json.dumps(payload).encode(), key, envelope["payloadType"]))
    with pytest.raises(ConfigError, match=next(iter(changes))):
        seen(listed, roots)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (ENTRY.replace("probe: p%d", "rule: invmm_below") % MODEL, "names no probe"),
        ("- {probe: p1, reason: r, owner: o, expires: 2027-06-30}\n", "names no image"),
        (f"- {{probe: p1, image: {IMAGE}, reason: r, owner: o, expires: 2027-06-30}}\n", "names no model"),
        (ENTRY.replace("2027-06-30", "2026-11-21") % (1, MODEL), "expired on 2026-11-21"),
    ],
)
def test_a_waiver_for_everything_or_for_nothing_any_more_cannot_be_approved(listed, reviewer, entry, says):
    listed.write_text(ENTRY % (1, MODEL) + entry)
    with pytest.raises(ConfigError, match=f"line 2: the waiver of .* {says}"):
        approve(load_waivers(listed), reviewer[0], now=NOW)


def test_more_waivers_than_an_approval_holds_are_refused_before_it_is_written(listed, reviewer):
    listed.write_text("".join(ENTRY % (number, MODEL) for number in range(4000)))
    with pytest.raises(ConfigError, match=r"4000 waivers make an approval of \d+ bytes; expected at most 1000000"):
        approve(load_waivers(listed), reviewer[0], now=NOW)


def test_an_approval_from_tomorrow_or_by_a_key_out_of_its_time_is_bad_input(listed, reviewer, tmp_path):
    key, roots = reviewer
    give(listed, key)
    with pytest.raises(ConfigError, match="it was signed at 2026-11-22T12:00:00Z; expected no later than 2026-11-21"):
        seen(listed, roots, today=TODAY - DAY)
    for window, says in (("valid_until: 2026-11-22", "was valid until"), ("valid_from: 2026-11-23", "as the key")):
        roots_file = tmp_path / "roots.yaml"
        roots_file.write_text(f"- {{name: ann, public_key: reviewer.pub, {window}}}\n")
        with pytest.raises(ConfigError, match=says):
            seen(listed, load_roots(roots_file), today=TODAY + DAY)


@pytest.fixture
def verified(tmp_path, reviewer):
    """`verify` of a pass that rests on one waiver, by who approved it and who is believed."""
    key, roots = key_pair(tmp_path, "gate")

    def held(by: str | None, **demanded):
        waiver = replace(WAIVER, approved_by={"gate": key.key_id, "ann": reviewer[0].key_id, None: None}[by])
        envelope = signed(key, decision="pass_with_waiver", waivers=(waiver,))
        return verify_attestation(envelope, roots, expected(**demanded)).waivers[0].approved_by

    return held


def test_who_names_reviewers_lets_only_their_waivers_through(verified, reviewer, tmp_path):
    key, reviewers = reviewer
    assert verified("ann", reviewers=reviewers) == key.key_id
    with pytest.raises(
        VerificationError, match=r"waivers: that of d\.okafor is approved by nobody; expected a reviewer"
    ):
        verified(None, reviewers=reviewers)
    stranger = load_roots(new_key_pair(tmp_path / "stranger").public)
    with pytest.raises(VerificationError, match=f"approved by the key {key.key_id}; expected a reviewer"):
        verified("ann", reviewers=stranger)
    assert verified("ann") == key.key_id
    assert verified(None) is None


def test_nobody_approves_for_themselves(verified, tmp_path):
    for demanded in ({}, {"reviewers": load_roots(tmp_path / "gate.pub")}):
        with pytest.raises(VerificationError, match="is approved by the key that signed the verdict"):
            verified("gate", **demanded)


def test_a_reviewer_whose_key_was_revoked_or_has_ended_no_longer_counts(verified, reviewer, tmp_path):
    key, reviewers = reviewer
    revoked = Revocations(keys={key.key_id: "lost"})
    with pytest.raises(VerificationError, match=f"revocation: the reviewer's key {key.key_id} was revoked: lost"):
        verified("ann", revoked=revoked)
    roots_file = tmp_path / "roots.yaml"
    roots_file.write_text("- {name: ann, public_key: reviewer.pub, valid_until: 2026-11-22}\n")
    with pytest.raises(VerificationError, match="the key ann was valid until 2026-11-22"):
        verified("ann", reviewers=load_roots(roots_file))
    assert verified("ann", reviewers=reviewers)


def test_a_key_that_others_can_read_approves_nothing(tmp_path):
    pair = new_key_pair(tmp_path / "open")
    pair.private.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        load_signing_key(pair.private)
