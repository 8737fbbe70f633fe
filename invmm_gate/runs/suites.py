"""The Great Expectations suites of a run's records.

They say what policy/soundness.py says, through another program: a second witness. To hold runs against them in a data
pipeline of your own:

    import great_expectations as gx
    from invmm_gate import RunFolder, measurements_suite, measurements_table

    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("run")
    batch = source.add_dataframe_asset("measurements").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(measurements_suite())
    check = context.validation_definitions.add(gx.ValidationDefinition(name="run", data=batch, suite=suite))
    table = measurements_table(RunFolder(Path("reports/first")).data())
    result = check.run(batch_parameters={"dataframe": table})
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, get_args

from invmm_gate.core.records import GROUPS, ConfirmationStatus, Outcome, RunData, SuiteRecord
from invmm_gate.probes.expectations import Check, Record, answers, definition_digest, run_checks, suite_of, suite_record
from invmm_gate.runs.tables import CONFIRMATION_COLUMNS, MEASUREMENT_COLUMNS, confirmation_rows, measurement_rows

MEASURED: Final = "measurements"
CONFIRMED: Final = "confirmations"
_FINITE: Final = sys.float_info.max
_ROUNDING: Final = 1e-9
"""By how much an interval may miss the rate that it was computed from."""


def measurements_suite() -> Any:
    """The `great_expectations.ExpectationSuite` of `measurements_table`. Raises ConfigError."""
    return suite_of(MEASURED, measurement_checks())


def confirmations_suite() -> Any:
    """The `great_expectations.ExpectationSuite` of `confirmations_table`. Raises ConfigError."""
    return suite_of(CONFIRMED, confirmation_checks())


def run_suites(data: RunData) -> tuple[SuiteRecord, SuiteRecord]:
    """What both suites find in the records. Raises ConfigError without Great Expectations."""
    return (
        _run(MEASURED, measurement_rows(data), measurement_checks(), MEASUREMENT_COLUMNS),
        _run(CONFIRMED, confirmation_rows(data), confirmation_checks(), CONFIRMATION_COLUMNS),
    )


def suites_digest() -> str:
    """sha256 of what both suites ask for."""
    return definition_digest((*measurement_checks(), *confirmation_checks()))


def both_answered(suites: Sequence[SuiteRecord]) -> bool:
    """Whether stored results answer all that both suites ask."""
    asked = {MEASURED: measurement_checks(), CONFIRMED: confirmation_checks()}
    found = {suite.name: suite for suite in suites}
    return all(name in found and answers(found[name], checks) for name, checks in asked.items())


def _run(name: str, rows: list[Record], checks: Sequence[Check], columns: Sequence[str]) -> SuiteRecord:
    results = run_checks(rows, checks, name=name, columns=columns)
    return suite_record(name, results, rows=len(rows), row_name=lambda row: str(rows[row]["probe"]))


def measurement_checks() -> tuple[Check, ...]:
    """Every probe of the set has one measurement, with a score where one is due and nowhere else."""
    return (
        _given("every probe of the set is measured", "outcome"),
        _given("only probes of the set are measured", "listed"),
        _check("each probe is measured once", "ExpectColumnValuesToBeUnique", column="probe"),
        _known("the outcome is known", "outcome", get_args(Outcome)),
        _known("the group is known", "group", GROUPS),
        _pair_equal("group and category are as listed", "category", "listed"),
        _pair_equal("a score exactly where the outcome is inverted", "has_score", "score_due"),
        _pair_equal("a bound exactly where the outcome is above_threshold", "has_bound", "bound_due"),
        _number("the score is a number from 0 on", "invmm"),
        _number("the bound is a number from 0 on", "invmm_above"),
        *(_number(f"{column} is a number from 0 on", column) for column in ("spread_low", "spread_high")),
        _pair("the spread is in order", "spread_high", "spread_low"),
        *_counts("share"),
        _number("steps from 0 on", "steps"),
        _number("network evaluations from 0 on", "evaluations"),
        _number("network evaluations where there is a result", "evaluations_of_result", least=1),
    )


def confirmation_checks() -> tuple[Check, ...]:
    """One confirmation for each probe and method, of probes of the set, with counts that add up."""
    return (
        _given("only probes of the set are confirmed", "listed"),
        _check(
            "each probe is confirmed once by a method",
            "ExpectCompoundColumnsToBeUnique",
            column_list=["probe", "method"],
        ),
        _known("the status is known", "status", get_args(ConfirmationStatus)),
        *_counts("rate"),
        _number("the confidence is within 0 and 1", "confidence", most=1),
        _number("confirmed by at least one sample", "hits_if_confirmed", least=1),
        _number("network evaluations are given", "evaluations", least=1),
    )


def _counts(what: str) -> tuple[Check, ...]:
    """Hits within trials, and an interval within [0, 1] that holds their ratio."""
    return (
        _number("hits from 0 on", "hits"),
        _number("at least one trial", "trials", least=1),
        _pair("no more hits than trials", "trials", "hits"),
        _number("the interval begins within 0 and 1", "low", most=1),
        _number("the interval ends within 0 and 1", "high", most=1),
        _number(f"the interval begins below the {what}", "rate_above_low", least=-_ROUNDING, most=1),
        _number(f"the interval ends above the {what}", "high_above_rate", least=-_ROUNDING, most=1),
    )


def _check(name: str, expectation: str, **arguments: object) -> Check:
    return Check(name=name, expectation=expectation, arguments=arguments)


def _given(name: str, column: str) -> Check:
    return _check(name, "ExpectColumnValuesToNotBeNull", column=column)


def _known(name: str, column: str, values: Sequence[str]) -> Check:
    return _check(name, "ExpectColumnValuesToBeInSet", column=column, value_set=list(values))


def _number(name: str, column: str, *, least: float = 0, most: float = _FINITE) -> Check:
    """A finite number within limits, where there is one."""
    return _check(name, "ExpectColumnValuesToBeBetween", column=column, min_value=least, max_value=most)


def _pair_equal(name: str, first: str, second: str) -> Check:
    return _check(
        name,
        "ExpectColumnPairValuesToBeEqual",
        column_A=first,
        column_B=second,
        ignore_row_if="either_value_is_missing",
    )


def _pair(name: str, larger: str, smaller: str) -> Check:
    return _check(
        name,
        "ExpectColumnPairValuesAToBeGreaterThanB",
        column_A=larger,
        column_B=smaller,
        or_equal=True,
        ignore_row_if="either_value_is_missing",
    )
