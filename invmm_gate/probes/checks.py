"""The checks of a probe set before anything is measured: plain checks of a table with one record a row.

`check`, `measure` and `register` run these checks. `probes validate` runs the same list as expectations of Great
Expectations (`probes/expectations.py`): native ones on columns, and one of ours that calls `Check.problem`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.records import GROUPS
from invmm_gate.probes import fields
from invmm_gate.probes.images import MAX_SIDE, MIN_SIDE, ONE_COLOUR, changed, off_limits

Record = dict[str, object]
"""One row of a table: None where there is no value."""
COMPUTED: Final = (
    "id_key",
    "path_key",
    "is_control",
    "text_problem",
    "date_problem",
    "path_problem",
    "file_problem",
    "sha256_actual",
    "image_problem",
    "width",
    "height",
    "one_colour",
    "pixels",
    "fit_problem",
    "multiplicity_problem",
    "label_problem",
)
TABLE_COLUMNS: Final = (*fields.COLUMNS, *fields.OPTIONAL, *COMPUTED)
OWN_EXPECTATION: Final = "ExpectProbesToPass"
"""Class name of our own expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check, and the expectation that finds the same faults."""

    name: str
    """What is expected, in words."""
    problem: Callable[[Record], str]
    """What is wrong with a record; empty if nothing is. A check of the whole table gets what it `observed`."""
    expectation: str
    """Class name in great_expectations.expectations, or `OWN_EXPECTATION`."""
    arguments: Mapping[str, object]
    unique: str = ""
    """The column in which a row repeats an earlier one; `problem` gets such rows alone, with `first_line`."""
    observe: Callable[[Sequence[Record]], object] | None = None
    """What a check of the whole table looks at; None for a check of each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of a check."""

    check: Check
    success: bool
    rows: tuple[int, ...]
    """Indices of the rows that fail; empty for a check of the whole table."""


Decide = Callable[[Sequence[Record], Sequence[Check]], Sequence[CheckResult]]
"""Runs the checks over a table."""


def plain_results(table: Sequence[Record], checks: Sequence[Check]) -> tuple[CheckResult, ...]:
    """The checks as plain functions: what Great Expectations finds too, without its seconds of imports."""
    return tuple(_result(table, check) for check in checks)


def repeats(table: Sequence[Record], check: Check) -> dict[int, int]:
    """Index of each row that repeats an earlier one -> index of that one; empty for another kind of check."""
    if not check.unique:
        return {}
    return fields.collisions([None if row[check.unique] is None else str(row[check.unique]) for row in table])


def probe_set_checks(*, min_controls: int, captions_required: bool) -> tuple[Check, ...]:
    """The checks, in the order in which problems of one row are told."""
    return (
        *_table_checks(min_controls),
        *_field_checks(),
        *_file_checks(),
        *([_given("caption", "the caption is empty; expected the text that belongs to the image")] * captions_required),
    )


def _result(table: Sequence[Record], check: Check) -> CheckResult:
    if check.observe is not None:
        return CheckResult(check=check, success=not check.problem({"observed": check.observe(table)}), rows=())
    if check.unique:
        rows = tuple(repeats(table, check))
    else:
        rows = tuple(number for number, record in enumerate(table) if check.problem(record))
    return CheckResult(check=check, success=not rows, rows=rows)


def _table_checks(min_controls: int) -> list[Check]:
    columns = Check(
        name="columns",
        problem=lambda row: "" if row["observed"] else f"other columns than {', '.join(fields.COLUMNS)}",
        expectation="ExpectTableColumnsToMatchSet",
        arguments={"column_set": list(TABLE_COLUMNS), "exact_match": True},
        observe=lambda table: all(set(record) == set(TABLE_COLUMNS) for record in table),
    )
    rows = Check(
        name="at least 1 probe",
        problem=lambda row: "" if row["observed"] else _NO_PROBES,
        expectation="ExpectTableRowCountToBeBetween",
        arguments={"min_value": 1},
        observe=len,
    )
    return [columns, rows, *([_controls(min_controls)] if min_controls > 0 else [])]


_NO_PROBES: Final = (
    "no probes; expected at least one; add images with `invmm-gate probes add DIR IMAGE... --group GROUP`"
)


def _controls(least: int) -> Check:
    def problem(row: Record) -> str:
        found = int(str(row["observed"]))
        if found >= least:
            return ""
        return (
            f"control probes: {found}; expected at least {least}, as a rule of the policy needs; "
            "add images that the model cannot have seen with `invmm-gate probes add DIR IMAGE... --group control`"
        )

    return Check(
        name=f"at least {least} controls",
        problem=problem,
        expectation="ExpectColumnSumToBeBetween",
        arguments={"column": "is_control", "min_value": least},
        observe=lambda table: sum(record["is_control"] == 1 for record in table),
    )


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
            problem=_if_given("group", fields.group_problem),
            expectation="ExpectColumnValuesToBeInSet",
            arguments={"column": "group", "value_set": list(GROUPS)},
        ),
        _none("date", "date_problem"),
        _none("multiplicity of canaries", "multiplicity_problem"),
        _none("class label", "label_problem"),
    ]


def _file_checks() -> list[Check]:
    return [
        _none("file present", "file_problem"),
        _own("file unchanged", ("path", "sha256", "sha256_actual"), _changed),
        _none("image readable", "image_problem"),
        *(_side(column) for column in ("width", "height")),
        _none("fit stated", "fit_problem"),
        _own("image shows something", ("path", "one_colour"), _shows_nothing),
        _once("picture", "pixels", _same_picture),
    ]


def _changed(row: Record) -> str:
    given, actual = row["sha256"], row["sha256_actual"]
    if given is None or actual is None or given == actual:
        return ""
    return changed(str(row["path"]), str(given), str(actual))


def _shows_nothing(row: Record) -> str:
    return f"{row['path']!r} {ONE_COLOUR}" if row["one_colour"] is True else ""


def _same_picture(row: Record) -> str:
    return (
        f"{row['path']!r} has the very pixels of the probe on line {row['first_line']}; "
        "expected each picture once: copies make a small set look large; remove one of the rows"
    )


def _repeated(column: str, row: Record) -> str:
    return fields.repeated_problem(column, str(row[column]), int(str(row["first_line"])))


def _if_given(column: str, problem: Callable[[str], str]) -> Callable[[Record], str]:
    return lambda row: "" if row[column] is None else problem(str(row[column]))


def _given(column: str, message: str) -> Check:
    return Check(
        name=f"{column} given",
        problem=lambda row: message if row[column] is None else "",
        expectation="ExpectColumnValuesToNotBeNull",
        arguments={"column": column},
    )


def _own(name: str, columns: tuple[str, ...], problem: Callable[[Record], str]) -> Check:
    """A check of what several columns say together, or of more than an expectation of theirs can ask for."""
    return Check(
        name=name,
        problem=problem,
        expectation=OWN_EXPECTATION,
        arguments={"column_list": ["id", *columns], "check": name, "ignore_row_if": "never"},
    )


def _none(name: str, column: str) -> Check:
    """A computed column that holds what is wrong, or nothing."""
    return _own(name, ("path", column), lambda row: "" if row[column] is None else str(row[column]))


def _matching(column: str, pattern: str, problem: Callable[[str], str]) -> Check:
    return Check(
        name=f"{column} well formed",
        problem=_if_given(column, problem),
        expectation="ExpectColumnValuesToMatchRegex",
        arguments={"column": column, "regex": rf"\A{pattern}\Z"},
    )


def _once(name: str, column: str, problem: Callable[[Record], str]) -> Check:
    return Check(
        name=f"{name} unique",
        problem=problem,
        expectation="ExpectColumnValuesToBeUnique",
        arguments={"column": column},
        unique=column,
    )


def _side(column: str) -> Check:
    def problem(row: Record) -> str:
        side = row[column]
        if side is None or (isinstance(side, int) and MIN_SIDE <= side <= MAX_SIDE):
            return ""
        return f"{row['path']!r} {off_limits(row['width'], row['height'])}"

    return Check(
        name=f"{column} within limits",
        problem=problem,
        expectation="ExpectColumnValuesToBeBetween",
        arguments={"column": column, "min_value": MIN_SIDE, "max_value": MAX_SIDE},
    )
