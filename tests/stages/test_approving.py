"""From a waivers file to a signed verdict with two keys, and the log and summary that signing leaves."""

import base64
import datetime
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from invmm_gate.attest.keys import new_key_pair
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import Signing
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import installed_environment
from invmm_gate.stages.sign import sign_run
from tests.policy.policy_builders import with_score
from tests.stages.judged_run import judged_run
from tests.stages.test_attesting import WEIGHTS, _tiny, tiny  # noqa: F401  (fixtures)
from tests.stages.world import call

ENTRY = "- {{probe: p1, image: {image}, model: {model}, reason: agreed, owner: ann, expires: 2099-12-31}}\n"


def image_of(folder: RunFolder) -> str:
    return next(probe.sha256 for probe in folder.run().probe_set.probes if probe.id == "p1")


@pytest.fixture
def desk(tmp_path: Path, tiny: Path):  # noqa: F811
    """A run that p1 blocks, a waiver for it, and the keys of gate and reviewer."""
    folder = judged_run(tmp_path / "run", tiny, spoilt=lambda data: with_score(data, "p1", 0.01))
    for name in ("gate", "reviewer"):
        new_key_pair(tmp_path / name)
    (tmp_path / "waivers.yaml").write_text(ENTRY.format(model=folder.run().model.digest, image=image_of(folder)))
    return tmp_path


def judge(desk: Path, *more: object, reviewers: str = "reviewer.pub"):
    named = ("--policy", "strict", "--waivers", desk / "waivers.yaml", "--reviewers", desk / reviewers)
    return call("judge", desk / "run", *named, *more)


def sign(desk: Path, *more: object, key: str = "gate.key", reviewers: str = "reviewer.pub"):
    named = ("--key", desk / key, "--waivers", desk / "waivers.yaml", "--reviewers", desk / reviewers)
    return call("sign", desk / "run", *named, *more)


def verify(desk: Path, *more: object):
    named = ("--attestation", desk / "run" / "attestation.json", "--policy", "strict", "--roots", desk / "gate.pub")
    return call("verify", "--model", desk / "ckpt", *named, *more)


def approve(desk: Path, key: str = "reviewer.key"):
    return call("waivers", "approve", desk / "waivers.yaml", "--key", desk / key)


def test_a_waiver_lets_a_model_through_once_a_reviewer_has_signed_it(desk):
    called = judge(desk)
    assert called.code == 10
    said = json.loads((desk / "run" / "verdict.json").read_text())
    assert [state["state"] for state in said["waivers"]] == ["unapproved"]
    assert "not approved" in (desk / "run" / "report.html").read_text()
    called = approve(desk)
    assert (called.code, called.out) == (0, f"approved: 1 waivers, {desk}/waivers.yaml.approval\n")
    assert judge(desk).code == 0
    assert sign(desk).code == 0
    for more in ((), ("--reviewers", desk / "reviewer.pub")):
        called = verify(desk, *more)
        assert (called.code, called.out[:33]) == (0, "verified: pass_with_waiver (1 wai")
    called = verify(desk, "--reviewers", desk / "gate.pub")
    assert called.code == 10
    assert "waivers: that of ann is approved by the key" in called.error


def test_the_gate_does_not_approve_its_own_waivers(desk):
    assert approve(desk, key="gate.key").code == 0
    assert judge(desk, reviewers="gate.pub").code == 0
    called = sign(desk, reviewers="gate.pub")
    assert called.code == 2
    assert "the waiver of ann is approved by the key that is to sign" in called.error
    assert not (desk / "run" / "attestation.json").exists()


def test_a_verdict_by_an_approval_is_not_signed_without_the_reviewers(desk):
    approve(desk)
    assert judge(desk).code == 0
    called = call("sign", desk / "run", "--key", desk / "gate.key", "--waivers", desk / "waivers.yaml")
    assert called.code == 2
    assert (
        "the verdict was reached with a reviewer's approval; expected the key of that reviewer; give it with"
        in called.error
    )
    assert "--reviewers" in called.error


