"""Commands that need no model import no model: neither torch nor diffusers nor MLflow, and `--help` nearly nothing."""

import json
import os
import resource
import subprocess
import sys

import pytest

from tests.stages.world import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
DEVICE = {"torch", "diffusers", "transformers", "mlflow"}
TABLES = {"great_expectations", "pandas"}
HEAVY = DEVICE | TABLES | {"scipy", "numpy", "PIL", "jinja2", "yaml"}
PROGRAM = """
import json, sys
from invmm_gate.cli import run
code = run(json.loads(sys.argv[1]))
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def imported_by(*arguments: object) -> tuple[int, set[str]]:
    """The exit code and the top-level packages that a fresh process had imported at its end."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([str(argument) for argument in arguments])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    found = json.loads(done.stderr.splitlines()[-1])
    return found["code"], {module.split(".")[0] for module in found["modules"]}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("check", "--help"), ("version",), ("environment",), ("probes", "add", "--help")]
)
def test_help_and_version_import_none_of_the_heavy_packages(arguments):
    code, modules = imported_by(*arguments)
    assert code == 0
    assert modules & HEAVY == set()


@pytest.mark.parametrize("arguments", [("policy", "lint", "strict"), ("policy", "show", "strict")])
def test_looking_at_a_policy_imports_no_model(arguments):
    code, modules = imported_by(*arguments)
    assert code == 0
    assert modules & (DEVICE | TABLES) == set()


def test_linting_a_policy_against_a_probe_set_imports_no_model(pristine):
    _, modules = imported_by("policy", "lint", "strict", "--probes", pristine.probes)
    assert modules & (DEVICE | TABLES) == set()


def test_validating_a_probe_set_imports_no_model(pristine):
    code, modules = imported_by("probes", "validate", pristine.probes)
    assert code == 0
    assert modules & DEVICE == set()
    assert modules >= TABLES, "its expectations decide, and this command alone asks them"


def test_judging_and_reporting_import_no_model(finished):
    code, modules = imported_by("judge", finished.run, "--policy", finished.policy())
    assert code == 10
    assert modules & (DEVICE | TABLES) == set()
    code, modules = imported_by("report", finished.run, "--reveal")
    assert code == 0
    assert modules & (DEVICE | TABLES) == set()


def test_bad_input_is_refused_before_torch_is_imported(pristine, tmp_path):
    spoilt = pristine.copy(tmp_path / "spoilt").copied_model()
    (spoilt.model / "unet" / "weights.bin").write_bytes(b"\x80\x04.")
    code, modules = imported_by(*spoilt.arguments())
    assert code == 2
    assert modules & (DEVICE | TABLES) == set()


def test_a_check_of_a_probe_set_with_a_fault_needs_no_great_expectations(pristine, tmp_path):
    spoilt = pristine.copy(tmp_path / "spoilt")
    spoilt.manifest.write_text(spoilt.manifest.read_text().replace(",sensitive,", ",secret,", 1))
    code, modules = imported_by(*spoilt.arguments())
    assert code == 2
    assert modules & (DEVICE | TABLES) == set()


def test_help_takes_less_than_a_third_of_a_second_of_cpu():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [sys.executable, "-m", "invmm_gate", "--help"]
        subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    assert min(seconds() for _ in range(5)) < 0.3, "the best of five: other processes may be busy"
