"""A verdict is signed as it is, and holds only for the files, policy and probes that it was reached with."""

import base64
import datetime
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from invmm_gate.attest.demands import demands_named
from invmm_gate.attest.keys import KeyPair, load_roots, new_key_pair
from invmm_gate.attest.statement import Statement
from invmm_gate.attest.verification import check_statement, check_subject, open_statement
from invmm_gate.core.errors import ConfigError, GateError, ModelError, RunFolderError, VerificationError
from invmm_gate.core.options import Conditions, Signing
from invmm_gate.core.records import ModelFile
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Waiver
from invmm_gate.models.read.checkpoint_files import digest_of
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.schema import load_policy
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.runs.copies import Circumstances
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.audit_file import verify_log
from invmm_gate.stages.judge import judge_run
from invmm_gate.stages.public_edition import public_names
from invmm_gate.stages.report import write_reports
from invmm_gate.stages.sign import read_attestation, report_is_attested, served_digest, sign_run, verify_model
from tests.models import tiny_text
from tests.models.conftest import tiny_unet
from tests.models.test_lora import save_lora
from tests.policy.policy_builders import STRICT, TODAY, waiver, with_score
from tests.stages.given_waivers import narrow
from tests.stages.judged_run import NOW, judged_run
from tests.stages.world import LENIENT, MEMORIZING, World, call

DAY = datetime.timedelta(days=1)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Desk:
    """Where a run is signed and verified."""

    folder: Path
    pair: KeyPair

    def sign(self, run: RunFolder, **options: Any) -> Path:
        now, beside = options.pop("now", NOW), options.pop("beside", None)
        return sign_run(run.path, Signing(**({"key": self.pair.private} | options)), now=now, beside=beside)

    def verify(self, model: Path, attestation: Path, **options: Any) -> Statement:
        now, policy = options.pop("now", NOW + DAY), options.pop("policy", "strict")
        looking = {name: options.pop(name) for name in ("loras", "allow_pickle") if name in options}
        policies = (policy,) if isinstance(policy, str) else policy
        roots = options.pop("roots", self.pair.public)
        asked = {field.name for field in fields(Conditions)} - {"max_age"}
        conditions = Conditions(**{name: options.pop(name) for name in asked & set(options)})
        demands = replace(demands_named(conditions, policies=policies, roots=roots), **options)
        return verify_model(model, attestation, demands, now=now, **looking)

    def verify_fails(self, model: Path, attestation: Path) -> str:
        """The verdict that is refused."""
        with pytest.raises(VerificationError, match="verdict: ") as refusal:
            self.verify(model, attestation)
        return refusal.value.found.removeprefix("verdict: ")

    def run(self, model: Path, name: str = "run", **options: Any) -> RunFolder:
        return judged_run(self.folder / name, model, **options)


@pytest.fixture(scope="session")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return new_key_pair(tmp_path_factory.mktemp("keys") / "gate")