def test_an_approval_is_for_the_image_that_was_seen_whatever_its_probe_is_called(desk):
    listed = desk / "waivers.yaml"
    listed.write_text(listed.read_text().replace(image_of(RunFolder(desk / "run")), "ab" * 32))
    approve(desk)
    assert judge(desk).code == 10
    said = json.loads((desk / "run" / "verdict.json").read_text())
    assert [state["state"] for state in said["waivers"]] == ["other_image"]
    assert "is for another image than the probe shows" in said["reasons"][-1]


def test_a_block_leaves_no_public_pass_beside_it_whatever_ends_the_command(desk, monkeypatch):
    approve(desk)
    assert judge(desk).code == 0
    public = desk / "run" / "public" / "verdict.json"
    assert json.loads(public.read_text())["decision"] == "pass"
    key = desk / "run" / "public-ids.key"
    key.chmod(0o644)
    called = call("judge", desk / "run", "--policy", "strict")
    assert called.code == 2
    assert "mode 0644" in called.error
    assert json.loads((desk / "run" / "verdict.json").read_text())["decision"] == "pass", "nothing was judged"
    key.chmod(0o600)
    monkeypatch.setattr(
        "invmm_gate.stages.report.write_reports", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert call("judge", desk / "run", "--policy", "strict").code == 130
    assert not public.exists()


def test_nothing_is_judged_or_signed_that_was_measured_in_another_than_the_approved_environment(desk, monkeypatch):
    run, here = desk / "run", installed_environment().digest
    monkeypatch.setenv("INVMM_GATE_ENVIRONMENT", here)
    for command in (("judge", run, "--policy", "strict"), ("sign", run, "--key", desk / "gate.key")):
        called = call(*command)
        assert called.code == 2
        assert f"the run was measured in the environment {'e' * 64}; expected the approved one" in called.error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {probe: p1, reason: r, owner: o, expires: 2099-12-31}\n", "line 1: the waiver of o names no image"),
        ("[]\n", "holds no waivers; expected at least one"),
        ("- {probe: p1}\n", "waivers.yaml:1"),
    ],
)
def test_what_cannot_be_approved_is_said_in_one_line(desk, text, says):
    (desk / "waivers.yaml").write_text(text)
    called = approve(desk)
    assert called.code == 2
    assert says in called.error
    assert not (desk / "waivers.yaml.approval").exists()


def test_every_signed_verdict_is_logged_before_it_counts_and_a_block_cannot_be_taken_out(desk):
    log = desk / "log" / "verdicts.jsonl"
    blocked = call("sign", desk / "run", "--key", desk / "gate.key", "--log", log)
    assert blocked.code == 0
    assert f"logged: {log}, attempt 1 at this model, head 1:" in blocked.out
    assert ", attempt 1\n" in call("audit-log", "verify", log).out
    head = json.loads(call("audit-log", "verify", log, "--json").out)["head"]
    approve(desk)
    assert (judge(desk).code, sign(desk, "--log", log).code) == (0, 0)
    attestation = sha256((desk / "run" / "attestation.json").read_bytes()).hexdigest()
    seen = json.loads(call("audit-log", "verify", log, "--head", head, "--json").out)
    assert [entry["verdict"] for entry in seen["entries"]] == ["block", "pass_with_waiver"]
    assert seen["entries"][-1]["attestation"] == attestation
    lines = log.read_text().splitlines(keepends=True)
    for rest, says in ((lines[1:], "line 1: it follows another line"), ([], "the log ends at line 0")):
        log.write_text("".join(rest))
        called = call("audit-log", "verify", log, "--head", head)
        assert (called.code, says in called.error) == (10, True), called.error


def test_a_log_that_does_not_hold_together_gets_no_further_line_and_nothing_is_signed(desk):
    log = desk / "verdicts.jsonl"
    log.write_text("{}\n")
    called = call("sign", desk / "run", "--key", desk / "gate.key", "--log", log)
    assert called.code == 2
    assert "line 1: number: Field required" in called.error
    assert log.read_text() == "{}\n"
    assert not (desk / "run" / "attestation.json").exists()


def test_a_line_that_a_killed_signer_left_half_written_is_dropped(desk):
    log = desk / "verdicts.jsonl"
    assert call("sign", desk / "run", "--key", desk / "gate.key", "--log", log).code == 0
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:40])
    assert call("audit-log", "verify", log).code == 10
    log.write_bytes(whole + whole[:40])
    approve(desk)
    assert (judge(desk).code, sign(desk, "--log", log).code) == (0, 0)
    assert call("audit-log", "verify", log).out.count("\n") == 3


