"""The Great Expectations suite of a probe set (extra `checks`): which checks, and how they are run."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from invmm_gate.errors import ConfigError
from invmm_gate.probes import fields
from invmm_gate.probes.images import changed
from invmm_gate.probes.table import TABLE_COLUMNS, Record
from invmm_gate.records import GROUPS

MIN_SIDE: Final = 8
MAX_SIDE: Final = 16_384
"""Pixels of a side of a probe image."""

Describe = Callable[[Record], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation, and what to tell the user of a row that fails it."""

    name: str
    expectation: str
    """Class name in great_expectations.expectations."""
    arguments: Mapping[str, object]
    describe: Describe
    """Gets the record of the row; for a check of the whole table, what was `observed`."""
    unique: str = ""
    """The column in which a row repeats an earlier one; the record that `describe` gets then has `first_line` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    check: Check
    success: bool
    rows: tuple[int, ...]
    """Indices of the rows that fail; empty for a check of the whole table."""
    observed: object
    """What a check of the whole table saw, such as a count."""


def probe_set_checks(*, min_controls: int, captions_required: bool) -> tuple[Check, ...]:
    """The suite, in the order in which problems of one row are told."""
    return (
        *_table_checks(min_controls),
        *_field_checks(),
        *_file_checks(),
        *([_given("caption", "the caption is empty; expected the text that belongs to the image")] * captions_required),
    )


def _table_checks(min_controls: int) -> list[Check]:
    controls = Check(
        name=f"at least {min_controls} controls",
        expectation="ExpectColumnSumToBeBetween",
        arguments={"column": "is_control", "min_value": min_controls},
        describe=lambda row: (
            f"control probes: {row['observed'] or 0}; expected at least {min_controls}, as a rule of the policy needs; "
            "add images that the model cannot have seen with `invmm-gate probes add DIR IMAGE... --group control`"
        ),
    )
    columns = Check(
        name="columns",
        expectation="ExpectTableColumnsToMatchSet",
        arguments={"column_set": list(TABLE_COLUMNS), "exact_match": True},
        describe=lambda _: f"other columns than {', '.join(fields.COLUMNS)}",
    )
    rows = Check(
        name="at least 1 probe",
        expectation="ExpectTableRowCountToBeBetween",
        arguments={"min_value": 1},
        describe=lambda _: (
            "no probes; expected at least one; add images with `invmm-gate probes add DIR IMAGE... --group GROUP`"
        ),
    )
    return [columns, rows, *([controls] if min_controls > 0 else [])]


def _field_checks() -> list[Check]:
    return [
        _none("plain text", "text_problem"),
        *(_given(column, fields.required_problem(column)) for column in fields.REQUIRED),
        _matching("id", fields.ID_PATTERN, fields.id_problem),
        _once("id", "id_key", lambda row: _repeated("id", row)),
        _once("path", "path_key", lambda row: _repeated("path", row)),
        _none("path inside the folder", "path_problem"),
        _matching("sha256", fields.SHA256_PATTERN, fields.sha256_problem),
        Check(
            name="group known",
            expectation="ExpectColumnValuesToBeInSet",
            arguments={"column": "group", "value_set": list(GROUPS)},
            describe=lambda row: fields.group_problem(str(row["group"])),
        ),
        _none("date", "date_problem"),
    ]


def _file_checks() -> list[Check]:
    return [
        _none("file present", "file_problem"),
        Check(
            name="file unchanged",
            expectation="ExpectColumnPairValuesToBeEqual",
            arguments={"column_A": "sha256", "column_B": "sha256_actual", "ignore_row_if": "either_value_is_missing"},
            describe=lambda row: changed(str(row["path"]), str(row["sha256"]), str(row["sha256_actual"])),
        ),
        _none("image readable", "image_problem"),
        *(_side(column) for column in ("width", "height")),
        Check(
            name="image shows something",
            expectation="ExpectColumnValuesToBeInSet",
            arguments={"column": "one_colour", "value_set": [False]},
            describe=lambda row: (
                f"{row['path']!r} has one colour only; expected a picture: any model can make this one"
            ),
        ),
        _once(
            "picture",
            "pixels",
            lambda row: (
                f"{row['path']!r} has the very pixels of the probe on line {row['first_line']}; "
                "expected each picture once: copies make a small set look large; remove one of the rows"
            ),
        ),
    ]


def _repeated(column: str, row: Record) -> str:
    return fields.repeated_problem(column, str(row[column]), int(str(row["first_line"])))


def _given(column: str, message: str) -> Check:
    return Check(
        name=f"{column} given",
        expectation="ExpectColumnValuesToNotBeNull",
        arguments={"column": column},
        describe=lambda _: message,
    )


def _none(name: str, column: str) -> Check:
    """A computed column that holds what is wrong, or nothing."""
    return Check(
        name=name,
        expectation="ExpectColumnValuesToBeNull",
        arguments={"column": column},
        describe=lambda row: str(row[column]),
    )


def _matching(column: str, pattern: str, problem: Callable[[str], str]) -> Check:
    return Check(
        name=f"{column} well formed",
        expectation="ExpectColumnValuesToMatchRegex",
        arguments={"column": column, "regex": rf"\A{pattern}\Z"},
        describe=lambda row: problem(str(row[column])),
    )


def _once(name: str, column: str, describe: Describe) -> Check:
    return Check(
        name=f"{name} unique",
        expectation="ExpectColumnValuesToBeUnique",
        arguments={"column": column},
        describe=describe,
        unique=column,
    )


def _side(column: str) -> Check:
    return Check(
        name=f"{column} within limits",
        expectation="ExpectColumnValuesToBeBetween",
        arguments={"column": column, "min_value": MIN_SIDE, "max_value": MAX_SIDE},
        describe=lambda row: (
            f"{row['path']!r} has {row['width']} x {row['height']} pixels; expected {MIN_SIDE} to {MAX_SIDE} a side"
        ),
    )


def run_suite(table: Sequence[Record], checks: Sequence[Check]) -> tuple[CheckResult, ...]:
    """Run the checks over the table. Raises ConfigError without Great Expectations, or if a check cannot be run."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read on import by versions that still have telemetry
    try:
        import great_expectations as gx
        import pandas as pd
    except ImportError as error:
        raise ConfigError(
            "the checks of a probe set need Great Expectations and pandas",
            do="install them with `pip install --upgrade invmm-gate`",
        ) from error
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("probe_set")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name="probe_set"))
    for number, check in enumerate(checks):
        kind = getattr(gx.expectations, check.expectation)
        suite.add_expectation(kind(**check.arguments, meta={"number": number}))
    validation = gx.ValidationDefinition(name="probe_set", data=batch, suite=suite)
    frame = pd.DataFrame(list(table), columns=list(TABLE_COLUMNS), dtype=object)
    result = context.validation_definitions.add(validation).run(
        batch_parameters={"dataframe": frame}, result_format="COMPLETE"
    )
    return _results(checks, result.to_json_dict()["results"])


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
