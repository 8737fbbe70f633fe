"""Great Expectations over a table of plain records: expectations as data, run where nothing is left behind.

Great Expectations and pandas take seconds to import, so they are imported when a suite is made or run.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import ModuleType
from typing import Any, Final, cast

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import ExpectationRecord, SuiteRecord

Record = dict[str, object]
"""One row of a table: None where there is no value."""

LISTED_ROWS: Final = 20
"""Failing rows that a result names."""


def _unsaid(_: Record) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation, and what to tell the user of a row that fails it."""

    name: str
    """What is expected, in words."""
    expectation: str
    """Class name in great_expectations.expectations."""
    arguments: Mapping[str, object]
    describe: Callable[[Record], str] = _unsaid
    """Gets the record of the row; for a check of the whole table, what was `observed`."""
    unique: str = ""
    """The column in which a row repeats an earlier one; the record that `describe` gets then has `first_line` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check came to."""

    check: Check
    success: bool
    rows: tuple[int, ...]
    """Indices of the rows that fail; empty for a check of the whole table."""
    observed: object
    """What a check of the whole table saw, such as a count."""


def suite_of(name: str, checks: Sequence[Check]) -> Any:
    """The checks as a `great_expectations.ExpectationSuite`. Raises ConfigError without Great Expectations."""
    gx, _ = _packages()
    expectations = [
        getattr(gx.expectations, check.expectation)(**check.arguments, meta={"number": number, "name": check.name})
        for number, check in enumerate(checks)
    ]
    return gx.ExpectationSuite(name=name, expectations=expectations)


def frame_of(table: Sequence[Record], columns: Sequence[str]) -> Any:
    """The table as a `pandas.DataFrame`; its cells keep their types, so that no id becomes a number."""
    _, pd = _packages()
    return pd.DataFrame(list(table), columns=list(columns), dtype=object)


def run_checks(
    table: Sequence[Record], checks: Sequence[Check], *, name: str, columns: Sequence[str]
) -> tuple[CheckResult, ...]:
    """Run the checks over the table. Raises ConfigError without Great Expectations, or if a check cannot be run."""
    gx, _ = _packages()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas(name)
    batch = source.add_dataframe_asset("table").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(suite_of(name, checks))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    result = validation.run(batch_parameters={"dataframe": frame_of(table, columns)}, result_format="COMPLETE")
    return _results(checks, result.to_json_dict()["results"])


def definition_digest(checks: Sequence[Check]) -> str:
    """sha256 of what the checks ask for: results of other checks are none of these."""
    asked = [(check.name, check.expectation, check.arguments, check.unique) for check in checks]
    return sha256(json.dumps(asked, allow_nan=False, sort_keys=True).encode()).hexdigest()


def answers(record: SuiteRecord, checks: Sequence[Check]) -> bool:
    """Whether a stored result has an answer to each of the checks, and no other."""
    given = [(item.name, item.kind) for item in record.expectations]
    return given == [(check.name, check.expectation) for check in checks]


def suite_record(
    name: str, results: Sequence[CheckResult], *, rows: int, row_name: Callable[[int], str]
) -> SuiteRecord:
    """What a suite found, as it is stored; `row_name` says which probe a row is of."""
    found = tuple(
        ExpectationRecord(
            name=result.check.name,
            kind=result.check.expectation,
            success=result.success,
            failing=len(result.rows),
            rows=tuple(row_name(row) for row in result.rows[:LISTED_ROWS]),
        )
        for result in results
    )
    return SuiteRecord(name=name, success=all(item.success for item in found), rows=rows, expectations=found)


def _packages() -> tuple[ModuleType, ModuleType]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read on import by versions that still have telemetry
    try:
        import great_expectations as gx
        import pandas as pd
    except ImportError as error:
        raise ConfigError(
            "the checks of a probe set and of a run's records need Great Expectations and pandas",
            do="install them with `pip install --upgrade invmm-gate`",
        ) from error
    return gx, pd


def _results(checks: Sequence[Check], results: Sequence[dict[str, dict[str, object]]]) -> tuple[CheckResult, ...]:
    """Great Expectations groups its results by kind: put them back in the order of the checks."""
    by_number = {result["expectation_config"]["meta"]["number"]: result for result in results}  # type: ignore[index]
    found = []
    for number, check in enumerate(checks):
        result = by_number.get(number)
        if result is None or result["exception_info"].get("raised_exception", True):
            raise ConfigError(
                f"Great Expectations could not run the check {check.name!r}",
                do="install a version that works with `pip install --upgrade invmm-gate`",
            )
        details, success = result["result"], bool(result["success"])
        rows = cast(list[int], details.get("unexpected_index_list") or [])
        observed = details.get("observed_value")
        found.append(CheckResult(check=check, success=success, rows=tuple(rows), observed=observed))
    return tuple(found)