def test_a_block_whose_line_lacks_only_its_end_is_kept(desk):
    log = desk / "verdicts.jsonl"
    assert call("sign", desk / "run", "--key", desk / "gate.key", "--log", log).code == 0
    log.write_bytes(log.read_bytes()[:-1])
    assert call("audit-log", "verify", log).code == 10
    approve(desk)
    assert (judge(desk).code, sign(desk, "--log", log).code) == (0, 0)
    seen = json.loads(call("audit-log", "verify", log, "--json").out)
    assert [entry["verdict"] for entry in seen["entries"]] == ["block", "pass_with_waiver"]


def test_a_verdict_from_before_the_last_one_is_not_logged(desk):
    log = desk / "verdicts.jsonl"
    signing = Signing(key=desk / "gate.key", log=log)
    now = datetime.datetime.now(datetime.UTC)
    sign_run(desk / "run", signing, now=now)
    with pytest.raises(ConfigError, match=r"line 1 is of .*, and the clock says .* set the clock"):
        sign_run(desk / "run", signing, now=now - datetime.timedelta(minutes=6))
    sign_run(desk / "run", signing, now=now - datetime.timedelta(minutes=4))


def test_signers_side_by_side_write_one_chain(desk, tiny):  # noqa: F811
    log = desk / "verdicts.jsonl"
    runs = [
        judged_run(desk / f"run-{n}", tiny, spoilt=lambda data, n=n: with_score(data, "p1", 1 + n)) for n in range(4)
    ]
    command = [sys.executable, "-m", "invmm_gate", "sign"]
    signers = [
        subprocess.Popen(
            [*command, str(run.path), f"--key={desk / 'gate.key'}", f"--log={log}"], stdout=subprocess.PIPE
        )
        for run in runs
    ]
    assert [signer.wait(120) for signer in signers] == [0] * 4
    for signer in signers:
        signer.stdout.close()
    seen = json.loads(call("audit-log", "verify", log, "--json").out)
    assert sorted(entry["attestation"] for entry in seen["entries"]) == sorted(
        sha256((run.path / "attestation.json").read_bytes()).hexdigest() for run in runs
    )


@pytest.mark.parametrize(("head", "code"), [("1:abc", 2), ("0:" + "0" * 64, 2), ("0:", 0), ("1:" + "0" * 64, 10)])
def test_a_head_that_is_none_or_another_is_refused(desk, head, code):
    log = desk / "verdicts.jsonl"
    call("sign", desk / "run", "--key", desk / "gate.key", "--log", log)
    assert call("audit-log", "verify", log, "--head", head).code == code


def test_a_log_that_is_not_there_is_bad_input(tmp_path):
    called = call("audit-log", "verify", tmp_path / "none.jsonl")
    assert called.code == 2
    assert "there is no" in called.error


def test_only_a_pass_without_waivers_leaves_a_summary_for_others(desk, tiny):  # noqa: F811
    clean = judged_run(desk / "clean", tiny)
    assert call("sign", clean.path, "--key", desk / "gate.key").code == 0
    envelope = json.loads((clean.path / SUMMARY).read_text())
    said = json.loads(base64.b64decode(envelope["payload"]))
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/verification_summary/v1",
    )
    assert said["subject"][0]["digest"]["sha256"] == clean.run().model.digest
    assert (said["predicate"]["verificationResult"], said["predicate"]["verifiedLevels"]) == (
        "PASSED",
        ["INVMM_GATE_PASS"],
    )
    named = said["predicate"]["inputAttestations"][0]["digest"]["sha256"]
    assert named == sha256((clean.path / "attestation.json").read_bytes()).hexdigest()
    approve(desk)
    assert (judge(desk).code, sign(desk).code) == (0, 0)
    assert not (desk / "run" / SUMMARY).exists()
    assert call("judge", clean.path, "--policy", "strict").code == 0
    assert not (clean.path / SUMMARY).exists(), "that of an earlier verdict"
