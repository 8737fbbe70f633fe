"""The references say what the code says: `python -m tests.docs.write_references` writes them."""

import dataclasses
import inspect
import os
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

from invmm_gate.core import likelihood_record, records, run_records, verdict_records
from invmm_gate.core.marks import LOWER, ranked
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.field_types import Whole
from invmm_gate.report.formats import FORMATS
from invmm_gate.runs.stage_files import STAGES
from tests.docs.policy_keys import SECTIONS, policy_keys, rows
from tests.docs.record_fields import ELSEWHERE, FILES, IN_NO_FILE, RECORDS
from tests.docs.write_references import CODES, FOLDER, PAGES, code_names, commands


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run `python -m tests.docs.write_references`, and read the difference"


def test_nothing_else_lies_among_the_references() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


class Example(StrictModel):
    """Two keys."""

    samples: Annotated[Annotated[Whole, Field(ge=1, le=1_000)] | None, LOWER] = None
    """None = any."""
    probes: Annotated[bool, ranked(True, False)]


def test_a_key_has_type_range_default_direction_and_meaning() -> None:
    assert list(rows(Example, "a.")) == [
        ("`a.samples`", "whole number or null", "at least 1; at most 1,000", "`null`", "lower", "null = any."),
        ("`a.probes`", "true or false", "", "required", "`false`", ""),
    ]


def test_every_key_of_a_policy_is_explained() -> None:
    lines = [line for line in policy_keys().splitlines() if line.startswith("| `") and line.count(" | ") == 5]
    assert len(lines) > 70
    assert [line for line in lines if line.endswith("|  |")] == []
    assert {kind.__name__ for _, _, kind in SECTIONS} >= {"Policy", "Coverage", "GcgSearch"}


def test_every_record_is_described() -> None:
    kinds = {kind for module in _SOURCES for _, kind in inspect.getmembers(module, _is_record)}
    assert kinds == {kind for kind in (*RECORDS, *IN_NO_FILE, *ELSEWHERE) if kind.__module__ in _MODULES} | {
        kind for kind in ELSEWHERE if kind in kinds
    }


_SOURCES = (records, run_records, verdict_records, likelihood_record)
_MODULES = tuple(module.__name__ for module in _SOURCES)


def _is_record(kind: Any) -> bool:
    return inspect.isclass(kind) and dataclasses.is_dataclass(kind)


def test_every_file_of_the_stages_and_formats_is_described() -> None:
    owned = {name for stage in STAGES for name in (stage.begins_with, *stage.records, *stage.folders, stage.end)}
    assert owned | {form.file for form in FORMATS.values()} <= set(FILES)


def test_every_exit_code_is_explained() -> None:
    assert [name for name, _ in code_names()] == list(CODES)


def test_the_help_has_one_width_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = commands()
    monkeypatch.setenv("COLUMNS", "40")
    assert commands() == wide
    assert max(map(len, wide.splitlines())) <= 120
    assert "COLUMNS" in os.environ


@dataclass(frozen=True)
class Sample:
    """A record."""

    count: int
    """How many | of what."""


def test_a_field_has_the_text_beneath_it() -> None:
    from tests.docs.fields import documented

    assert documented(Sample) == {"count": ("int", "How many \\| of what.")}


def test_every_field_of_a_record_has_a_sentence() -> None:
    rows = [line for line in PAGES["records.md"]().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
