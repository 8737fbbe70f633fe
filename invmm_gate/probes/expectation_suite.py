"""The Great Expectations suite of a probe set.

To hold a probe set against it in a data pipeline of your own:

    import great_expectations as gx
    from invmm_gate import probe_set_suite, probe_set_table

    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("probes")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(probe_set_suite(min_controls=20))
    check = context.validation_definitions.add(gx.ValidationDefinition(name="probes", data=batch, suite=suite))
    result = check.run(batch_parameters={"dataframe": probe_set_table(Path("probes"))})
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from invmm_gate.core.records import GROUPS
from invmm_gate.probes import fields
from invmm_gate.probes.computed_table import TABLE_COLUMNS, build_table
from invmm_gate.probes.expectations import Check, CheckResult, Record, frame_of, run_checks, suite_of
from invmm_gate.probes.images import MAX_SIDE, MIN_SIDE, ONE_COLOUR, changed, off_limits
from invmm_gate.probes.manifest import read_rows

PROBE_SET: Final = "probe_set"
"""Name of the suite."""

Describe = Callable[[Record], str]


def probe_set_suite(*, min_controls: int = 0, captions_required: bool = False) -> Any:
    """The `great_expectations.ExpectationSuite` that a probe set must pass before anything is measured.

    It checks the table that `probe_set_table` gives. Raises ConfigError without Great Expectations.
    """
    return suite_of(PROBE_SET, probe_set_checks(min_controls=min_controls, captions_required=captions_required))


def probe_set_table(folder: Path) -> Any:
    """The manifest as a `pandas.DataFrame` with columns that say what its files really are; every image is decoded.

    Raises ProbeSetError where the manifest cannot be read as a table; ConfigError without pandas.
    """
    return frame_of(build_table(read_rows(folder)), TABLE_COLUMNS)


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
        _none("fit stated", "fit_problem"),
        Check(
            name="image shows something",
            expectation="ExpectColumnValuesToBeInSet",
            arguments={"column": "one_colour", "value_set": [False]},
            describe=lambda row: f"{row['path']!r} {ONE_COLOUR}",
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
        describe=lambda row: f"{row['path']!r} {off_limits(row['width'], row['height'])}",
    )


def run_suite(table: Sequence[Record], checks: Sequence[Check]) -> tuple[CheckResult, ...]:
    """Run the checks over the table. Raises ConfigError without Great Expectations, or if a check cannot be run."""
    return run_checks(table, checks, name=PROBE_SET, columns=TABLE_COLUMNS)
