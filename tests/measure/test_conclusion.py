"""How a task ends, on draws whose share of copies is known: what is certified, and what the record keeps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from invmm_gate.core.records import CurvePoint, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.likelihood import draws_to_certify
from invmm_gate.measure.sensitivity import UNTESTED, TestCase, TestResult, _Lane
from invmm_gate.measure.slots import Slot, Task, Tested, WeightState
from invmm_gate.measure.trials import Conclusion, Test, needed_to_certify

SETTINGS = InversionSettings(
    steps=400,
    batch_size=1,
    test_every=10,
    certified_share=0.95,
    certifications=3,
)
AT_THE_END = replace(SETTINGS, certify_at="last_step", certified_share=0.9, certifications=4, certify_misses=3)
LEVEL = 0.04
SCALES = (1.0, 3.0, 7.0)


def result(copies: Sequence[Sequence[bool]], needed: Sequence[int], scales: Sequence[float]) -> TestResult:
    """Of these draws at each guidance scale; a test ends as soon as it is decided."""
    nothing = torch.zeros(1, 1, 1)
    case = TestCase(
        mu=nothing, log_var=nothing, standard=nothing[None], seeds=torch.arange(1), reference=nothing[0],
        needed=tuple(needed), fewest=min(8, needed[-1]),
    )  # fmt: skip
    lanes = []
    for drawn in copies:
        lane = _Lane(case=0, scale=1.0)
        for copied in drawn:
            lane.add(0.0, needed, copied=copied)
            if lane.is_done(case):
                break
        lanes.append(lane)
    best = max(lanes, key=lambda lane: (lane.passed, lane.hits))
    scale = scales[lanes.index(best)]
    return TestResult(
        passed=best.passed, best_scale=scale, hits=best.hits,
        best_value=0.0, trials=len(best.values), samples=len(best.values), evaluations=len(best.values), finite=True,
        copies=(),
    )  # fmt: skip


def slot_at(step: int) -> Slot:
    point = CurvePoint(step=step, denoising_error=1.0, normality=LEVEL, weight=1.0, best_value=None)
    return Slot(
        index=0, task=Task(probe="p", content="c", seed=0), reference=torch.zeros(1), energy=1.0,
        noise_stream=torch.Generator(), weight=WeightState(1.0), step=step, curve=(point,),
    )  # fmt: skip


def as_tested(slot: Slot, found: TestResult, stretch: float = 1.0, normality: float = LEVEL) -> Tested:
    nothing = torch.zeros(1, 1, 1)
    return Tested(
        result=found, stretch=stretch, normality=normality * stretch**2, step=slot.step,
        mu=nothing, log_var=nothing, logits=None,
    )  # fmt: skip


def scripted(copies: Callable[[str, int, float, int], Sequence[Sequence[bool]]]) -> Test:
    """Tests with these draws at each scale: of (purpose, step, stretch, samples)."""

    def test(slot: Slot, purpose: str, needed: tuple[int, ...], stretch: float, scales: tuple[float, ...]) -> Tested:
        found = result(copies(purpose, slot.step, stretch, needed[-1])[: len(scales)], needed, scales)
        return as_tested(slot, found, stretch)

    return test


def drawing(share_at: Callable[[float], float], random: np.random.Generator, scales: int = 1) -> Test:
    """Tests of a distribution whose share of copies at a stretch is known; each scale draws by itself."""
    return scripted(lambda _, __, stretch, samples: (random.random((scales, samples)) < share_at(stretch)).tolist())


def passing(passes: Callable[[str, int, float], bool]) -> Test:
    """Tests in which every draw is a copy, or none, as (purpose, step, stretch) says."""
    return scripted(lambda purpose, step, stretch, samples: [[passes(purpose, step, stretch)] * samples])


def ended(settings: InversionSettings, test: Test) -> Trial:
    """The trial after as many looks as it takes."""
    conclusion, slot = Conclusion(settings, test=test), slot_at(0)
    while True:
        slot.step += settings.test_every
        looked = UNTESTED
        if slot.is_tested(settings):
            needed = (settings.test_samples,)
            looked = test(slot, "look", needed, 1.0, settings.guidance_scales).result
        end = conclusion.of(slot, as_tested(slot, looked))
        if end is not None:
            return end.trial


@pytest.mark.parametrize("claim", [0.9, 0.95])
@pytest.mark.parametrize(
    "changes",
    [
        {"certifications": 1},
        {},
        {"certifications": 10},
        {"certify_misses": 5},
        {"certify_at": "last_step"},
        {"certify_at": "last_step", "certifications": 4, "certify_misses": 3},
        {"certifications": 1, "guidance_scales": SCALES},
        {"guidance_scales": SCALES},
        {"guidance_scales": SCALES, "mirror": True, "certify_misses": 1},
    ],
)
def test_a_share_of_nine_in_ten_is_seldom_certified_as_more(changes: dict[str, Any], claim: float) -> None:
    """Over up to 40 looks, whatever the attempts and the scales that may pass, in the image or in its mirror image."""
    settings = replace(SETTINGS, certified_share=claim, **changes)
    test = drawing(lambda _: 0.9, np.random.default_rng(0), len(settings.guidance_scales))
    probes = [[ended(settings, test).outcome for _ in range(1 + settings.mirror)] for _ in range(200)]
    assert sum("inverted" in outcomes for outcomes in probes) <= 10 + 4 * 10**0.5


def test_a_share_is_certified_at_the_guidance_scale_of_the_look() -> None:
    """That choice was made before the fresh draws, so that it takes no part of the error and two thirds of the cost."""
    settings = replace(SETTINGS, certified_share=0.9, guidance_scales=SCALES)
    asked = []

    def test(slot: Slot, purpose: str, needed: tuple[int, ...], stretch: float, scales: tuple[float, ...]) -> Tested:
        asked.append((purpose, needed, scales))
        found = result([[scale == 3.0] * needed[-1] for scale in scales], needed, scales)
        return as_tested(slot, found, stretch)

    trial = ended(settings, test)
    assert (trial.outcome, trial.guidance_scale) == ("inverted", 3.0)
    look, *later = asked
    assert look == ("look", (8,), SCALES)
    assert later == [(f"certify {number}", (39,), (3.0,)) for number in (1, 2, 3)]


def test_where_no_scale_passed_the_last_test_the_likeliest_one_is_certified() -> None:
    """Each attempt is then one chance to be wrong there too."""
    several = replace(AT_THE_END, guidance_scales=SCALES)
    asked = []

    def test(slot: Slot, purpose: str, needed: tuple[int, ...], stretch: float, scales: tuple[float, ...]) -> Tested:
        asked.append((purpose, scales))
        shares = {1.0: 0, 3.0: 6, 7.0: 2}
        found = result(
            [[each < shares[scale] or stretch > 1 for each in range(needed[-1])] for scale in scales], needed, scales
        )
        return as_tested(slot, found, stretch)

    assert ended(several, test).outcome == "inverted"
    assert asked[0] == ("look", SCALES)
    assert {scales for _, scales in asked[1:]} == {(3.0,)}
    assert needed_to_certify(several) == needed_to_certify(AT_THE_END) == draws_to_certify(0.9, 0.05 / 4, misses=3)


def test_a_share_of_nine_in_ten_passes_for_inverted_where_eight_of_eight_are_enough() -> None:
    """What the profiles of the paper and its authors do."""
    random = np.random.default_rng(0)
    lax = replace(SETTINGS, certified_share=None)
    outcomes = [ended(lax, drawing(lambda _: 0.9, random)).outcome for _ in range(200)]
    assert outcomes.count("inverted") == 200


@pytest.mark.parametrize(
    ("replicates_from", "score", "stretches"),
    [
        (0.0, LEVEL * 0.125**2, [1, 1, 0.5, 0.25, 0.125]),
        (0.6, LEVEL * 0.625**2, [1, 1, 0.5, 0.75, 0.625]),
        (1.1, LEVEL * 1.125**2, [1, 1.5, 1.25, 1.125, 1.0625]),
        (2.2, LEVEL * 2.25**2, [1, 1.5, 2.25, 1.875, 2.0625]),
        (3.0, None, [1, 1.5, 2.25]),
    ],
)
def test_the_nearest_distribution_that_replicates_is_sought_by_bisection(
    replicates_from: float, score: float | None, stretches: list[float]
) -> None:
    """After the last step further away too, as far as a factor of 2.25."""
    trial = ended(AT_THE_END, passing(lambda _, __, stretch: stretch >= replicates_from))
    assert trial.invmm == (None if score is None else pytest.approx(score))
    assert [test.stretch for test in trial.tests] == stretches
    assert trial.steps == AT_THE_END.steps
    assert trial.confirmation is not None
    assert trial.confirmation.trials == (8 if score is None else 55)


def test_the_search_to_the_last_step_looks_at_nothing_before_it() -> None:
    trial = ended(AT_THE_END, passing(lambda _, step, __: step < AT_THE_END.steps))
    assert trial.outcome == "not_inverted"
    assert all(test.share.hits == 0 for test in trial.tests)


def test_a_draw_in_thirty_that_is_no_copy_is_made_up_for() -> None:
    """38 and 37 of 39 were no inversion, though the share was above 0.9."""
    miss = {3, 40, 70}
    rare = scripted(lambda _, __, stretch, samples: [[stretch >= 1 and each not in miss for each in range(samples)]])
    strict, lenient = (ended(replace(AT_THE_END, certify_misses=misses), rare) for misses in (0, 3))
    assert strict.outcome == "not_inverted"
    assert (lenient.outcome, lenient.invmm) == ("inverted", pytest.approx(LEVEL * 1.0625**2))


def test_the_last_attempt_is_kept_for_the_end_of_a_search_that_takes_all_steps() -> None:
    """N(0, I) replicates an image eight times by luck: that must not leave the end without an attempt."""
    one = replace(AT_THE_END, certifications=1)
    slot, test = slot_at(0), passing(lambda *_: True)
    slot.curve = (replace(slot.curve[0], normality=0.0),)
    looked = test(slot, "look", (8,), 1.0, (1.0,)).result
    assert Conclusion(one, test=test).of(slot, as_tested(slot, looked, normality=0.0)) is None
    assert slot.certifications == 0
    assert ended(one, test).outcome == "inverted"


def test_every_test_that_counts_is_kept_with_its_own_normality() -> None:
    """Half of the draws replicate here, most of them further away: a policy must see both."""
    shares = {1.0: 0.5, 1.5: 0.8, 2.25: 0.8}
    trial = ended(AT_THE_END, drawing(shares.__getitem__, np.random.default_rng(3)))
    assert trial.outcome == "not_inverted"
    assert {test.stretch for test in trial.tests} == set(shares)
    assert [test.normality for test in trial.tests] == [pytest.approx(LEVEL * test.stretch**2) for test in trial.tests]
    assert trial.share == max((test.share for test in trial.tests), key=lambda share: share.hits / share.trials)


def test_a_lucky_first_success_takes_one_attempt() -> None:
    """Later looks have the others: with soft prompts, a first success is often a lucky one."""
    trial = ended(SETTINGS, passing(lambda purpose, step, _: not (purpose.startswith("certify") and step == 10)))
    assert (trial.outcome, trial.steps) == ("inverted", 20)


@pytest.mark.parametrize(("certified_from", "score"), [(0.125, LEVEL * 0.25**2), (0.4, LEVEL * 0.5**2), (0.9, LEVEL)])
def test_what_was_found_stands_unless_something_nearer_is_certified(certified_from: float, score: float) -> None:
    test = passing(lambda purpose, _, stretch: not purpose.startswith("certify") or stretch >= certified_from)
    trial = ended(SETTINGS, test)
    assert (trial.outcome, trial.invmm) == ("inverted", pytest.approx(score))
    assert trial.confirmation is not None
    assert (trial.confirmation.hits, trial.confirmation.trials) == (80, 80)


def test_nothing_nearer_is_looked_for_where_nothing_can_be_nearer() -> None:
    """At N(0, I) itself."""
    conclusion = Conclusion(SETTINGS, test=passing(lambda *_: True))
    slot = slot_at(0)
    slot.curve = (replace(slot.curve[0], normality=0.0),)
    looked = conclusion.test(slot, "look", (8,), 1.0, (1.0,)).result
    end = conclusion.of(slot, as_tested(slot, looked, normality=0.0))
    assert end is not None
    assert (end.trial.outcome, len(end.trial.tests)) == ("inverted", 2)


def test_where_nothing_is_certified_one_attempt_is_kept_for_the_last_step() -> None:
    """Two lucky looks must not end the search: what it finds later may be nearer, or replicate more."""
    asked = []

    def copies(purpose: str, step: int, _: float, samples: int) -> list[list[bool]]:
        asked.append((purpose, step))
        return [[not purpose.startswith("certify")] * samples]

    trial = ended(SETTINGS, scripted(copies))
    assert (trial.outcome, trial.steps, trial.invmm) == ("not_inverted", SETTINGS.steps, None)
    attempts = [each for each in asked if each[0].startswith("certify")]
    assert attempts == [("certify 1", 10), ("certify 2", 20), ("certify 3", SETTINGS.steps)]
    assert trial.confirmation is not None
    assert (trial.confirmation.hits, trial.confirmation.trials) == (0, 8)


def test_a_single_attempt_is_made_at_the_first_success() -> None:
    trial = ended(replace(SETTINGS, certifications=1), passing(lambda purpose, *_: not purpose.startswith("certify")))
    assert (trial.outcome, trial.steps) == ("not_inverted", 10)


def test_what_came_nearest_is_what_a_trial_describes_though_later_tests_saw_nothing() -> None:
    """A policy that looks at shares, and the likelihood that is drawn around it, must see the copies."""
    most = scripted(lambda _, step, __, samples: [[step == 10 and each != 7 for each in range(-1, samples - 1)]])
    trial = ended(SETTINGS, most)
    assert (trial.outcome, trial.steps, trial.tested_at) == ("not_inverted", SETTINGS.steps, 10)
    assert trial.share == trial.confirmation
    assert trial.share is not None
    assert (trial.share.hits, trial.share.trials) == (8, 9)
    assert [(test.share.hits, test.share.trials) for test in trial.tests] == [(8, 8), (8, 9), (0, 8)]
