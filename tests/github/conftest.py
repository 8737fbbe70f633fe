"""The demo's two checkpoints gated through the action's steps, for real, and a replay of such a run."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.github import runner_files
from tests.github.run_action import ACTION, Job, Step, run_action
from tests.github.services import Services
from tests.stages.world import new_world, policy_with

ROOT = Path(__file__).parents[2]
GATE = f"'{sys.executable}' -m invmm_gate"
HOSTILE_NAME = "memorizing $(touch pwned) ::error::forged"
"""The memorizing checkpoint's folder, so that a whole run has to cope with it."""


@dataclass(frozen=True)
class Checkout:
    """A user's repository on a runner, with a probe set, a policy and both checkpoints."""

    folder: Path

    def run(self, *, action: Path = ACTION, **given: str) -> Job:
        """The action with the small policy, four rows and details; underscores in names are dashes."""
        artifacts = self.folder.parent / "artifacts"
        artifacts.mkdir(exist_ok=True)
        services = Services(artifacts, refuse_sarif=given.pop("refuse_sarif", "") == "true")
        cancel_once = given.pop("cancel_once", "")
        inputs = {"policy": "small.yaml", "rows": "4", "command": GATE, "details": "true"}
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GITHUB_TOKEN": "canary-of-a-token"}
        scratch = Path(tempfile.mkdtemp(dir=self.folder.parent))
        return run_action(
            inputs,
            workspace=self.folder,
            scratch=scratch,
            services=services,
            action=action,
            environment=environment,
            cancel_once=cancel_once,
        )

    @property
    def artifacts(self) -> list[Path]:
        return sorted((self.folder.parent / "artifacts").iterdir())


def new_checkout(folder: Path) -> Checkout:
    world = new_world(folder, single=())
    world.policy(policy_with(settings={"steps": 10, "test_every": 5}))
    world.policy(policy_with(settings={"steps": 2000, "test_every": 500}), "long")
    return Checkout(folder)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Not to be changed."""
    checkout = new_checkout(tmp_path_factory.mktemp("pristine") / "checkout")
    for kind, name in (("memorizing", HOSTILE_NAME), ("clean", "clean")):
        shutil.copytree(ROOT / "examples" / "demo" / "models" / kind, checkout.folder / "checkpoints" / name)
    return checkout


@pytest.fixture
def checkout(pristine: Checkout, tmp_path: Path) -> Checkout:
    """A checkout of the test's own."""
    shutil.copytree(pristine.folder, tmp_path / "checkout")
    return Checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def blocked(pristine: Checkout) -> Job:
    """The memorizing checkpoint's job. Not to be changed."""
    return pristine.run(model=f"checkpoints/{HOSTILE_NAME}", upload_sarif="true")


@pytest.fixture(scope="session")
def passed(pristine: Checkout) -> Job:
    """The clean checkpoint's job. Not to be changed."""
    return pristine.run(model="checkpoints/clean", details="false")


@pytest.fixture
def recorded(blocked: Job, tmp_path: Path) -> Path:
    """A copy of the blocked run's folder, to be edited and replayed."""
    return Path(shutil.copytree(blocked.outputs["run-path"], tmp_path / "recorded"))


REPLAY = """
import json, os, shutil, sys
exit_code, again, recorded, says, command = sys.argv[1:6]
if command == "report":
    sys.exit(0)
if command == "verdict":
    if again:
        print("error: judged again, its records give another decision", file=sys.stderr)
    with open(f"{recorded}/verdict.json") as file:
        print(json.dumps({"verdict": json.load(file)}))
    sys.exit(int(again or exit_code))
out = next(argument.removeprefix("--out=") for argument in sys.argv if argument.startswith("--out="))
if recorded:
    shutil.copytree(recorded, out)
print(says)
print("arguments:", json.dumps(sys.argv[5:]))
print("environment:", *sorted(os.environ))
sys.exit(int(exit_code))
"""


@pytest.fixture
def replay(checkout: Checkout, tmp_path: Path) -> Callable[..., Job]:
    """The action with a gate that ends as told, `again` where it judges again, and leaves the given run folder."""
    script = tmp_path / "replay.py"
    script.write_text(REPLAY)

    def run(recorded: Path | None, exit_code: int = 10, *, says: str = "", again: str = "", **given: str) -> Job:
        program = f"'{sys.executable}' '{script}' {exit_code} '{again}' '{recorded or ''}' '{says}'"
        return checkout.run(command=program, **({"model": "checkpoints/clean"} | given))

    return run


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Step]:
    """The action's second step by itself, on a run folder; `command` is a gate that judges as told by default."""
    script = tmp_path / "judges.py"
    script.write_text(REPLAY)

    def run(recorded: Path | None, exit_code: int, *, says: str = "", **given: str) -> Step:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / "gate.log").write_text(f"{says}\n")
        if recorded:
            (folder / "run").symlink_to(recorded)
        output, summary = folder / "output", folder / "summary"
        for file in (output, summary):
            file.touch()
        given = {"command": f"'{sys.executable}' '{script}' {exit_code} '' '{recorded or ''}' ''"} | given
        environment = {f"INPUT_{name.upper()}": value for name, value in given.items()} | {
            "PYTHONPATH": str(ROOT),
            "EXIT_CODE": str(exit_code),
            "FOLDER": str(folder),
            "GITHUB_WORKSPACE": str(tmp_path),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
        }
        command = [sys.executable, "-B", str(ACTION / "publish.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        outputs = runner_files.outputs(output.read_text())
        return Step("publish", log=done.stdout, summary=summary.read_text(), outputs=outputs)

    return run
