"""Bad input: one clear line that names the place and the next step, the right exit code, and nothing lost."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from invmm_gate.core.run_records import RunInputs
from invmm_gate.files.strict_json import from_json
from invmm_gate.runs.identity import fingerprint
from tests.stages.world import (
    LENIENT,
    POLICY,
    ROOT,
    World,
    add_picture,
    call,
    draw,
    new_world,
    note_again,
    onnx_encoder,
    policy_with,
    torchscript,
)

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SSCD = [{"name": "sscd_disc_large", "threshold": 0.5}]


@dataclass(frozen=True)
class Case:
    """One slip: `arrange` makes it and returns the options that go with it."""

    arrange: Callable[[World], tuple[object, ...]]
    says: tuple[str, ...]
    code: int = 2


def policy_text(change: Callable[[str], str]) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        path = world.policy(name="tested")
        path.write_text(change(path.read_text()))
        return ("--policy", path)

    return arrange


def policy_of(**changes) -> Callable[[World], tuple[object, ...]]:
    return lambda world: ("--policy", world.policy(policy_with(**changes), "tested"))


def probe_file(change: Callable[[Path], object]) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        change(world.probes / "images" / "p2.png")
        return ()

    return arrange


def listed_file(content: Callable[[], bytes]) -> Callable[[World], tuple[object, ...]]:
    """A file with the right hash in the manifest: only its content is wrong."""

    def arrange(world: World) -> tuple[object, ...]:
        from hashlib import sha256

        path = world.probes / "images" / "p2.png"
        before = sha256(path.read_bytes()).hexdigest()
        path.write_bytes(content())
        manifest = world.manifest.read_text()
        assert before in manifest
        world.manifest.write_text(manifest.replace(before, sha256(path.read_bytes()).hexdigest()))
        return ()

    return arrange


def huge_png() -> bytes:
    """50,000 x 50,000 pixels in its header; the pixels themselves would never be reached."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def half_a_picture() -> bytes:
    import io

    buffer = io.BytesIO()
    draw(2, size=64).save(buffer, format="PNG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def manifest_text(change: Callable[[str], str]) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        before = world.manifest.read_text()
        world.manifest.write_text(change(before))
        assert world.manifest.read_text() != before
        return ()

    return arrange


def without_controls(world: World) -> tuple[object, ...]:
    other = new_world(world.folder / "uncontrolled", controls=0)
    rules = [{"rule": "below_controls", "fdr": 0.5}]
    return (
        "--probes",
        other.probes,
        "--policy",
        world.policy(policy_with(rules=rules, coverage={"min_controls": 0}), "tested"),
    )


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def other_picture(
    change: Callable[[Image.Image], Image.Image], **options: object
) -> Callable[[World], tuple[object, ...]]:
    """The first probe's file is another one, of which the manifest says the right sha256."""

    def arrange(world: World) -> tuple[object, ...]:
        row = world.manifest.read_text().splitlines()[1].split(",")
        path = world.probes / row[1]
        with Image.open(path) as image:
            change(image).save(path, **options)
        new = hashlib.sha256(path.read_bytes()).hexdigest()
        world.manifest.write_text(world.manifest.read_text().replace(row[2], new))
        return ()

    return arrange


def small_probe(world: World) -> tuple[object, ...]:
    add_picture(world, 7, "sensitive", size=12, identifier="small")
    return ()


def model(change: Callable[[Path], object]) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        copied = world.copied_model()
        change(copied.model)
        return ("--model", copied.model)

    return arrange


def hide_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"conv_in.bias": [0.0]}))


def only_pickled(unet: Path) -> None:
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"weights": bytes(2_000_000)}))


def other_pipeline(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(path.read_text().replace("DDPMPipeline", "TextToNowherePipeline"))


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_out.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS)


