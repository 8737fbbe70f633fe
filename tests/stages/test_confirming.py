"""Confirmation with prompts, on a text-to-image model whose trigger words are known: captions, search, cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.options import Options
from invmm_gate.core.progress import Silent
from invmm_gate.core.records import Probe
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.policy.judge import judge
from invmm_gate.policy.schema import Policy
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import fingerprint
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.stages import confirm as confirming
from invmm_gate.stages.measure import inversion_file
from invmm_gate.stages.on_device import confirm_record
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.session import Session
from tests.confirm.text_world import CAPTION, text_mixture
from tests.policy.policy_builders import CHECKS, CONTROLS, STRICT, TODAY, measured, policy_with, text_run, waiver
from tests.policy.policy_builders import digest as sha
from tests.policy.policy_builders import probe as control

SEARCH = {"tokens": 6, "steps": 30, "candidates": 64, "top_k": 32, "noises": 16}
FIRST, SECOND = "c04", "c14"
"""The controls that a search on two is made on: model and images say which."""


def searching(*, controls: int, scales: tuple[float, ...] = (3.0,), **search: int) -> Policy:
    """A search that finds `a` in few steps, and takes all of them for an image that the model does not know."""
    prompts = {
        "trials": 32,
        "sampler_steps": 10,
        "guidance_scales": list(scales),
        "gcg": SEARCH | {"controls": controls} | search,
    }
    return policy_with(STRICT, confirm={"prompts": prompts, "likelihood": {"draws": 10}})


NEUTRAL = "photo of stone"


class Pictures(Session):
    """A session whose images are at hand, by probe id."""

    __slots__ = ()
    pictures: dict[str, Tensor]

    def image(self, probe: str) -> Tensor:
        return type(self).pictures[probe]


@dataclass(frozen=True)
class Stage:
    session: Session
    folder: RunFolder
    policy: Policy

    def confirm(self) -> None:
        confirming.confirm(self.session, self.folder, Silent())

    def records(self) -> dict[tuple[str, str], Any]:
        return {(record.probe, record.method): record for record in self.folder.confirmations()}

    def search_controls(self) -> list[bool]:
        """Whether the control of the search passed, each time it was made."""
        return [check.passed for check in self.folder.self_checks() if check.name == "search_control"]

    def judged(self, **waived: Any) -> Verdict:
        waivers = (waiver(**waived),) if waived else ()
        return judge(self.folder.data(), self.policy, waivers, today=TODAY)


def _probe(name: str, caption: str, cluster: str = "") -> Probe:
    return Probe(
        id=name, path=f"{name}.png", sha256=sha(name), group="sensitive", line=2, category="faces", caption=caption,
        cluster=cluster,
    )  # fmt: skip


@pytest.fixture
def stage(known_images: Tensor, linear_schedule: VariancePreserving, tmp_path: Path) -> Any:
    """`a` scored low under a caption that does not trigger it; `b` shows nearly the same picture; `c` is triggered."""

    def build(
        caption: str = NEUTRAL,
        search: Mapping[str, int] = {},
        controls: int = 0,
        scales: tuple[float, ...] = (3.0,),
        **captions: str,
    ) -> Stage:
        policy = searching(controls=controls, scales=scales, **search)
        probes = (_probe("a", caption, "k"), _probe("b", "", "k"), _probe("c", CAPTION))
        probes += tuple(control(name, group="control") for name in CONTROLS)
        probes = tuple(replace(each, caption=captions.get(each.id, each.caption)) for each in probes)
        data: RunData = text_run(policy)
        run = replace(
            data.run,
            probe_set=replace(data.run.probe_set, probes=probes),
            fingerprint=fingerprint(data.run.inputs),
        )
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        folder.begin(run)
        folder.note_confirmed(confirm_record(policy))
        for check in CHECKS:
            folder.append(check)
        for each in probes:
            folder.append(measured(each, 0.01 if each.id == "a" else None))
        Pictures.pictures = {
            "a": known_images[1],
            "b": (known_images[1] + 0.01).clamp(-1, 1),
            "c": known_images[0],
            **dict.fromkeys(CONTROLS, known_images[32]),  # the model knows the first 32
            CONTROLS[0]: known_images[0],
        }
        session = Pictures(
            inputs=Inputs(options=Options(model=Path("m"), policy="x"), policy=policy, probe_set=run.probe_set,
                          model=run.model),
            model=text_mixture(known_images[:32], linear_schedule),
            metric=PixelRmse(0.1),
            settings=policy.resolve_settings("stable_diffusion"),
            record=run,
            slots=8,
        )  # fmt: skip
        return Stage(session, folder, policy)

    return build


def test_captions_come_first_a_search_where_a_rule_found_a_probe_and_its_prompt_on_the_cluster(stage: Any) -> None:
    done = stage()
    done.confirm()
    found = done.records()
    captions = {(probe, way) for probe in (*"abc", *CONTROLS) for way in ("caption", "caption_on_grid")}
    assert set(found) == captions | {("a", "gcg"), ("b", "cluster_prompt")}
    assert (found["a", "caption"].status, found["b", "caption"].status) == ("refuted", "refuted")
    assert found["b", "caption"].prompt == "", "without a caption the empty prompt is tried"
    assert found["c", "caption"].hits == found["c", "caption"].trials == 32
    assert found["a", "gcg"].hits == found["a", "gcg"].trials == 32
    assert found["b", "cluster_prompt"].prompt == found["a", "gcg"].prompt
    assert all((done.folder.path / name).exists() for record in found.values() for name in record.copies)
    assert {(item.rule, item.probe) for item in done.judged().findings if item.effect == "block"} == {
        ("invmm_below", "a"), ("confirmed", "a"), ("confirmed", "b"), ("confirmed", "c"),
        ("extraction_likelihood", "a"), ("extraction_likelihood", "b"), ("extraction_likelihood", "c"),
    }  # fmt: skip
    before = done.folder.confirmations(), done.folder.likelihoods()
    done.confirm()
    assert (done.folder.confirmations(), done.folder.likelihoods()) == before, "nothing is tried twice"
    assert done.search_controls() == [True]


def test_likelihoods_are_kept_apart_by_the_kind_of_prompt(stage: Any) -> None:
    """`a` is estimated before the search, which its score asks for; `b`, which the search copied, after it."""
    done = stage()
    shape, positions = done.session.model.latent_shape, min(75, done.session.prompts.positions)
    tensors = {"mu": torch.zeros(shape), "log_var": torch.zeros(shape)}
    logits = torch.zeros(positions, done.session.prompts.vocabulary)
    done.folder.write(inversion_file("a"), save(tensors | {"prompt_logits": logits}))
    done.confirm()
    found = {(record.probe, record.prompt_kind): record for record in done.folder.likelihoods()}
    assert set(found) == {("a", "caption"), ("a", "soft"), ("b", "none"), ("c", "caption")}
    assert {record.guidance_scale for record in found.values()} == {3.0}
    assert (found["a", "soft"].draws, found["b", "none"].draws) == (10, 0), "around what was inverted, if anything was"
    assert found["a", "soft"].evaluations == 10 * 10 * done.session.model.forwards(3.0)
    assert found["a", "caption"].nats is None, "its caption does not bring it out"
    assert found["c", "caption"].plain_copies == found["c", "caption"].plain_draws == 32
    said = [item.message for item in done.judged().findings if item.rule == "extraction_likelihood"]
    assert [message.split(" generations ")[1].split(",")[0] for message in said] == [
        "with a strange prompt that can be typed",
        "with a strange prompt that can be typed",
        "with its caption",
    ]


@pytest.mark.parametrize(("low", "copied_at"), [(0.1, 3.0), (0.55, 0.55)])
def test_a_captions_likelihood_is_drawn_at_the_scale_at_which_it_gives_most_copies(
    stage: Any, low: float, copied_at: float
) -> None:
    """The inversion of `c` replicated at no scale. Its caption is hardly read at 0.1, and copies at times at 0.55."""
    done = stage(scales=(low, 3.0))
    done.confirm()
    assert done.records()["c", "caption"].guidance_scale == copied_at
    (found,) = [record for record in done.folder.likelihoods() if record.probe == "c"]
    assert (found.prompt_kind, found.guidance_scale) == ("caption", 3.0)
    assert found.plain_copies == found.plain_draws == 32


def _not_finite(*_given: Any, **_named: Any) -> Any:
    raise MeasurementError("sampling with a prompt gave NaN or infinity")
    yield


def test_a_control_that_its_caption_replicates_leaves_the_run_open(stage: Any) -> None:
    done = stage(c=NEUTRAL, **{CONTROLS[0]: CAPTION})
    done.confirm()
    found = done.records()
    for way in ("caption", "caption_on_grid"):
        tried = [found[name, way] for name in CONTROLS]
        assert [(each.hits, each.trials) for each in tried] == [(8, 8), *[(0, 8)] * 19], "a quarter of the 32 trials"
        assert all(each.evaluations == 8 * 10 * 2 for each in tried), "guided samples of ten steps"
        assert (found["c", way].hits, found["c", way].trials) == (0, 32)
    judged = done.judged()
    said = "8 of 8 samples are copies of the control c00: it looks as if it had been trained on"
    assert said in next(item.message for item in judged.findings if item.rule == "controls")
    assert (
        judge(done.folder.data(), policy_with(done.policy, rules=[{"rule": "confirmed"}]), (), today=TODAY).decision
        != "pass"
    )


def test_a_control_that_the_search_brings_out_leaves_the_run_open_and_is_no_confirmed_probe(stage: Any) -> None:
    done = stage(c=NEUTRAL, controls=2)
    Pictures.pictures[SECOND] = Pictures.pictures["a"]
    done.confirm()
    found = done.records()
    assert {probe for probe, method in found if method == "gcg"} == {"a", FIRST, SECOND}
    assert (found[FIRST, "gcg"].status, found[FIRST, "gcg"].hits, found[FIRST, "gcg"].trials) == ("refuted", 0, 32)
    assert (found[SECOND, "caption"].hits, found[SECOND, "gcg"].hits) == (0, 32)
    judged, prompt = done.judged(), found[SECOND, "gcg"].prompt
    (control,) = [item for item in judged.findings if item.rule == "controls"]
    assert (control.effect, control.probe) == ("inconclusive", SECOND)
    assert "brought out the control c14 in 32 of 32 samples, 1 of 2 controls that it was made on" in control.message
    assert judged.counts["confirmed"] == len(done.folder.data().confirmed_probes) == 2, "a and b"
    assert prompt in done.folder.data().private_texts
    assert not any(prompt in text for text in (control.message, *judged.reasons))
    before = done.folder.confirmations()
    done.confirm()
    assert done.folder.confirmations() == before, "nothing is searched twice"


def test_no_control_is_searched_where_no_probe_is(stage: Any) -> None:
    done = stage(caption="river clock olive", controls=2)
    done.confirm()
    assert done.records()["a", "caption"].hits == 32
    assert not [name for name, method in done.records() if method == "gcg"]
    assert not [item for item in done.judged().findings if item.rule == "controls"]
    assert done.search_controls() == [], "nor is the search checked"


def test_nothing_is_searched_by_a_plan_that_does_not_find_the_prompt_that_is_there(stage: Any) -> None:
    done = stage(search={"steps": 2, "candidates": 1})
    for _ in range(2):
        done.confirm()
        assert not [name for name, method in done.records() if method == "gcg"]
        assert done.search_controls() == [False]
    judged = done.judged()
    assert judged.decision == "inconclusive"
    (said,) = [reason for reason in judged.reasons if "search_control" in reason]
    assert said.startswith("the self-check search_control failed: in 2 steps the search found no prompt")
    assert "look at confirm.prompts in the policy" in said


@pytest.mark.parametrize("fault", ["killed", "out of memory", "NaN"])
def test_a_fault_while_the_cluster_is_tried_never_turns_a_block_into_a_pass(
    stage: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    done = stage()
    real = confirming.replication_of_prompt
    failed = []

    def faulty(*given: Any, **named: Any) -> Any:
        if named["method"] != "cluster_prompt" or failed:
            return real(*given, **named)
        failed.append(fault)
        if fault == "NaN":
            return _not_finite()
        raise KeyboardInterrupt if fault == "killed" else torch.OutOfMemoryError("x")

    monkeypatch.setattr(confirming, "replication_of_prompt", faulty)
    if fault == "killed":
        with pytest.raises(KeyboardInterrupt):
            done.confirm()
    else:
        done.confirm()
    assert failed == [fault]
    if fault == "NaN":
        assert ("a", "gcg") not in done.records(), "the search counts once all that follows from it is there"
        assert done.judged(probe="a").decision == "block"  # c's caption; without it the missing search is open
        assert ("confirmed", "a") in {(item.rule, item.probe) for item in done.judged().findings}
    done.confirm()
    assert done.records()["b", "cluster_prompt"].hits == 32
    assert len(done.folder.confirmations()) == len(done.records())
    blocked = {item.probe for item in done.judged(probe="a").findings if item.effect == "block" and not item.waiver}
    assert {"b", "c"} <= blocked


def test_a_caption_with_a_special_token_is_no_start_for_a_search_and_ends_nothing(stage: Any) -> None:
    done = stage(caption="a <|startoftext|> cat")
    done.confirm()
    assert done.records()["a", "gcg"].hits == 32
