"""What a verdict says of images that are no probes: the bound of a random draw, and the power that canaries show."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from invmm_gate.core.intervals import lower_bound, upper_bound
from invmm_gate.core.records import Group
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import ExtractableShare, Power, Rung, Verdict
from invmm_gate.policy.judge import judge
from invmm_gate.policy.reach import FEWEST, found_from
from tests.policy.few_probes import STRICT, clean_run
from tests.policy.policy_builders import (
    SAMPLED,
    TODAY,
    broken,
    measured,
    probe,
    sampled,
    target,
    with_confirmation,
    with_measurement,
    with_probes,
    with_score,
    without,
)


def with_group(count: int, group: Group, *, multiplicity: int = 0, of: RunData | None = None) -> RunData:
    """The clean run with further probes of a group, named after it; nothing is found of them."""
    data = of or clean_run()
    named = f"{group}{multiplicity}"
    more = [
        replace(probe(f"{named}-{number}", group=group), multiplicity=multiplicity)  # type: ignore[arg-type]
        for number in range(count)
    ]
    return replace(
        with_probes(data, *more),
        measurements=(*data.measurements, *map(measured, more)),
        confirmations=(*data.confirmations, *(sampled(each.id, method=way) for way in SAMPLED for each in more)),
    )


def verdict_of(data: RunData) -> Verdict:
    return judge(data, STRICT, (), today=TODAY)


def share_of(data: RunData) -> ExtractableShare:
    found = verdict_of(data).extractable
    assert found is not None
    return found


def test_without_a_sample_nothing_is_said_of_other_training_images() -> None:
    assert verdict_of(clean_run()).extractable is None


def test_none_of_300_is_a_bound_of_one_percent() -> None:
    found = share_of(with_group(300, "sample"))
    assert (found.drawn, found.found, found.unsearched, found.confidence) == (300, 0, 0, 0.95)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 300))
    assert 0.0099 < found.upper < 0.01


def test_an_image_is_found_by_inversion_or_by_any_copy_and_counts_once() -> None:
    data = with_group(20, "sample")
    inverted = with_score(data, "sample0-1", 3.0)
    copied = with_confirmation(inverted, sampled("sample0-2", 1, method=SAMPLED[0]))
    both = with_confirmation(copied, sampled("sample0-1", 4, method=SAMPLED[1]))
    assert [share_of(run).found for run in (data, inverted, copied, both)] == [0, 1, 2, 2]
    assert share_of(both).upper == pytest.approx(upper_bound(2, 20))


def test_what_was_not_searched_in_full_counts_as_found() -> None:
    data = with_group(20, "sample")
    broke = with_measurement(data, broken(target(data, "sample0-1")))
    missing = without(data, "sample0-1")
    lacking = replace(
        data,
        confirmations=tuple(
            each for each in data.confirmations if (each.probe, each.method) != ("sample0-1", SAMPLED[0])
        ),
    )
    for run in (broke, missing, lacking):
        found = share_of(run)
        assert (found.found, found.unsearched) == (0, 1)
        assert found.upper == pytest.approx(upper_bound(1, 20))
    nothing = share_of(replace(data, measurements=(), confirmations=()))
    assert (nothing.unsearched, nothing.upper) == (20, 1.0)


def test_two_views_of_an_image_are_one_draw() -> None:
    data = with_group(20, "sample")
    turned = with_probes(data, *(replace(target(data, f"sample0-{n}"), cluster="same") for n in (1, 2)))
    assert (share_of(turned).drawn, share_of(turned).found) == (19, 0)
    assert share_of(with_score(turned, "sample0-2", 3.0)).found == 1
    once = with_score(with_score(turned, "sample0-1", 3.0), "sample0-2", 3.0)
    assert share_of(once).found == 1


def test_the_other_groups_do_not_move_the_bound() -> None:
    data = with_group(20, "sample")
    assert share_of(with_score(data, "p1", 0.01)) == share_of(data)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("drawn", [1, 20, 300])
def test_the_bound_holds_in_95_percent_of_draws(drawn: int, share: float) -> None:
    covered = sum(
        float(binom.pmf(found, drawn, share)) for found in range(drawn + 1) if upper_bound(found, drawn) >= share
    )
    assert covered >= 0.95 - 1e-9


def test_without_canaries_nothing_is_known_of_the_power() -> None:
    data = clean_run()
    plain = with_probes(data, replace(target(data, "p3"), group="sensitive"))
    plain = with_measurement(plain, measured(target(plain, "p3")))
    assert verdict_of(plain).power == Power()


def test_canaries_are_counted_by_multiplicity_and_those_without_one_apart() -> None:
    data = with_group(4, "canary", multiplicity=16, of=with_group(3, "canary", multiplicity=2))
    data = with_score(with_score(with_score(data, "canary16-0", 0.02), "canary16-1", 0.05), "p3", 0.02)
    data = with_score(data, "canary2-0", 3.0)  # inverted, but at a score that would have stopped no release
    data = with_measurement(data, broken(target(data, "canary16-2")))
    found = verdict_of(data).power
    assert [(rung.multiplicity, rung.found, rung.planted) for rung in found.rungs] == [(2, 0, 3), (16, 2, 4)]
    assert (found.unstated, found.unstated_found, found.found_from) == (1, 1, None)
    low, high = found.rungs[1].interval.low, found.rungs[1].interval.high
    assert (low, high) == pytest.approx((0.0676, 0.9324), abs=1e-4)


def ladder(*counts: tuple[int, int, int]) -> tuple[Rung, ...]:
    data = clean_run()
    one = with_group(1, "canary", multiplicity=1, of=data)
    interval = verdict_of(one).power.rungs[0].interval
    return tuple(Rung(multiplicity=often, found=hit, planted=of, interval=interval) for often, hit, of in counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], None),
        ([(8, 58, 58)], None),
        ([(8, 59, 59)], 8),
        ([(8, 92, 93)], 8),
        ([(8, 58, 59)], None),
        ([(4, 20, 20), (8, 20, 20), (16, 20, 20)], 4),
        ([(1, 0, 20), (4, 20, 20), (8, 20, 20), (16, 20, 20)], 4),
        ([(1, 20, 20), (4, 18, 20), (8, 20, 20), (16, 40, 40)], 8),
        ([(1, 59, 59), (64, 3, 4)], None),
        ([(1, 59, 59), (64, 4, 4)], 1),
        ([(1, 200, 200), (2, 58, 59)], None),
    ],
)
def test_a_multiplicity_counts_as_found_only_where_the_canaries_from_there_upwards_show_it(
    counts: Sequence[tuple[int, int, int]], expected: int | None
) -> None:
    assert found_from(ladder(*counts)) == expected


def test_it_takes_59_canaries() -> None:
    assert lower_bound(FEWEST, FEWEST) >= 0.95 > lower_bound(FEWEST - 1, FEWEST - 1)


@pytest.mark.parametrize("planted", [20, 60])
@pytest.mark.parametrize("rates", [(0.949,) * 7, (0.9, 0.91, 0.92, 0.93, 0.94, 0.945, 0.949)])
def test_a_search_that_finds_fewer_is_credited_with_95_percent_in_at_most_5_percent_of_runs(
    planted: int, rates: tuple[float, ...]
) -> None:
    random = np.random.default_rng(14)
    (rung,) = ladder((1, 1, 1))
    claims = 0
    for found in random.binomial(planted, rates, size=(2000, 7)).tolist():
        rungs = [replace(rung, multiplicity=2**n, found=hit, planted=planted) for n, hit in enumerate(found)]
        claims += found_from(tuple(rungs)) is not None
    assert claims <= 0.05 * 2000 + 3 * (2000 * 0.05 * 0.95) ** 0.5


def test_a_canary_that_was_not_measured_was_not_found() -> None:
    data = with_group(2, "canary", multiplicity=4)
    missing = verdict_of(without(data, "canary4-0")).power
    assert (missing.rungs[0].found, missing.rungs[0].planted, missing.unsearched) == (0, 2, 1)
    found = with_confirmation(without(data, "canary4-0"), sampled("canary4-0", 1, method=SAMPLED[0]))
    assert (verdict_of(found).power.rungs[0].found, verdict_of(found).power.unsearched) == (1, 0)
    assert verdict_of(data).power.unsearched == 0
