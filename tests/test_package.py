"""What `import invmm_gate` promises, and that the configured checks are the ones that run."""

import importlib
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

import invmm_gate


@pytest.mark.parametrize("name", invmm_gate.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(invmm_gate, name).__doc__ or name == "PROFILES"


def test_public_names_and_their_homes_agree() -> None:
    assert sorted(invmm_gate.__all__) == sorted(invmm_gate._HOMES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'invert_everything'"):
        invmm_gate.invert_everything  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, invmm_gate; print(sorted({'torch', 'numpy', 'pydantic', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_configured_lint_rules_are_selected(root: Path) -> None:
    ruff = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert ruff["mccabe"]["max-complexity"] == 8
    assert {"C90", "TID", "D", "S"} <= set(ruff["select"])


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("measure.looking", "row_means"),
        ("diffusion.prediction", "epsilon_weight"),
        ("similarity.pixel", "unit_pixels"),
        ("diffusion.samplers", "prompts_of"),
        ("models.adapters.unconditional", "refuse_guidance"),
        ("models.adapters.unconditional", "LatentModel.decode"),
    ],
)
def test_the_tests_run_with_the_signatures_of_the_numerics_checked(module: str, function: str) -> None:
    checked = attrgetter(function)(importlib.import_module(f"invmm_gate.{module}"))
    with pytest.raises(TypeCheckError):
        checked(*["neither a tensor nor a model"] * checked.__wrapped__.__code__.co_argcount)


def test_no_path_to_remote_code_exists(root: Path) -> None:
    sources = [path.read_text() for path in (root / "invmm_gate").rglob("*.py")]
    assert not [text for text in sources if "trust_remote_code=" in text or "weights_only=False" in text]
