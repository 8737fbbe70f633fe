"""From trials to a measurement: the more memorized counts, a broken trial counts most."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.slots import Task
from invmm_gate.measure.trials import summarise, tasks_for
from tests.measure.bench import probe


def trial(seed: int, score: float | None, *, hits: int = 8, mirrored: bool = False) -> Trial:
    return Trial(
        seed=seed,
        outcome="not_inverted" if score is None else "inverted",
        invmm=score,
        invmm_above=None,
        steps=10 + seed,
        evaluations=100 + seed,
        mirrored=mirrored,
        guidance_scale=None if score is None else 1.0,
        tested_at=50,
        share=replication_share(hits, 8),
        confirmation=None,
        curve=(),
    )


def broken(seed: int) -> Trial:
    return replace(trial(seed, None), outcome="error", share=None, reason="NaN")


def test_tasks_are_one_for_each_seed_and_mirror_next_to_each_other() -> None:
    settings = InversionSettings(steps=1, batch_size=1, seeds=2, mirror=True)
    tasks = tasks_for([probe(0), probe(1)], settings)
    assert [(task.probe, task.seed, task.mirrored) for task in tasks] == [
        (name, seed, mirrored) for name in ("0", "1") for seed in (0, 1) for mirrored in (False, True)
    ]
    assert {task.content for task in tasks} == {probe(0).sha256, probe(1).sha256}
    assert tasks_for([probe(0)], replace(settings, seeds=1, mirror=False)) == (
        Task(probe="0", content=probe(0).sha256, seed=0),
    )


@pytest.mark.parametrize(
    ("scores", "median"),
    [
        ([0.3, 0.1, 0.2], 0.2),
        ([0.3, 0.1], 0.1),
        ([0.4, 0.1, 0.3, 0.2], 0.2),
        ([None, 0.1, 0.2], 0.2),
        ([None, 0.1], 0.1),
        ([None, None, 0.1], None),
    ],
)
def test_the_lower_median_errs_towards_memorized(scores: list[float | None], median: float | None) -> None:
    measurement = summarise(probe(0), [trial(seed, score) for seed, score in enumerate(scores)])
    assert measurement.invmm == median
    assert measurement.outcome == ("not_inverted" if median is None else "inverted")
    finite = [score for score in scores if score is not None]
    assert measurement.invmm_spread == (min(finite), max(finite))


def test_among_trials_without_a_score_the_one_with_more_copies_is_the_median() -> None:
    trials = [trial(0, None, hits=0), trial(1, None, hits=5), trial(2, None, hits=3)]
    measurement = summarise(probe(0), trials)
    assert measurement.invmm is None
    assert measurement.invmm_spread is None
    assert measurement.share == replication_share(8, 24)
    assert (measurement.steps, measurement.evaluations) == (33, 303)


def test_of_an_image_and_its_mirror_the_lower_score_counts() -> None:
    trials = [trial(0, 0.3), trial(0, 0.1, mirrored=True), trial(1, 0.2), trial(1, None, hits=0, mirrored=True)]
    measurement = summarise(probe(0), trials)
    assert measurement.invmm == 0.1
    assert measurement.invmm_spread == (0.1, 0.2)
    assert measurement.share == replication_share(16, 16)


@given(order=st.permutations([trial(0, 0.3), trial(1, None, hits=2), trial(2, 0.1), trial(3, 0.2, mirrored=True)]))
def test_the_order_in_which_trials_end_decides_nothing(order: list[Trial]) -> None:
    assert summarise(probe(0), order) == summarise(probe(0), sorted(order, key=lambda each: each.seed))


@given(seed=st.integers(0, 4), scores=st.lists(st.none() | st.floats(0, 1), min_size=5, max_size=5))
def test_one_broken_trial_is_never_outvoted(seed: int, scores: list[float | None]) -> None:
    trials = [trial(number, score) for number, score in enumerate(scores)]
    trials[seed] = broken(seed)
    measurement = summarise(probe(0), trials)
    assert (measurement.outcome, measurement.invmm, measurement.share) == ("error", None, None)
    assert measurement.reason == "NaN"
