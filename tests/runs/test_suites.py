"""Each corruption of a record is seen by the expectation that is there for it."""

from collections.abc import Sequence
from dataclasses import replace

import great_expectations as gx
import pytest

from invmm_gate import confirmations_suite, confirmations_table, measurements_suite, measurements_table
from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Confirmation, Interval, Measurement, Probe, RunData
from invmm_gate.policy.soundness import record_findings
from invmm_gate.runs.suites import confirmation_checks, measurement_checks, run_suites
from tests.runs.conftest import confirmation, measurement, run_record

SOUND = {
    "inverted": {"invmm": 0.1},
    "stopped": {"outcome": "above_threshold", "invmm": None, "invmm_above": 0.2, "invmm_spread": None},
    "withstood": {"outcome": "not_inverted", "invmm": None, "invmm_spread": None, "share": replication_share(0, 8)},
    "at-start": {"invmm": 0.0, "invmm_spread": (0.0, 0.0), "steps": 0, "guidance_scale": None},
    "broke": {
        "outcome": "error",
        "invmm": None,
        "invmm_spread": None,
        "share": None,
        "steps": 0,
        "evaluations": 0,
        "reason": "NaN",
    },
}
"""Every outcome that a sound run can have, and the probe's name."""


def measured(probe: str, kind: str, **changes: object) -> Measurement:
    return replace(measurement(probe), trials=(), **(SOUND[kind] | changes))


def run_data(measurements: Sequence[Measurement] = (), confirmations: Sequence[Confirmation] = ()) -> RunData:
    """A sound run, with further probes that have these records."""
    more = dict.fromkeys((*(item.probe for item in measurements), *(item.probe for item in confirmations)))
    names = [*SOUND, *(name for name in more if name not in SOUND and not name.startswith("stray"))]
    probes = tuple(
        Probe(id=name, path=f"images/{name}.png", sha256=f"{line:064x}", group="sensitive", line=line)
        for line, name in enumerate(names, start=2)
    )
    run = run_record()
    given = {item.probe for item in measurements}
    rest = [measured(name, name if name in SOUND else "inverted") for name in names if name not in given]
    return RunData(
        run=replace(run, probe_set=replace(run.probe_set, probes=probes)),
        measurements=(*rest, *measurements),
        confirmations=(confirmation("inverted"), *confirmations),
    )


def broken(data: RunData) -> dict[str, tuple[str, ...]]:
    """The expectations that fail, with the probes in the rows that fail."""
    suites = run_suites(data)
    assert [suite.success for suite in suites] == [all(e.success for e in suite.expectations) for suite in suites]
    found = [item for suite in suites for item in suite.expectations if not item.success]
    return {item.name: tuple(row for other in found if other.name == item.name for row in other.rows) for item in found}


def test_a_sound_run_meets_every_expectation_and_an_interval_may_miss_its_rate_by_rounding():
    share = replication_share(1, 3)
    nearly = replace(share, interval=Interval(low=1 / 3 + 1e-12, high=0.9, confidence=0.95, method="wilson"))
    data = run_data([measured("rounded", "inverted", share=nearly)])
    assert not record_findings(data)
    (first, second) = run_suites(data)
    assert (first.name, first.success, first.rows) == ("measurements", True, 6)
    assert (second.name, second.success, second.rows) == ("confirmations", True, 1)
    assert len(first.expectations) == len(measurement_checks())
    assert len(second.expectations) == len(confirmation_checks())


def test_a_run_without_confirmations_meets_the_suite():
    assert broken(replace(run_data(), confirmations=())) == {}


def share(**changes: object) -> dict[str, object]:
    sound = replication_share(4, 4)
    interval = replace(sound.interval, **{name: changes.pop(name) for name in ("low", "high") if name in changes})
    return {"share": replace(sound, interval=interval, **changes)}


MEASUREMENTS = [
    ("inverted", {"invmm": None}, "a score exactly where the outcome is inverted"),
    ("inverted", {"invmm": float("nan")}, "a score exactly where the outcome is inverted"),
    ("inverted", {"invmm": -0.1}, "the score is a number from 0 on"),
    ("inverted", {"invmm": float("inf")}, "the score is a number from 0 on"),
    ("withstood", {"invmm": 0.1}, "a score exactly where the outcome is inverted"),
    ("stopped", {"invmm": 0.1}, "a score exactly where the outcome is inverted"),
    ("stopped", {"invmm_above": None}, "a bound exactly where the outcome is above_threshold"),
    ("stopped", {"invmm_above": -1.0}, "the bound is a number from 0 on"),
    ("withstood", {"invmm_above": 0.1}, "a bound exactly where the outcome is above_threshold"),
    ("inverted", {"invmm_above": 0.1}, "a bound exactly where the outcome is above_threshold"),
    ("inverted", {"outcome": "safe"}, "the outcome is known"),
    ("inverted", {"group": "secret"}, "the group is known"),
    ("inverted", {"group": "control"}, "group and category are as listed"),
    ("inverted", {"category": "faces"}, "group and category are as listed"),
    ("inverted", {"invmm_spread": (-1.0, 0.2)}, "spread_low is a number from 0 on"),
    ("inverted", {"invmm_spread": (0.1, float("inf"))}, "spread_high is a number from 0 on"),
    ("inverted", {"invmm_spread": (0.3, 0.2)}, "the spread is in order"),
    ("inverted", share(hits=5), "no more hits than trials"),
    ("inverted", share(hits=-1), "hits from 0 on"),
    ("inverted", share(hits=0, trials=0), "at least one trial"),
    ("inverted", share(low=-0.1), "the interval begins within 0 and 1"),
    ("inverted", share(high=1.1), "the interval ends within 0 and 1"),
    ("inverted", share(hits=0), "the interval begins below the share"),
    ("inverted", share(high=0.7), "the interval ends above the share"),
    ("inverted", {"steps": -1}, "steps from 0 on"),
    ("broke", {"evaluations": -1}, "network evaluations from 0 on"),
    ("withstood", {"evaluations": 0}, "network evaluations where there is a result"),
]


