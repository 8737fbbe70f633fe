"""Each table of a study is what its records give."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.settings import PROFILES
from invmm_gate.measure.proposals import NEARER
from invmm_gate.report.studied import studied_settings

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/ladder/tables.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("benchmarks/ladder/tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = module  # dataclasses look their module up
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_the_tables_of_the_likelihood_study_follow_from_its_records(tables: ModuleType) -> None:
    page = (ROOT / "docs/studies/likelihood.md").read_text(encoding="utf-8")
    assert tables.with_tables(page) == page, "write them with `python benchmarks/ladder/tables.py --write`"


def test_an_edited_table_is_noticed(tables: ModuleType) -> None:
    page = (ROOT / "docs/studies/likelihood.md").read_text(encoding="utf-8")
    edited = page.replace("| 0.5 | 1000 |", "| 0.5 | 1001 |")
    assert edited != page
    assert tables.with_tables(edited) == page


def test_what_the_report_says_of_the_study_follows_from_its_records(tables: ModuleType) -> None:
    said = (ROOT / "invmm_gate/report/studied.json").read_text(encoding="utf-8")
    assert tables.studied() == said, "write it with `python benchmarks/ladder/tables.py --write`"


def test_on_models_that_were_not_tuned_on_what_comes_out_is_found_and_nothing_else(tables: ModuleType) -> None:
    every = [image for name in tables.recorded(each.name for each in tables.PROOF) for image in tables.images(name)]
    planted = [image for image in every if image.multiplicity]
    often, seldom = ([image for image in planted if low <= image.truth < high] for low, high in tables.BANDS[:2])
    assert sum(image.found for image in often) >= 0.95 * len(often)
    assert sum(image.found for image in seldom) >= 0.8 * len(seldom)
    assert not any(image.found for image in every if not image.multiplicity)
    assert not any(image.lower > upper_bound(image.copies, image.samples, confidence=0.975) for image in every)


def test_the_study_is_of_the_search_that_is_shipped() -> None:
    """Whoever changes profile `gate` scores the proof models again, or takes them out of the study."""
    studies = json.loads((ROOT / "invmm_gate/report/studied.json").read_text(encoding="utf-8"))
    for family, study in studies.items():
        settings = json.loads(json.dumps(studied_settings(PROFILES["gate"][family])))
        assert study["search"]["settings"] == settings
        assert study["nearer"] == [list(each) for each in NEARER], "the draws of the likelihood"


def test_the_scatter_has_a_mark_for_each_image_that_came_out(tables: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "scatter.svg"
    tables.scatter(path)
    models = tables.recorded([each.name for each in (*tables.PROOF, *tables.TUNING)])
    for name in models:
        shown = [image for image in tables.images(name) if image.copies and image.estimate]
        for page in (path, ROOT / "docs/studies/likelihood.svg"):
            (marks,) = ElementTree.parse(page).findall(f".//{SVG}g[@id='{name}']")
            assert len(marks.findall(f".//{SVG}use")) == len(shown), "write it with `tables.py --write`"


def test_the_tables_of_the_study_of_copies_follow_from_its_records() -> None:
    spec = importlib.util.spec_from_file_location("copies", ROOT / "benchmarks/copies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    page = (ROOT / "docs/studies/copies.md").read_text(encoding="utf-8")
    assert module.with_tables(page) == page, "write them with `python benchmarks/copies.py tables --write`"
