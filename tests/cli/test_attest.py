"""`keys new`, `sign` and `verify` as the one who releases and the one who deploys meet them."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_imports import DEVICE, HEAVY, imported_by
from tests.stages.world import LENIENT, MEMORIZING, ROOT, World, call


@pytest.fixture
def _no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVMM_GATE_KEY", raising=False)
    monkeypatch.delenv("INVMM_GATE_ROOTS", raising=False)


@pytest.fixture
def passed(finished: World, _no_defaults: None) -> World:
    """A world whose run passes, with a key pair."""
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    assert call("keys", "new", finished.folder / "gate").code == 0
    return finished


def sign(world: World, *extra: object, key: str = "gate.key") -> tuple[object, ...]:
    """The command with key and policy."""
    return ("sign", world.run, "--key", world.folder / key, "--policy", world.folder / "lenient.yaml", *extra)


@pytest.fixture
def signed(passed: World) -> World:
    assert call(*sign(passed)).code == 0
    return passed


def verify(world: World, *extra: object, **changes: object) -> tuple[object, ...]:
    """The command with everything named; later options stand in for earlier ones."""
    named = {
        "model": world.model,
        "attestation": world.run / "attestation.json",
        "policy": world.folder / "lenient.yaml",
        "roots": world.folder / "gate.pub",
    }
    options = [part for name, value in (named | changes).items() for part in (f"--{name}", value)]
    return ("verify", *options, *extra)


def secret(world: World) -> str:
    return (world.folder / "gate.key").read_text().splitlines()[1]


def test_from_keys_to_a_verified_model(passed: World):
    made = call("keys", "new", passed.folder / "own")
    assert made.code == 0
    assert re.fullmatch(
        rf"private key: {passed.folder}/own\.key \(keep it secret\)\n"
        rf"public key: {passed.folder}/own\.pub, id [0-9a-f]{{64}}\n",
        made.out,
    )
    assert stat.S_IMODE((passed.folder / "own.key").stat().st_mode) == 0o600
    signed = call(*sign(passed, "--expires-in", 7, key="own.key"))
    assert (signed.code, signed.out, signed.err) == (0, f"signed: {passed.run}/attestation.json\n", "")
    verified = call(*verify(passed, roots=passed.folder / "own.pub"))
    assert verified.code == 0
    assert re.fullmatch(
        r"verified: pass, model memorizing [0-9a-f]{12}, (raw|ema) weights, policy lenient, 3 probes, 16x16 pixels,"
        r" sequence 1,"
        r" issued \d{4}-\d\d-\d\d, expires \d{4}-\d\d-\d\d\n",
        verified.out,
    )
    assert verified.err == ""


def test_keys_and_roots_can_come_from_the_environment(passed: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INVMM_GATE_KEY", str(passed.folder / "gate.key"))
    assert call("sign", passed.run, "--policy", passed.folder / "lenient.yaml").code == 0
    monkeypatch.setenv("INVMM_GATE_ROOTS", str(passed.folder / "gate.pub"))
    without_roots = [part for part in verify(passed) if part not in ("--roots", passed.folder / "gate.pub")]
    assert call(*without_roots).code == 0


@pytest.mark.parametrize(
    ("extra", "code", "says"),
    [
        (("--policy", "strict"), 0, ""),
        (("--min-probes", 3, "--max-age", 1, "--refuse-waivers", "--min-sequence", 1), 0, ""),
        (("--min-probes", 4), 10, "error: probe count: 3; expected at least 4"),
        (("--min-sequence", 2), 10, "error: sequence: 1; expected at least 2"),
        (("--image-size", "16x16"), 0, ""),
        (("--image-size", "512"), 10, "error: image size: 16x16; expected 512x512; gate the size in use"),
        (("--image-size", "big"), 2, "error: --image-size 'big'; expected HEIGHTxWIDTH in pixels, as 512x768"),
        (("--refuse-chosen-seed",), 10, "error: seed: "),
        (("--max-attempts", 3), 10, "error: attempt: none, as it was signed without --log; expected at most 3"),
        (("--max-attempts", 0), 2, "--max-attempts"),
        (("--probe-set-digest", "ab" * 32), 10, "error: probe-set digest: "),
        (("--probe-set-digest", "ab"), 2, "error: --probe-set-digest 'ab'; expected 64 hexadecimal digits"),
        (("--environment", "ab" * 32), 10, "error: environment: "),
        (("--environment", "ab"), 2, "error: --environment 'ab'; expected 64 hexadecimal digits"),
        (("--weights", "best"), 2, "--weights"),
        (("--max-age", 0), 2, "--max-age"),
        (("--revoked", "none.yaml"), 2, "error: 'none.yaml' is missing; expected a YAML file"),
    ],
)
def test_what_is_demanded_is_held_against_the_attestation(signed: World, extra, code, says):
    called = call(*verify(signed), *extra)
    assert called.code == code, called.err
    assert says in called.err
    assert (called.out + called.err).count("\n") == 1


def test_anything_that_does_not_match_is_one_line_and_exit_code_10(signed: World, root: Path):
    clean = root / "examples" / "demo" / "models" / "clean"
    assert call("keys", "new", signed.folder / "other").code == 0
    torn = signed.folder / "torn.json"
    torn.write_bytes((signed.run / "attestation.json").read_bytes()[:-9])
    for changes, says in (
        ({"model": clean}, "error: subject digest: the model's files give "),
        ({"policy": "strict"}, "error: policy digest: "),
        ({"roots": signed.folder / "other.pub"}, "error: signature: made by the key "),
        ({"attestation": torn}, "error: envelope: "),
        ({"attestation": signed.run / "verdict.json"}, "error: envelope: "),
    ):
        called = call(*verify(signed, **changes))
        assert called.code == 10, called.err
        assert called.error.startswith(says)
        assert (called.out, called.err.count("\n")) == ("", 1)


def test_a_file_that_cannot_be_used_is_exit_code_2(signed: World):
    (signed.folder / "roots.yaml").write_text("- name: a\n  public_kay: gate.pub\n")
    for changes, says in (
        ({"model": signed.folder / "none"}, "none' does not exist"),
        ({"attestation": signed.folder / "none.json"}, "none.json' is missing"),
        ({"attestation": signed.folder}, "is a folder, pipe or device"),
        ({"policy": "strickt"}, "'strickt'"),
        ({"roots": signed.folder / "none.pub"}, "none.pub' is missing"),
        ({"roots": signed.folder / "gate.key"}, "holds a private key"),
        ({"roots": signed.folder / "roots.yaml"}, "roots.yaml:2: [0].public_kay: unknown key"),
    ):
        called = call(*verify(signed, **changes))
        assert called.code == 2, called.err
        assert says in called.error
        assert secret(signed) not in called.err


@pytest.mark.usefixtures("_no_defaults")
def test_a_block_is_signed_and_refused(finished: World):
    assert call("keys", "new", finished.folder / "gate").code == 0
    assert call("sign", finished.run, "--key", finished.folder / "gate.key", "--policy", finished.policy()).code == 0
    called = call(*verify(finished, policy=finished.policy()))
    assert called.code == 10
    assert called.error == "error: verdict: block; expected pass; see the report of the run"


def test_signing_says_when_the_report_at_hand_is_not_the_one_that_is_signed(passed: World):
    (passed.run / "public" / "report.html").write_text("<p>PASS</p>")
    called = call(*sign(passed))
    assert called.code == 0
    assert called.err == (
        f"note: {passed.run}/public/report.html is not the one that was signed;"
        f" `invmm-gate report {passed.run}` writes that\n"
    )


def test_a_slip_while_signing_is_one_line_and_leaves_the_run_unsigned(passed: World):
    assert call("keys", "new", passed.folder / "own").code == 0
    (passed.folder / "gate.key").chmod(0o644)
    (passed.folder / "text.key").write_text(secret(passed))
    (passed.folder / "text.key").chmod(0o600)
    for arguments, says in (
        ((passed.run,), "--key"),
        ((passed.run, "--key", passed.folder / "none.key"), "none.key' is missing"),
        (
            (passed.run, "--key", passed.folder / "gate.key"),
            "has mode 0644; expected a file that only its owner can read",
        ),
        ((passed.run, "--key", passed.folder / "text.key"), "holds no unencrypted private key"),
        ((passed.folder, "--key", passed.folder / "text.key"), "holds no unencrypted private key"),
        ((passed.run, "--key", passed.folder / "text.key", "--expires-in", 0), "--expires-in"),
        (
            (passed.run, "--key", passed.folder / "own.key"),
            "which is no shipped policy; expected the file of that policy; give --policy FILE",
        ),
        ((passed.run, "--key", passed.folder / "own.key", "--policy", "strict"), "policy strict has the digest"),
    ):
        called = call("sign", *arguments)
        assert called.code == 2, called.err
        assert says in called.error
        assert secret(passed) not in called.err + called.out
    assert not (passed.run / "attestation.json").exists()
    assert call("keys", "new", passed.folder / "gate").code == 2


@pytest.fixture
def outputs(signed: World) -> str:
    """Everything that was printed or written while signing and verifying, but the key itself."""
    called = [
        call(*sign(signed, "--previous", signed.run / "attestation.json")),
        call(*verify(signed)),
        call("report", signed.run),
    ]
    files = [path.read_bytes().decode(errors="replace") for path in signed.run.rglob("*") if path.is_file()]
    return "\n".join([one.out + one.err for one in called] + files)


def test_the_key_is_in_no_output_and_in_no_file_of_the_run(outputs: str, signed: World):
    assert secret(signed) not in outputs
    assert "PRIVATE KEY" not in outputs
    assert str(signed.folder / "gate.key") not in outputs


def test_verifying_imports_no_model_and_needs_little_time(signed: World):
    code, modules = imported_by(*verify(signed))
    assert code == 0
    assert modules & (DEVICE | {"great_expectations", "pandas", "jinja2", "scipy"}) == set()


def test_signing_and_making_keys_import_no_model(passed: World):
    code, modules = imported_by(*sign(passed))
    assert code == 0
    assert modules & DEVICE == set()
    code, modules = imported_by("keys", "new", passed.folder / "third")
    assert code == 0
    assert modules & (DEVICE | {"jinja2", "numpy"}) == set()


@pytest.mark.parametrize("command", [("keys", "new"), ("sign",), ("verify",)])
def test_every_command_explains_itself_without_heavy_packages(command):
    called = call(*command, "--help")
    assert called.code == 0
    assert "Example: invmm-gate " + " ".join(command) in called.out
    code, modules = imported_by(*command, "--help")
    assert code == 0
    assert modules & (HEAVY | {"cryptography"}) == set()


def test_an_attestation_can_be_checked_without_this_software(signed: World):
    """With openssl alone: who does not trust the verifier can do without it."""
    envelope = json.loads((signed.run / "attestation.json").read_bytes())
    kind, payload = envelope["payloadType"].encode(), decoded(envelope["payload"])
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    (signed.folder / "message").write_bytes(message)
    (signed.folder / "signature").write_bytes(decoded(envelope["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "gate.pub", "-rawin", "-in", "message"]
    done = subprocess.run(
        [*command, "-sigfile", "signature"], cwd=signed.folder, capture_output=True, text=True, check=False
    )
    assert "Signature Verified Successfully" in done.stdout, done.stderr


def decoded(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


def test_verify_works_in_a_folder_of_nothing_but_the_files(signed: World, tmp_path: Path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "invmm_gate", *(str(part) for part in verify(signed, model=MEMORIZING))]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("verified: pass")