def confirmed(probe: str, **changes: object) -> Confirmation:
    base = confirmation(probe)
    ends = {name: changes.pop(name) for name in ("low", "high", "confidence") if name in changes}
    return replace(base, interval=replace(base.interval, **ends), **changes)


CONFIRMATIONS = [
    ({"probe": "stray"}, "only probes of the set are confirmed"),
    ({"probe": "inverted"}, "each probe is confirmed once by a method"),
    ({"status": "sure"}, "the status is known"),
    ({"hits": 17}, "no more hits than trials"),
    ({"hits": -1}, "hits from 0 on"),
    ({"trials": 0}, "at least one trial"),
    ({"low": -0.1}, "the interval begins within 0 and 1"),
    ({"high": 1.5}, "the interval ends within 0 and 1"),
    ({"low": 0.1}, "the interval begins below the rate"),
    ({"hits": 8}, "the interval ends above the rate"),
    ({"confidence": 95.0}, "the confidence is within 0 and 1"),
    ({"status": "confirmed"}, "confirmed by at least one sample"),
    ({"evaluations": 0}, "network evaluations are given"),
]


CONFIRMED_NAMES = [f"k{number:02d}" for number in range(len(CONFIRMATIONS))]


@pytest.fixture(scope="module")
def seen() -> dict[str, tuple[str, ...]]:
    """What the suites find in one run with every corruption, each in a probe of its own: m00 on and k00 on."""
    items = [measured(f"m{n:02d}", kind, **change) for n, (kind, change, _) in enumerate(MEASUREMENTS)]
    found = [
        confirmed(**({"probe": name} | change))
        for name, (change, _) in zip(CONFIRMED_NAMES, CONFIRMATIONS, strict=True)
    ]
    return broken(run_data(items, found))


@pytest.mark.parametrize("number", range(len(MEASUREMENTS)))
def test_a_corrupted_measurement_is_seen(seen, number):
    assert f"m{number:02d}" in seen[MEASUREMENTS[number][2]]


@pytest.mark.parametrize("number", range(len(CONFIRMATIONS)))
def test_a_corrupted_confirmation_is_seen(seen, number):
    change, expected = CONFIRMATIONS[number]
    assert change.get("probe", CONFIRMED_NAMES[number]) in seen[expected]


def test_sound_records_beside_them_stay_unnoticed(seen):
    named = {name for rows in seen.values() for name in rows}
    assert named & set(SOUND) == {"inverted"}, "confirmed twice, on purpose"


def test_every_probe_of_the_set_must_be_measured_once_and_no_other_and_20_failing_ones_are_named():
    data = run_data([measured(f"stray-{n:02d}", "inverted") for n in range(30)])
    first, second, *rest = data.measurements
    (suite, _) = run_suites(replace(data, measurements=(second, second, *rest)))
    found = {item.name: item for item in suite.expectations if not item.success}
    assert {name: item.failing for name, item in found.items()} == {
        "every probe of the set is measured": 1,
        "each probe is measured once": 2,
        "only probes of the set are measured": 30,
    }
    assert found["every probe of the set is measured"].rows == (first.probe,)
    assert found["each probe is measured once"].rows == (second.probe, second.probe)
    strays = found["only probes of the set are measured"].rows
    assert (len(strays), strays[0]) == (20, "stray-00")


def test_every_expectation_is_broken_by_some_corruption():
    """Those that cannot be broken would be decoration."""
    found = {expected for _, _, expected in MEASUREMENTS} | {expected for _, expected in CONFIRMATIONS}
    whole = {"every probe of the set is measured", "each probe is measured once", "only probes of the set are measured"}
    names = {check.name for check in (*measurement_checks(), *confirmation_checks())}
    assert names - found == whole, "which have a test of their own"


@pytest.mark.parametrize(
    ("suite", "table", "data"),
    [
        (measurements_suite, measurements_table, run_data([measured("odd", "inverted", invmm=-1.0)])),
        (confirmations_suite, confirmations_table, run_data(confirmations=[confirmed("odd", hits=17)])),
    ],
)
def test_users_of_great_expectations_can_run_the_suites_themselves(suite, table, data):
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("run")
    batch = source.add_dataframe_asset("records").add_batch_definition_whole_dataframe("all")
    check = context.validation_definitions.add(
        gx.ValidationDefinition(name="run", data=batch, suite=context.suites.add(suite()))
    )
    assert check.run(batch_parameters={"dataframe": table(run_data())}).success
    assert not check.run(batch_parameters={"dataframe": table(data)}).success