def one_key_less(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["conv_out.bias"]
    save_file(tensors, folder / WEIGHTS)


def file_as_folder(world: World) -> tuple[object, ...]:
    (world.folder / "file").touch()
    return ("--out", world.folder / "file" / "run")


def waivers(text: str) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        path = world.folder / "waivers.yaml"
        path.write_text(text)
        return ("--waivers", path)

    return arrange


def sscd_with_another_hash(world: World) -> tuple[object, ...]:
    path = torchscript(world.folder / "sscd.torchscript.pt")
    metric = [SSCD[0] | {"sha256": "0" * 64}]
    return ("--policy", world.policy(policy_with(metric=metric), "tested"), "--sscd", path)


def sscd_of_another_kind(world: World) -> tuple[object, ...]:
    path = world.folder / "sscd.pt"
    path.write_bytes(b"no TorchScript")
    return ("--policy", world.policy(policy_with(metric=SSCD), "tested"), "--sscd", path)


def onnx_file(**how) -> Callable[[World], tuple[object, ...]]:
    def arrange(world: World) -> tuple[object, ...]:
        path = onnx_encoder(world.folder / "encoder.onnx", **how)
        metric = [{"name": "onnx_means", "threshold": 0.9}]
        return ("--policy", world.policy(policy_with(metric=metric), "tested"), "--sscd", path)

    return arrange


CASES: dict[str, Case] = {
    "unknown policy key": Case(
        policy_text(lambda text: text.replace("threshold: 0.5\n", "threshhold: 0.5\n")),
        ("tested.yaml:28", "threshhold", "threshold"),
    ),
    "unknown setting": Case(policy_of(settings={"step": 20}), ("tested.yaml:14", "'step'", "steps")),
    "policy of the wrong type": Case(policy_of(version="one"), ("tested.yaml:2", "version")),
    "duplicate policy key": Case(policy_text(lambda text: text + "name: again\n"), ("tested.yaml:", "name")),
    "policy that is no YAML": Case(policy_text(lambda _: "rules: [\n"), ("tested.yaml:",)),
    "policy file that is missing": Case(lambda world: ("--policy", world.folder / "no.yaml"), ("no.yaml",)),
    "policy name with a slip": Case(lambda _: ("--policy", "strickt"), ("'strickt'", "strict")),
    "another probe set than the policy's": Case(
        policy_of(coverage={"min_controls": 2, "probe_set": "0" * 64}), ("has the digest", "0" * 64, "policy small")
    ),
    "probe file missing": Case(probe_file(Path.unlink), ("manifest.csv:3", "images/p2.png")),
    "probe changed since it was added": Case(
        probe_file(lambda path: draw(99).save(path)), ("manifest.csv:3", "changed since", "add it again")
    ),
    "probe truncated": Case(listed_file(half_a_picture), ("manifest.csv:3", "damaged or cut short")),
    "probe that is no image": Case(listed_file(lambda: b"%PDF-1.4 not an image"), ("manifest.csv:3", "not an image")),
    "probe of 50,000 x 50,000 pixels": Case(
        listed_file(huge_png), ("manifest.csv:3", "2500000000 pixels", "at most 64 million")
    ),
    "two probes with one id": Case(
        manifest_text(lambda text: text.replace("\np2,", "\np1,")), ("manifest.csv:3", "p1", "line 2")
    ),
    "unknown group": Case(manifest_text(lambda text: text.replace(",sensitive,", ",sensible,")), ("manifest.csv:4",)),
    "probe outside the folder": Case(
        manifest_text(lambda text: text.replace("images/p2.png", "../p2.png")), ("manifest.csv:3", "../p2.png")
    ),
    "no controls while a rule needs them": Case(without_controls, ("below_controls", "0 controls")),
    "probes smaller than the model": Case(
        small_probe, ("manifest.csv:7", "small.png", "12 x 12 pixels", "at least 16 x 16")
    ),
    "a probe of another shape": Case(
        other_picture(lambda image: image.resize((32, 16))), ("manifest.csv:2", "32 x 16 pixels", "no `fit`", "--fit")
    ),
    "a photo that EXIF turns": Case(
        other_picture(lambda image: image, exif=turned()),
        ("manifest.csv:2", "EXIF orientation 6", "--orientation both"),
    ),
    "no probe set": Case(lambda world: ("--probes", world.folder / "none"), ("none", "invmm-gate probes init")),
    "no model": Case(lambda world: ("--model", world.folder / "none"), ("none", "does not exist")),
    "model with two sets of weights": Case(
        model(lambda folder: shutil.copytree(folder / "unet", folder / "unet_ema")), ("two models", "--weights")
    ),
    "model without weights": Case(model(lambda folder: (folder / WEIGHTS).unlink()), ("unet", "weights")),
    "model with a pickle": Case(
        model(lambda folder: (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))),
        ("diffusion_pytorch_model.bin", "the same weights again, as a pickle"),
    ),
    "model with pickled weights alone": Case(
        model(lambda folder: only_pickled(folder / "unet")),
        ("diffusion_pytorch_model.bin", "--allow-pickle"),
    ),
    "pickle under a safetensors name": Case(model(hide_a_pickle), ("diffusion_pytorch_model.safetensors", "pickle")),
    "unknown pipeline": Case(model(other_pipeline), ("TextToNowherePipeline", "DDPMPipeline")),
    "weight that is not a number": Case(model(not_a_number), ("conv_out.weight",)),
    "missing weight": Case(model(one_key_less), ("conv_out.bias",)),
    "code in the model": Case(model(lambda folder: (folder / "pipeline.py").touch()), ("pipeline.py",)),
    "output folder in the place of a file": Case(file_as_folder, ("cannot be written", "give another --out")),
    "expired date that does not exist": Case(
        waivers("- {probe: p1, reason: r, owner: o, expires: 2026-02-30}\n"), ("waivers.yaml:1", "2026-02-30")
    ),
    "waiver without an owner": Case(
        waivers("- {probe: p1, reason: r, expires: 2027-01-01}\n"), ("waivers.yaml:1", "owner")
    ),
    "waivers that are no YAML": Case(waivers("- {probe: p1\n"), ("waivers.yaml:",)),
    "waiver file missing": Case(lambda world: ("--waivers", world.folder / "no.yaml"), ("no.yaml",)),
    "baseline that is no run": Case(lambda world: ("--baseline", world.folder), ("holds no run.json",)),
    "SSCD file not named": Case(policy_of(metric=SSCD), ("SSCD", "--sscd FILE", "INVMM_GATE_SSCD")),
    "SSCD file missing": Case(
        lambda world: ("--policy", world.policy(policy_with(metric=SSCD), "tested"), "--sscd", world.folder / "no.pt"),
        ("no.pt", "No such file"),
    ),
    "SSCD file with the wrong hash": Case(sscd_with_another_hash, ("sscd.torchscript.pt has sha256", "0" * 64)),
    "SSCD file of another kind": Case(sscd_of_another_kind, ("sscd.pt", "not TorchScript")),
    "ONNX file not named": Case(
        policy_of(metric=[{"name": "onnx_means", "threshold": 0.9}]), ("takes an ONNX file", "--sscd FILE.onnx")
    ),
    "ONNX file with another input": Case(onnx_file(channels=1), ("encoder.onnx", "takes images of shape ('row', 1,")),
    "ONNX file that yields NaN": Case(onnx_file(factor=float("nan")), ("encoder.onnx", "gives NaN, infinity")),
    "ONNX file of another encoder": Case(onnx_file(name="onnx_other"), ("encoder.yaml", "onnx_other", "onnx_means")),
    "declaration with a slip": Case(onnx_file(layout="nhcw"), ("encoder.yaml:6", "layout", "did you mean 'nhwc'?")),
    "unknown metric": Case(policy_of(metric=[{"name": "psnr", "threshold": 0.5}]), ("'psnr'", "pixel_rmse")),
    "too few rows": Case(lambda _: ("--rows", "1"), ("--rows 1", "at least 2")),
    "unknown device": Case(lambda _: ("--device", "abacus"), ("'abacus'", "cpu, cuda or cuda:N")),
    "device without storage": Case(lambda _: ("--device", "meta"), ("'meta'", "cpu, cuda or cuda:N")),
    "unknown option": Case(lambda _: ("--polcy", "strict"), ("--polcy", "--help")),
    "option of the wrong type": Case(lambda _: ("--seed", "first"), ("--seed", "valid integer", "--help")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_with_the_right_exit_code_and_nothing_is_measured(world, name, monkeypatch):
    monkeypatch.delenv("INVMM_GATE_SSCD", raising=False)
    case = CASES[name]
    called = world.check(*case.arrange(world))
    assert called.code == case.code, called.err
    for fragment in case.says:
        assert fragment in called.error
    assert "Traceback" not in called.err
    assert called.out == ""
    assert all(line.startswith(("loading ", "error: ")) for line in called.err.splitlines())
    assert not (world.run / "measurements.jsonl").exists()
    assert not (world.run / "verdict.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("chekc",), ("chekc", "--help")),
        (("check",), ("--model", "--help")),
        (("probes", "validat"), ("validat",)),
        (("policy", "show", "no-such-policy"), ("'no-such-policy'",)),
        (("probes", "add", "probes", "a.png", "--group", "public"), ("'public'", "'sensitive'", "'control'")),
        (("probes", "add", "none", "a.png", "--group", "control"), ("none", "invmm-gate probes init")),
        (("report", "nowhere"), ("nowhere holds no run.json",)),
        (("judge", "nowhere", "--policy", "strict"), ("nowhere holds no run.json",)),
        (("confirm", "nowhere"), ("nowhere holds no run.json",)),
        (("publish", "nowhere"), ("nowhere holds no run.json",)),
        (("metric", "calibrate", "nowhere", "--size", "16"), ("nowhere",)),
        (("metric", "calibrate", "nowhere", "--size", "16", "--rate", "2"), ("--rate 2", "between 0 and 1")),
    ],
)
def test_a_slip_in_any_command_is_one_line_and_exit_code_2(arguments, says):
    called = call(*arguments)
    assert called.code == 2
    for fragment in says:
        assert fragment in called.error
    assert called.out == ""
    assert called.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("probes",), ("policy",), ("metric",)])