@pytest.fixture
def desk(_pair: KeyPair, tmp_path: Path) -> Desk:
    return Desk(tmp_path, _pair)


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of a few KiB, most of them the header of its weights."""
    network = tiny_unet(
        block_out_channels=(1,),
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
    )
    folder = tmp_path_factory.mktemp("tiny") / "ckpt"
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(_tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_tiny, tmp_path / "ckpt")


def sha(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def later() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def test_a_real_check_that_passes_is_signed_and_holds_for_its_model_only(finished: World, desk: Desk, root: Path):
    policy = finished.policy(LENIENT, "lenient")
    assert call("judge", finished.run, "--policy", policy).code == 0
    run = RunFolder(finished.run)
    attestation = desk.sign(run, now=later(), policy=str(policy))
    assert attestation == finished.run / "attestation.json"
    said = desk.verify(finished.model, attestation, policy=str(policy), now=later())
    record = json.loads((finished.run / "run.json").read_text())
    assert said.subject_digest == record["model"]["digest"] == inspect_checkpoint(MEMORIZING).digest
    assert (said.decision, said.policy_name) == ("pass", "lenient")
    assert (said.probes, said.controls) == (3, 2)
    assert said.probe_set_digest == record["probe_set"]["digest"]
    assert (said.profile, said.weights) == ("gate", record["model"]["weights"])
    assert (said.tested.seed, said.tested.image_size) == (record["inputs"]["seed"], (16, 16))
    assert said.tested.samplers[0].startswith("DDPMPipeline, DDPMScheduler, leading spacing")
    assert said.tested.samplers[1:] == ("deterministic sampling on the measure's grid",)
    assert (said.tested.sampler_steps, said.tested.guidance_scales) == (5, (1.0,))
    assert said.tested.seed_chosen, "it was drawn for another policy than that of the verdict"
    assert said.versions == record["inputs"]["versions"]
    assert said.report_digest == sha(finished.run / "public" / "report.html")
    files = [finished.run / name for name in ("measurements.jsonl", "confirmations.jsonl", "likelihoods.jsonl")]
    assert said.results_digest == digest_of(
        ModelFile(path=path.name, size=path.stat().st_size, sha256=sha(path)) for path in files
    )
    with pytest.raises(VerificationError, match="subject digest: the model's files give"):
        desk.verify(root / "examples" / "demo" / "models" / "clean", attestation, policy=str(policy), now=later())


def test_a_block_and_an_open_question_can_be_signed_and_let_nothing_through(finished: World, desk: Desk):
    run = RunFolder(finished.run)
    open_policy = finished.policy(LENIENT | {"name": "open", "coverage": {"min_probes": 100}}, "open")
    for policy, code, decision in ((finished.policy(), 10, "block"), (open_policy, 11, "inconclusive")):
        assert call("judge", finished.run, "--policy", policy).code == code
        attestation = desk.sign(run, now=later(), policy=str(policy))
        with pytest.raises(VerificationError, match=f"verdict: {decision}; expected pass"):
            desk.verify(finished.model, attestation, policy=str(policy), now=later())


def test_a_new_verdict_or_measurement_does_away_with_the_old_attestation(finished: World, desk: Desk):
    policy = finished.policy(LENIENT, "lenient")
    attestation = finished.run / "attestation.json"
    for command in (("judge", finished.run, "--policy", policy), ("confirm", finished.run), finished.arguments()):
        assert call("judge", finished.run, "--policy", policy).code == 0
        desk.sign(RunFolder(finished.run), now=later(), policy=str(policy))
        assert attestation.exists()
        assert call(*command).code in (0, 10)
        assert not attestation.exists(), command
    assert call("judge", finished.run, "--policy", policy).code == 0
    desk.sign(RunFolder(finished.run), now=later(), policy=str(policy))
    assert call("report", finished.run, "--reveal").code == 0
    assert attestation.exists(), "a report changes no verdict"


def test_the_report_that_is_named_is_the_public_one_whatever_the_other_shows(desk: Desk, finished: World):
    policy = str(finished.policy(LENIENT, "lenient"))
    assert call("judge", finished.run, "--policy", policy).code == 0
    public = finished.run / "public" / "report.html"
    travelling = sha(public)
    write_reports(RunFolder(finished.run), reveal=True)
    assert sha(public) == travelling
    attestation = desk.sign(RunFolder(finished.run), now=later(), policy=policy)
    assert desk.verify(MEMORIZING, attestation, policy=policy, now=later()).report_digest == travelling
    assert report_is_attested(finished.run)
    public.write_text(public.read_text().replace("PASS", "BLOCK"))
    assert not report_is_attested(finished.run)
    assert call("report", finished.run).code == 0
    assert report_is_attested(finished.run)
    public.unlink()
    assert not report_is_attested(finished.run)


def test_no_byte_of_the_weights_can_be_changed(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    trusted = open_statement(read_attestation(attestation), load_roots(desk.pair.public), now=NOW)
    demands = demands_named(Conditions(), policies=["strict"], roots=desk.pair.public)
    path = tiny / WEIGHTS
    original = path.read_bytes()
    let_through = told = 0
    with path.open("r+b", buffering=0) as stream:
        for at, byte in enumerate(original):
            os.pwrite(stream.fileno(), bytes((byte ^ 1 << at % 8,)), at)
            try:
                digest = served_digest(tiny, allow_pickle=False, weights=None, loras=())
                check_subject(trusted.statement, digest)
                check_statement(trusted, demands, NOW)
                let_through += 1
            except VerificationError as refusal:
                told += str(refusal).startswith("subject")
            os.pwrite(stream.fileno(), original[at : at + 1], at)
    assert len(original) > 4_096
    assert (let_through, told) == (0, len(original))
    assert desk.verify(tiny, attestation).subject_digest == trusted.statement.subject_digest


def flip(at: int) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        data = bytearray((model / WEIGHTS).read_bytes())
        data[at] ^= 1
        (model / WEIGHTS).write_bytes(data)

    return change


CHANGES: dict[str, Callable[[Path], Any]] = {
    "first byte of the weights": flip(0),
    "header of the weights": flip(100),
    "last byte of the weights": flip(-1),
    "one byte more": lambda model: (model / WEIGHTS).open("ab").write(b"\0"),
    "one byte less": lambda model: os.truncate(model / WEIGHTS, (model / WEIGHTS).stat().st_size - 1),
    "a file more": lambda model: (model / "README.md").write_text("new"),
    "a file less": lambda model: (model / WEIGHTS).unlink(),
    "a configuration": lambda model: (model / "scheduler" / "scheduler_config.json").open("a").write("\n"),
    "a file renamed": lambda model: (model / "unet").rename(model / "unet_ema"),
    "a second model beside it": lambda model: shutil.copytree(model / "unet", model / "unet_ema"),
    "a link in its place": lambda model: (
        shutil.move(model / WEIGHTS, model.parent / "moved"),
        (model / WEIGHTS).symlink_to(model.parent / "moved"),
    ),
    "code beside it": lambda model: (model / "pipeline.py").write_text("import os"),
    "everything": lambda model: (shutil.rmtree(model), model.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_with_any_change_is_refused_with_exit_code_10(change: str, desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    assert desk.verify(tiny, attestation)
    CHANGES[change](tiny)
    with pytest.raises(VerificationError, match=r"\Asubject"):
        desk.verify(tiny, attestation)


def test_a_model_that_is_not_there_is_bad_input(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    for missing in (tiny / "none", Path("no\0path")):
        with pytest.raises(ModelError):
            desk.verify(missing, attestation)


def test_the_signature_is_looked_at_before_the_model(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    attestation.write_bytes(attestation.read_bytes().replace(b"A", b"B", 1))
    CHANGES["last byte of the weights"](tiny)
    with pytest.raises(VerificationError, match=r"\A(signature|envelope)"):
        desk.verify(tiny, attestation)


@pytest.fixture
def both(tiny: Path) -> Path:
    """A checkpoint with raw and EMA weights."""
    shutil.copytree(tiny / "unet", tiny / "unet_ema")
    averaged = UNet2DModel.from_pretrained(tiny / "unet_ema")
    averaged.conv_out.bias.data += 1
    averaged.save_pretrained(tiny / "unet_ema")
    return tiny


def test_of_two_sets_of_weights_only_the_measured_one_holds(desk: Desk, both: Path):
    attestation = desk.sign(desk.run(both, weights="ema"))
    said = desk.verify(both, attestation, weights="ema")
    assert said.weights == "ema"
    assert said.left_out == ("unet/config.json", WEIGHTS)
    with pytest.raises(VerificationError, match="subject digest"):
        desk.verify(both, attestation, weights="raw")
    with pytest.raises(VerificationError, match=r"subject: .*--weights"):
        desk.verify(both, attestation)
    shutil.rmtree(both / "unet")
    assert desk.verify(both, attestation).weights == "ema", "what was left out need not be there"


def test_lora_weights_are_part_of_what_holds(desk: Desk, tmp_path: Path):
    model = tmp_path / "sd1"
    tiny_text.build("sd1").pipeline.save_pretrained(model)
    lora = save_lora("sd1", tmp_path / "lora")
    attestation = desk.sign(desk.run(model, loras=(lora,)))
    assert desk.verify(model, attestation, loras=(lora,))
    for other in ((), (lora, lora)):
        with pytest.raises(VerificationError, match="subject digest"):
            desk.verify(model, attestation, loras=other)


def test_only_an_accepted_policy_holds(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    assert desk.verify(tiny, attestation, policy=("permissive", "strict")).policy_name == "strict"
    with pytest.raises(VerificationError) as refusal:
        desk.verify(tiny, attestation, policy=("permissive", "standard"))
    permissive = load_policy("permissive").digest
    assert f"policy digest: {STRICT.digest} (strict); expected {permissive} (permissive), " in str(refusal.value)
    with pytest.raises(VerificationError, match="none is accepted"):
        desk.verify(tiny, attestation, policy=())
    with pytest.raises(ConfigError, match="'strickt'"):
        desk.verify(tiny, attestation, policy="strickt")


def test_what_a_deployer_demands_beyond_that_is_held_against_it(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    attestation = desk.sign(run)
    probes = run.run().probe_set.digest
    assert desk.verify(tiny, attestation, probe_set_digest=probes, min_probes=8, max_age=DAY, min_sequence=1)
    for size in ("16", "16x16"):
        assert desk.verify(tiny, attestation, image_size=size, allow_chosen_seed=False)
    demands: dict[str, dict[str, Any]] = {
        "probe-set digest": {"probe_set_digest": "0" * 64},
        "probe count": {"min_probes": 9},
        "image size": {"image_size": "16x32"},
        "attempt": {"max_attempts": 100},
        "issuedAt": {"max_age": DAY - datetime.timedelta(seconds=1)},
        "sequence": {"min_sequence": 2},
        "expiresAt": {"now": NOW + 90 * DAY},
        "weights": {"weights": "raw"},
    }
    for says, demand in demands.items():
        if says == "weights":
            assert desk.verify(tiny, attestation, **demand)
            continue
        with pytest.raises(VerificationError, match=rf"\A{says}: "):
            desk.verify(tiny, attestation, **demand)
    for typo in ("", "0", "16x", "x16", "16x16x3", "-16", "16.0", "16 x 16", "1" * 7):
        with pytest.raises(ConfigError, match=r"--image-size .*; expected HEIGHTxWIDTH"):
            desk.verify(tiny, attestation, image_size=typo)
    for typo in ("abc", "G" * 64, probes.upper()):
        with pytest.raises(ConfigError, match="--probe-set-digest"):
            desk.verify(tiny, attestation, probe_set_digest=typo)


def test_a_seed_that_somebody_chose_is_said_and_can_be_refused(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny, seed=7))
    said = desk.verify(tiny, attestation)
    assert (said.tested.seed, said.tested.seed_chosen) == (7, True)
    with pytest.raises(VerificationError, match=r"\Aseed: 7, which is not the one that model, probe set and policy"):
        desk.verify(tiny, attestation, allow_chosen_seed=False)


def test_the_log_counts_the_different_results_of_a_model_whatever_the_seed_and_verdict(desk: Desk, tiny: Path):
    log = desk.folder / "verdicts.jsonl"

    def attempt(run: RunFolder, **options: Any) -> int | None:
        return desk.verify(tiny, desk.sign(run, log=log, **options)).attempt

    def luckier(hits: int) -> Callable[[RunData], RunData]:
        return lambda data: replace(
            data, measurements=tuple(replace(m, steps=m.steps - hits) for m in data.measurements)
        )

    first = desk.run(tiny)
    assert attempt(first) == attempt(first) == 1, "what is signed twice in a second is one line"
    assert attempt(first, expires_in=9) == 1, "signed again, the same results are no other draw"
    second = desk.run(tiny, "second", seed=7, spoilt=luckier(1))
    assert attempt(second) == 2
    third = desk.run(tiny, "third", seed=8, spoilt=luckier(2))
    assert attempt(third) == 3
    assert attempt(first, expires_in=8) == 1
    attestation = desk.sign(third, log=log)
    assert desk.verify(tiny, attestation, max_attempts=3)
    with pytest.raises(VerificationError, match=r"\Aattempt: 3; expected at most 2, as --max-attempts says"):
        desk.verify(tiny, attestation, max_attempts=2)
    assert [entry.attempt for entry in verify_log(log)[0]] == [1, 1, 2, 3, 1]
    assert desk.verify(tiny, desk.sign(third)).attempt is None, "nobody counted"


def test_a_blocked_result_counts_as_an_attempt_and_another_model_begins_anew(desk: Desk, tiny: Path):
    log = desk.folder / "verdicts.jsonl"
    desk.sign(desk.run(tiny, "blocked", spoilt=lambda data: with_score(data, "p1", 0.01)), log=log)
    assert desk.verify(tiny, desk.sign(desk.run(tiny), log=log)).attempt == 2
    (tiny / "model_index.json").write_text((tiny / "model_index.json").read_text() + "\n")
    assert desk.verify(tiny, desk.sign(desk.run(tiny, "other"), log=log)).attempt == 1


def test_a_revoked_attestation_does_not_hold(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny))
    revoked = desk.folder / "revoked.yaml"
    revoked.write_text("[]\n")
    assert desk.verify(tiny, attestation, revoked=revoked)
    revoked.write_text(f"- {{verdict: {sha(attestation)}, reason: the probes were wrong}}\n")
    with pytest.raises(VerificationError, match="was revoked: the probes were wrong"):
        desk.verify(tiny, attestation, revoked=revoked)
    with pytest.raises(ConfigError, match=r"none\.yaml. is missing"):
        desk.verify(tiny, attestation, revoked=desk.folder / "none.yaml")


def waived(desk: Desk, checkpoint: Path, **changes: Any) -> RunFolder:
    """A run with a finding on p1, and a waiver for it."""
    return desk.run(checkpoint, waivers=(exception(**changes),), spoilt=lambda data: with_score(data, "p1", 0.01))


def exception(**changes: Any) -> Waiver:
    return waiver(probe="p1", **changes)


def beside(run: RunFolder, **changes: Any) -> dict[str, Any]:
    return {"beside": Circumstances(waivers=(replace(narrow(exception(**changes), run.run()), line=7),))}


def test_a_pass_that_rests_on_a_waiver_says_so_and_can_be_refused(desk: Desk, tiny: Path):
    run = waived(desk, tiny)
    attestation = desk.sign(run, **beside(run))
    said = desk.verify(tiny, attestation)
    assert said.decision == "pass_with_waiver"
    name = public_names(run, run.run()).of("p1")
    assert said.waivers == (waiver(line=0, probe=name, reason="withheld", model=run.run().model.digest),)
    assert b'"p1"' not in base64.b64decode(json.loads(attestation.read_bytes())["payload"])
    with pytest.raises(VerificationError, match="waivers: 1 used; expected none, as --refuse-waivers says"):
        desk.verify(tiny, attestation, allow_waivers=False)


def test_an_attestation_ends_with_the_last_day_of_its_waiver(desk: Desk, tiny: Path):
    run = waived(desk, tiny, expires=TODAY + 3 * DAY)
    attestation = desk.sign(run, **beside(run, expires=TODAY + 3 * DAY))
    last = datetime.datetime.combine(TODAY + 3 * DAY, datetime.time(23, 59, 59), datetime.UTC)
    assert desk.verify(tiny, attestation, now=last).expires_at == last + datetime.timedelta(seconds=1)
    with pytest.raises(VerificationError, match="expiresAt: 2026-03-05T00:00:00Z"):
        desk.verify(tiny, attestation, now=last + datetime.timedelta(seconds=1))


def test_a_verdict_whose_waiver_has_expired_since_is_not_signed(desk: Desk, tiny: Path):
    run = waived(desk, tiny, expires=TODAY)
    with pytest.raises(ConfigError, match=r"would expire at 2026-03-02T00:00:00Z, .* judge the run again"):
        desk.sign(run, now=NOW + DAY, **beside(run, expires=TODAY))
    assert not (run.path / "attestation.json").exists()


def test_a_waiver_for_one_model_lets_no_other_through(desk: Desk, tiny: Path):
    own = inspect_checkpoint(tiny).digest
    for number, (model, decision, state) in enumerate(((own, "pass", "used"), ("ab" * 32, "block", "other_model"))):
        run = desk.run(
            tiny, f"run-{number}", waivers=(exception(model=model),), spoilt=lambda data: with_score(data, "p1", 0.01)
        )
        verdict = run.data().verdict
        assert verdict is not None
        assert (verdict.decision, verdict.waivers[0].state) == (decision, state)
    assert "other model" in (run.path / "report.html").read_text()
    first = RunFolder(desk.folder / "run-0")
    assert desk.verify(tiny, desk.sign(first, **beside(first))).waivers[0].model == own
    listed = desk.folder / "waivers.yaml"
    listed.write_text("- {probe: p1, reason: agreed, owner: ann, expires: 2026-12-31, model: clean}\n")
    with pytest.raises(ConfigError, match=r"waivers\.yaml:1: \[0\]\.model"):
        load_waivers(listed)


def test_attestations_form_a_chain(desk: Desk, tiny: Path):
    first = desk.sign(desk.run(tiny))
    kept = desk.folder / "first.json"
    shutil.copy(first, kept)
    second = desk.sign(RunFolder(first.parent), previous=kept, now=NOW + DAY)
    said = desk.verify(tiny, second, min_sequence=2)
    assert (said.sequence, said.previous) == (2, sha(kept))
    assert desk.verify(tiny, kept).previous is None
    with pytest.raises(VerificationError, match="sequence: 1; expected at least 2"):
        desk.verify(tiny, kept, min_sequence=2)


def test_a_chain_goes_on_only_from_an_attestation_that_can_be_trusted(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    before = desk.folder / "before.json"
    shutil.copy(desk.sign(run), before)
    (run.path / "attestation.json").unlink()
    other = new_key_pair(desk.folder / "other")
    with pytest.raises(VerificationError, match="signature: made by the key"):
        desk.sign(run, key=other.private, previous=before)
    with pytest.raises(ConfigError, match=r"the clock says .*; expected a time after 2026-03-01T12:00:00Z"):
        desk.sign(run, previous=before, now=NOW - datetime.timedelta(seconds=1))
    with pytest.raises(VerificationError):
        desk.sign(run, previous=tiny / "model_index.json")
    with pytest.raises(ConfigError, match=r"none.json' is missing"):
        desk.sign(run, previous=desk.folder / "none.json")
    assert not (run.path / "attestation.json").exists()
    rotated = desk.sign(run, key=other.private, previous=before, roots=desk.pair.public, now=NOW + DAY)
    assert desk.verify(tiny, rotated, roots=other.public, now=NOW + DAY).sequence == 2


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        value = json.loads((run / name).read_text())
        change(value)
        (run / name).write_text(json.dumps(value))

    return apply


def drop_line(name: str) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[1:]))

    return apply


MISFITS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no verdict": (
        lambda run: (run / "verdict.json").unlink(),
        "holds no verdict.json; expected a run that was judged",
    ),
    "decision": (edit("verdict.json", lambda said: said.update(decision="block")), "give other decision than"),
    "model digest": (edit("verdict.json", lambda said: said.update(model_digest="0" * 64)), "on other inputs"),
    "probe-set digest": (edit("verdict.json", lambda said: said.update(probe_set_digest="0" * 64)), "on other inputs"),
    "fingerprint": (edit("verdict.json", lambda said: said.update(fingerprint="0" * 64)), "on other inputs"),
    "settings": (edit("run.json", lambda run: run["inputs"]["settings"].update(steps=1)), "fingerprint"),
    "model": (edit("run.json", lambda run: run["model"].update(digest="0" * 64)), "model digest"),
    "file": (edit("run.json", lambda run: run["model"]["files"][0].update(sha256="0" * 64)), "model digest"),
    "probe set": (edit("run.json", lambda run: run["probe_set"].update(digest="0" * 64)), "probe-set digest"),
    "measurement": (drop_line("measurements.jsonl"), "before measurements.jsonl changed"),
    "confirmation": (drop_line("confirmations.jsonl"), "before confirmations.jsonl changed"),
    "counts": (edit("verdict.json", lambda said: said["counts"].update(refuted=9)), "give other counts than"),
    "date": (edit("run.json", lambda run: run.update(created_at="yesterday")), "run.json was edited"),
    "group": (edit("run.json", lambda run: run["probe_set"]["probes"][0].update(group="control")), "before run.json"),
    "self-check": (drop_line("self_checks.jsonl"), "before self_checks.jsonl changed"),
    "unreadable": (lambda run: (run / "verdict.json").write_text("{"), "verdict.json cannot be read"),
}


def acquitted(said: dict[str, Any]) -> None:
    said.update(decision="pass", findings=[])


def waived_by_hand(said: dict[str, Any]) -> None:
    exempt = {"reason": "agreed", "owner": "ann", "expires": "2026-12-31", "probe": "p1", "line": 1}
    said["findings"] = [finding | {"waiver": exempt} for finding in said["findings"]]
    said.update(decision="pass")


def waived_in_the_list_too(said: dict[str, Any]) -> None:
    waived_by_hand(said)
    said["waivers"] = [{"waiver": said["findings"][0]["waiver"], "state": "used"}]


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a block acquitted": acquitted,
    "a finding waived": waived_by_hand,
    "a finding waived, and the waiver listed": waived_in_the_list_too,
    "a value": lambda said: said["findings"][0].update(value=9.0),
    "an effect": lambda said: (said["findings"][0].update(effect="inconclusive"), said.update(decision="inconclusive")),
    "a count": lambda said: said["counts"].update(controls=99),
    "another policy's digest": lambda said: said.update(policy_digest="0" * 64),
    "a policy by path": lambda said: said.update(policy="/tmp/own.yaml"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_verdict_that_was_edited_by_hand_is_not_signed(name: str, desk: Desk, tiny: Path):
    run = desk.run(tiny, spoilt=lambda data: with_score(data, "p1", 0.01))
    assert desk.verify_fails(tiny, desk.sign(run)) == "block"
    (run.path / "attestation.json").unlink()
    edit("verdict.json", EDITS[name])(run.path)
    with pytest.raises(GateError) as refusal:
        desk.sign(run)
    assert refusal.value.exit_code == 2
    assert not (run.path / "attestation.json").exists()


@pytest.mark.parametrize("name", MISFITS)
def test_a_run_whose_verdict_is_not_that_of_its_records_stays_unsigned(name: str, desk: Desk, tiny: Path):
    run = desk.run(tiny)
    spoil, says = MISFITS[name]
    spoil(run.path)
    with pytest.raises(RunFolderError) as refusal:
        desk.sign(run)
    assert says in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert not (run.path / "attestation.json").exists()


def test_without_a_usable_key_the_run_stays_unsigned(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    open_key = new_key_pair(desk.folder / "open").private
    open_key.chmod(0o644)
    for key, says in (
        (desk.folder / "none.key", r"none.key' is missing; expected a private key"),
        (open_key, "has mode 0644"),
        (desk.pair.public, "has mode 0644"),
    ):
        with pytest.raises(ConfigError, match=says):
            desk.sign(run, key=key)
    assert not (run.path / "attestation.json").exists()
    assert desk.verify(tiny, desk.sign(run)), "and can be signed later"


def test_what_cannot_be_signed_is_bad_input(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    cases: list[tuple[RunFolder, dict[str, Any], str]] = [
        (RunFolder(desk.folder / "none"), {}, r"holds no run\.json"),
        (run, {"expires_in": -1}, "would expire at"),
        (run, {"now": NOW - 30 * DAY}, r"the clock says .* when the run began"),
        (run, {"verifier": ""}, r"this cannot be attested: statement: predicate\.verifier\.id"),
    ]
    for folder, options, says in cases:
        with pytest.raises(GateError, match=says) as refusal:
            desk.sign(folder, **options)
        assert refusal.value.exit_code == 2
    assert not (run.path / "attestation.json").exists()


def test_a_run_that_is_in_use_is_not_signed(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    with run.locked(), pytest.raises(RunFolderError, match="is in use"):
        desk.sign(run)


def test_an_expired_key_or_verifier_of_another_name_does_not_hold(desk: Desk, tiny: Path):
    attestation = desk.sign(desk.run(tiny), verifier="ci.example/gate")
    with pytest.raises(VerificationError, match=r"verifier: 'ci\.example/gate'; expected 'invmm-gate'"):
        desk.verify(tiny, attestation)
    roots = desk.folder / "roots.yaml"
    shutil.copy(desk.pair.public, desk.folder / "gate.pub")
    text = "- {name: ci, public_key: gate.pub, verifier: ci.example/gate, valid_until: 2026-03-02}\n"
    roots.write_text(text)
    assert desk.verify(tiny, attestation, roots=roots).verifier == "ci.example/gate"
    with pytest.raises(VerificationError, match="the key ci was valid until 2026-03-02"):
        desk.verify(tiny, attestation, roots=roots, now=NOW + 2 * DAY)


def test_judging_twice_gives_one_statement(desk: Desk, tiny: Path):
    run = desk.run(tiny)
    first = desk.sign(run).read_bytes()
    judge_run(run, STRICT, Circumstances(), today=TODAY)
    assert desk.sign(run).read_bytes() == first
