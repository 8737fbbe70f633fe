"""How a task ends, on draws whose share of copies is known: what is certified, and what the record keeps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from invmm_gate.core.records import CurvePoint, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.sensitivity import TestResult
from invmm_gate.measure.slots import Slot, Task, WeightState
from invmm_gate.measure.trials import Conclusion, Test, Tested

SETTINGS = InversionSettings(
    steps=400,
    batch_size=1,
    test_every=10,
    shrink_tests=3,
    stretches=(1.5, 2.25),
    certified_share=0.95,
    certifications=3,
)
LEVEL = 0.04
SCALES = (1.0, 3.0, 7.0)


def result(hits: Sequence[int], samples: int, scales: Sequence[float]) -> TestResult:
    """A full test with so many copies at each guidance scale."""
    best = max(hits)
    passed = best == samples
    return TestResult(
        passed=passed, guidance_scale=scales[hits.index(best)] if passed else None, hits=best, best_value=0.0,
        trials=samples, samples=samples * len(hits), evaluations=samples, finite=True, copies=(),
    )  # fmt: skip


def slot_at(step: int) -> Slot:
    point = CurvePoint(step=step, denoising_error=1.0, normality=LEVEL, weight=1.0, best_value=None)
    return Slot(
        index=0, task=Task(probe="p", content="c", seed=0), reference=torch.zeros(1), energy=1.0,
        noise_stream=torch.Generator(), weight=WeightState(1.0), step=step, curve=(point,),
    )  # fmt: skip


def drawing(share_at: Callable[[float], float], random: np.random.Generator) -> Test:
    """Tests of a distribution whose share of copies at a stretch is known; each scale draws by itself."""

    def test(slot: Slot, purpose: str, samples: int, stretch: float, scales: tuple[float, ...]) -> Tested:
        del slot, purpose
        hits = random.binomial(samples, share_at(stretch), size=len(scales)).tolist()
        return Tested(result=result(hits, samples, scales), stretch=stretch, normality=LEVEL * stretch**2)

    return test


def ended(settings: InversionSettings, test: Test) -> Trial:
    """The trial after as many looks as it takes."""
    conclusion, slot = Conclusion(settings, test=test), slot_at(0)
    while True:
        slot.step += settings.test_every
        looked = test(slot, "look", settings.test_samples, 1.0, settings.guidance_scales)
        end = conclusion.of(slot, looked.result)
        if end is not None:
            return end.trial


@pytest.mark.parametrize("claim", [0.9, 0.95])
@pytest.mark.parametrize(
    "changes",
    [
        {"certifications": 1},
        {},
        {"certifications": 10},
        {"certifications": 1, "guidance_scales": SCALES},
        {"guidance_scales": SCALES},
        {"guidance_scales": SCALES, "certify_first": "found"},
        {"guidance_scales": SCALES, "certify_first": "found", "mirror": True},
    ],
)
def test_a_share_of_nine_in_ten_is_seldom_certified_as_more(changes: dict[str, Any], claim: float) -> None:
    """Over up to 40 looks, whatever the attempts and the scales that may pass, in the image or in its mirror image."""
    settings = replace(SETTINGS, certified_share=claim, **changes)
    test = drawing(lambda _: 0.9, np.random.default_rng(0))
    probes = [[ended(settings, test).outcome for _ in range(1 + settings.mirror)] for _ in range(200)]
    assert sum("inverted" in outcomes for outcomes in probes) <= 10 + 4 * 10**0.5


def test_a_share_is_certified_at_the_guidance_scale_of_the_look() -> None:
    """That choice was made before the fresh draws, so that it takes no part of the error and two thirds of the cost."""
    settings = replace(SETTINGS, certified_share=0.9, guidance_scales=SCALES)
    asked = []

    def test(slot: Slot, purpose: str, samples: int, stretch: float, scales: tuple[float, ...]) -> Tested:
        del slot
        asked.append((purpose, samples, scales))
        hits = [samples * (scale == 3.0) for scale in scales]
        return Tested(result=result(hits, samples, scales), stretch=stretch, normality=LEVEL * stretch**2)

    trial = ended(settings, test)
    assert (trial.outcome, trial.guidance_scale) == ("inverted", 3.0)
    look, *later = asked
    assert look == ("look", 8, SCALES)
    assert later == [*((f"shrink {number}", 8, (3.0,)) for number in range(3)), ("certify 1", 39, (3.0,))]


def test_a_share_of_nine_in_ten_passes_for_inverted_where_eight_of_eight_are_enough() -> None:
    """What the profiles of the paper and its authors do."""
    random = np.random.default_rng(0)
    lax = replace(SETTINGS, certified_share=None)
    outcomes = [ended(lax, drawing(lambda _: 0.9, random)).outcome for _ in range(200)]
    assert outcomes.count("inverted") == 200


def test_what_always_replicates_is_certified_at_the_smallest_stretch() -> None:
    trial = ended(SETTINGS, drawing(lambda stretch: float(stretch > 0.6), np.random.default_rng(0)))
    assert (trial.outcome, trial.invmm) == ("inverted", pytest.approx(LEVEL * 0.625**2))
    assert trial.confirmation is not None
    assert trial.confirmation.hits == trial.confirmation.trials == trial.tests[-1].share.trials


def test_every_full_test_is_kept_with_its_own_normality() -> None:
    """Half of the draws replicate here, most of them further away: a policy must see both."""
    shares = {1.0: 0.5, 1.5: 0.9, 2.25: 0.9}
    trial = ended(SETTINGS, drawing(shares.__getitem__, np.random.default_rng(3)))
    assert trial.outcome == "not_inverted"
    assert {test.stretch for test in trial.tests} == set(shares)
    assert [test.normality for test in trial.tests] == [pytest.approx(LEVEL * test.stretch**2) for test in trial.tests]
    assert trial.share == max((test.share for test in trial.tests), key=lambda share: share.hits)


def scripted(missing: Callable[[str, int, float], bool]) -> Test:
    """Tests of which all samples are copies but for one, where (purpose, step, stretch) says so."""

    def test(slot: Slot, purpose: str, samples: int, stretch: float, scales: tuple[float, ...]) -> Tested:
        found = result([samples - missing(purpose, slot.step, stretch)], samples, scales[:1])
        return Tested(result=found, stretch=stretch, normality=LEVEL * stretch**2)

    return test


@pytest.mark.parametrize(("first", "outcome"), [("nearest", "not_inverted"), ("found", "inverted")])
def test_a_lucky_first_success_takes_one_attempt_where_what_was_found_is_certified_first(
    first: Literal["nearest", "found"], outcome: str
) -> None:
    """Later looks have the others. To certify three distributions of one look is to end the search there."""
    test = scripted(lambda purpose, step, _: purpose.startswith("certify") and step == 10)
    trial = ended(replace(SETTINGS, certify_first=first), test)
    assert (trial.outcome, trial.steps) == (outcome, 10 if outcome == "not_inverted" else 20)


@pytest.mark.parametrize(
    ("certified_from", "score", "attempts"),
    [(0.125, LEVEL * 0.125**2, 2), (0.5, LEVEL * 0.5625**2, 3), (1.0, LEVEL, 3)],
)
def test_what_was_found_stands_unless_something_nearer_is_certified(
    certified_from: float, score: float, attempts: int
) -> None:
    """The nearer ones pass every test of eight here."""
    test = scripted(lambda purpose, _, stretch: purpose.startswith("certify") and stretch < certified_from)
    trial = ended(replace(SETTINGS, certify_first="found"), test)
    assert (trial.outcome, trial.invmm) == ("inverted", pytest.approx(score))
    assert trial.confirmation is not None
    assert trial.confirmation.hits == trial.confirmation.trials == trial.tests[1].share.trials
    assert [test.share.trials for test in trial.tests].count(trial.confirmation.trials) == attempts


def test_nothing_nearer_is_looked_for_where_nothing_can_be_nearer() -> None:
    """At N(0, I) itself, and where every smaller factor fails its test."""
    test = scripted(lambda purpose, *_: purpose.startswith("shrink"))
    trial = ended(replace(SETTINGS, certify_first="found"), test)
    assert (trial.outcome, trial.invmm) == ("inverted", LEVEL)
    assert len(trial.tests) == 1 + 1 + SETTINGS.shrink_tests