def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(arguments):
    called = call(*arguments)
    assert called.code == 2
    assert "Usage:" in called.out + called.err
    assert "Traceback" not in called.err


EXPIRED = "- {probe: p1, rule: invmm_below, reason: known, owner: Ada, expires: 2026-01-01}\n"
UNKNOWN = "- {probe: p9, reason: known, owner: Ada, expires: 2030-01-01}\n"
VALID = "".join(
    f"- {{rule: {rule}, reason: known, owner: Ada, expires: 2030-01-01}}\n" for rule in ("invmm_below", "confirmed")
)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (EXPIRED, 10, "the waiver of Ada for p1 expired on 2026-01-01 and does nothing"),
        (UNKNOWN, 10, "the waiver of Ada for p9 names a probe that the probe set does not have"),
        (VALID, 0, "waived"),
    ],
)
def test_a_waiver_that_does_nothing_is_said_in_verdict_and_report(finished, text, code, says):
    path = finished.folder / "waivers.yaml"
    path.write_text(text)
    policy = finished.policy(policy_with(waivers="owned"), "owned")
    called = call("judge", finished.run, "--policy", policy, "--waivers", path)
    assert called.code == code
    assert any(says in reason for reason in finished.verdict()["reasons"])
    assert "expired" in (finished.run / "report.html").read_text() or text != EXPIRED
    assert len(finished.verdict()["findings"]) >= 2, "a waived finding stays"


@pytest.fixture
def read_only(tmp_path):
    place = tmp_path / "read-only"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no read-only file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_folder_that_cannot_be_written_is_named(world, read_only):
    called = world.check("--out", read_only / "run")
    assert called.code == 2
    assert called.error == (
        f"error: {read_only}/run cannot be written: Read-only file system;"
        " expected a place that this user can write to; give another --out"
    )


def test_a_name_cannot_drive_the_terminal(world):
    odd = world.folder / "no\x1b[2Jmodel"
    called = world.check("--model", odd)
    assert called.code == 2
    assert "\x1b" not in called.err + called.out


def test_a_bug_is_one_line_with_exit_code_1_and_says_how_to_see_where(world, monkeypatch):
    from invmm_gate.stages import self_checks as self_checking

    def broken(*_given, **_named):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.delenv("INVMM_GATE_DEBUG", raising=False)
    monkeypatch.setattr(self_checking, "self_check", broken)
    called = world.check()
    assert called.code == 1
    assert called.err.splitlines()[-1] == (
        "internal error: ZeroDivisionError: division by zero; set INVMM_GATE_DEBUG=1 to see where, and report it"
    )
    monkeypatch.setenv("INVMM_GATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        world.check()


def test_a_baseline_with_a_regression_is_blocked_and_without_one_the_question_stays_open(finished):
    rules = [{"rule": "regression", "margin": 0.01}]
    policy = finished.policy(policy_with(rules=rules), "regression")
    assert call("judge", finished.run, "--policy", policy).code == 11
    baseline = finished.folder / "approved"
    os.rename(finished.copy(finished.folder.parent / "approved").run, baseline)
    refused = call("judge", finished.run, "--policy", policy, "--baseline", baseline)
    assert refused.code == 2
    assert f"the baseline {baseline}: the verdict is inconclusive; expected a run that passed" in refused.error
    lines = [json.loads(line) for line in (baseline / "measurements.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"outcome": "not_inverted", "invmm": None, "invmm_spread": None, "trials": []}
    (baseline / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    note_again(baseline)
    assert call("judge", baseline, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    called = call("judge", finished.run, "--policy", policy, "--baseline", baseline)
    assert called.code == 10
    assert "and it was not inverted before" in called.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rules": [{"rule": "invmm_below", "threshold": 0.5, "groups": ["canary"]}]}, "invmm_below looks at no probe"),
        ({"rules": [{"rule": "invmm_below", "threshold": 0}]}, "a threshold of 0 blocks only a score of exactly 0"),
        ({"rules": [{"rule": "regression", "margin": 0.1}]}, "rule 'regression' needs --baseline"),
        ({"confirm": {"prompts": {}}}, "needs confirm.plain_sampling for a model without prompts"),
        ({"metric": [{"name": "pixel_rmse", "threshold": 0.1, "up_to": 8}]}, "no metric for images of 16 x 16 pixels"),
        (
            {"coverage": {"min_probes": 4, "min_controls": 2}},
            "the probe set has 3 probes, the policy asks for at least",
        ),
        ({"coverage": {"min_controls": 3}}, "the probe set has 2 controls, the policy asks for at least 3"),
        ({"coverage": {"min_controls": 2, "probe_set": "a" * 64}}, "the probe set that policy small names"),
    ],
)
def test_a_policy_whose_rules_cannot_be_decided_is_refused_before_torch_is_imported(world, changes, words):
    policy = world.policy(policy_with(**changes), "undecidable")
    arguments = [str(argument) for argument in world.arguments(policy=policy)]
    program = f"""
import sys
from invmm_gate.cli import run
code = run({arguments!r})
assert "torch" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not world.run.exists()


def test_the_table_is_of_policies_that_work(world):
    assert yaml.safe_load(world.policy().read_text()) == POLICY
    assert LENIENT["name"] == "lenient"


def test_a_baseline_of_other_settings_is_refused_because_its_scores_do_not_compare(finished):
    baseline = finished.copy(finished.folder / "other").run
    record = json.loads((baseline / "run.json").read_text())
    record["inputs"]["settings"]["learning_rate"] = 0.2
    record["fingerprint"] = fingerprint(from_json(RunInputs, json.dumps(record["inputs"]), where="here"))
    (baseline / "run.json").write_text(json.dumps(record))
    (baseline / "confirm.json").unlink()
    (baseline / "confirmations.jsonl").unlink()
    note_again(baseline)
    rules = [{"rule": "invmm_below", "threshold": 0.001}]
    policy = finished.policy(policy_with(rules=rules, settings={"learning_rate": 0.2}), "other")
    assert call("judge", baseline, "--policy", policy).code == 0
    called = call("judge", finished.run, "--policy", finished.policy(), "--baseline", baseline)
    assert called.code == 2
    assert "the run and its baseline differ in settings (learning_rate); expected two runs under one" in called.error
