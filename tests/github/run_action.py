"""Runs a composite action's steps on this machine as GitHub's runner does, with its files as files.

    python -m tests.github.run_action --workspace . --artifacts out --input model=runs/ckpt --input command=invmm-gate

Prints what a workflow would see, and ends with 0 if the job succeeded.
"""

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.github import expressions, runner_files
from tests.github.pinned import PINNED
from tests.github.services import ServiceError, Services

ACTION: Final = Path(__file__).parents[2] / ".github" / "actions" / "invmm-gate"
BASH: Final = ("bash", "--noprofile", "--norc", "-eo", "pipefail")


@dataclass
class Step:
    """One step that ran or was skipped."""

    name: str
    id: str = ""
    outcome: str = "skipped"
    log: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    """What a step that uses another action passed on."""

    @property
    def commands(self) -> list[runner_files.Command]:
        return runner_files.commands(self.log)


@dataclass
class Job:
    """The state of a job whose only step is the action."""

    action: Path
    workspace: Path
    inputs: dict[str, str]
    services: Services
    environment: dict[str, str]
    """What the job's environment holds beside the runner's own variables."""
    scratch: Path
    cancel_once: str = ""
    """A glob in the runner's temporary folder: once a file matches, the step that runs is told to end."""
    steps: list[Step] = field(default_factory=list)
    failed: bool = False
    cancelled: bool = False

    @functools.cached_property
    def definition(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.action / "action.yml").read_text()))

    @property
    def outputs(self) -> dict[str, str]:
        """The action's outputs, as the workflow reads them."""
        return {
            name: expressions.filled(output["value"], self.lookup)
            for name, output in self.definition["outputs"].items()
        }

    @property
    def summary(self) -> str:
        return "".join(step.summary for step in self.steps)

    @property
    def commands(self) -> list[runner_files.Command]:
        return [command for step in self.steps for command in step.commands]

    @property
    def log(self) -> str:
        return "".join(step.log for step in self.steps)

    def step(self, identifier: str) -> Step:
        return next(step for step in self.steps if identifier in (step.id, step.name))

    def lookup(self, name: str) -> expressions.Value:
        """`inputs.X` and `steps.X.outputs.Y`; an output that was not written is empty."""
        context, _, rest = name.partition(".")
        if context == "inputs" and rest in self.inputs:
            return self.inputs[rest]
        parts = rest.split(".")
        if context == "steps" and len(parts) == 3 and parts[1] == "outputs":
            known = {step["id"] for step in self.definition["runs"]["steps"] if "id" in step}
            if parts[0] in known:
                return next((step.outputs.get(parts[2], "") for step in self.steps if step.id == parts[0]), "")
        raise expressions.ExpressionError(f"{name} is not known here")


def run_action(
    inputs: dict[str, str],
    *,
    workspace: Path,
    scratch: Path,
    services: Services,
    action: Path = ACTION,
    environment: dict[str, str] | None = None,
    cancel_once: str = "",
) -> Job:
    """Run every step, with the runner's own files in `scratch`; the job afterwards."""
    job = Job(action, workspace, {}, services, environment or {}, scratch, cancel_once)
    job.inputs = with_defaults(job.definition["inputs"], inputs)
    for written in job.definition["runs"]["steps"]:
        step = Step(written.get("name", ""), written.get("id", ""))
        status = {
            "always": True,
            "cancelled": job.cancelled,
            "success": not (job.failed or job.cancelled),
            "failure": job.failed and not job.cancelled,
        }
        if expressions.condition(written.get("if"), job.lookup, status):
            _execute(step, written, job)
        job.steps.append(step)
        job.failed |= step.outcome == "failure" and not written.get("continue-on-error", False)
    return job


def with_defaults(declared: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """GitHub warns of an input that is not declared; here it is an error, as is a required one that is missing."""
    unknown = given.keys() - declared.keys()
    missing = {name for name, item in declared.items() if item.get("required") and name not in given}
    if unknown or missing:
        raise ValueError(f"unknown inputs {sorted(unknown)}, missing inputs {sorted(missing)}")
    return {name: given.get(name, str(item.get("default", ""))) for name, item in declared.items()}


def _execute(step: Step, written: dict[str, Any], job: Job) -> None:
    if "uses" in written:
        _use(step, written, job)
    else:
        _run(step, written, job)


def _use(step: Step, written: dict[str, Any], job: Job) -> None:
    name, _, commit = written["uses"].partition("@")
    step.given = {key: expressions.filled(str(value), job.lookup) for key, value in written.get("with", {}).items()}
    if PINNED[name].commit != commit or step.given.keys() - PINNED[name].inputs:
        raise ValueError(f"{written['uses']} with {sorted(step.given)}")
    try:
        step.outputs = job.services.use(name, step.given)
        step.outcome = "success"
    except ServiceError as error:
        step.log, step.outcome = f"::error::{error}\n", "failure"


def _run(step: Step, written: dict[str, Any], job: Job) -> None:
    """The script as GitHub starts it: a file, `bash -eo pipefail`, inputs only where the step's env names them."""
    if written["shell"] != "bash":
        raise ValueError(f"shell {written['shell']}")
    place = Path(tempfile.mkdtemp(dir=job.scratch))
    script, output, summary, temporary = place / "script.sh", place / "output", place / "summary", job.scratch / "temp"
    script.write_text(expressions.filled(written["run"], job.lookup))
    for file in (output, summary):
        file.touch()
    temporary.mkdir(exist_ok=True)
    named = {key: expressions.filled(str(value), job.lookup) for key, value in written.get("env", {}).items()}
    runner = {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTION_PATH": str(job.action),
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(job.workspace),
        "RUNNER_TEMP": str(temporary),
    }
    machine = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    log = place / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*BASH, str(script)],
            cwd=job.workspace,
            env=machine | job.environment | runner | named,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        if job.cancel_once and not job.cancelled:
            job.cancelled = _cancelled(process, temporary, job.cancel_once)
        code = process.wait()
    step.log = log.read_bytes().decode("utf-8", errors="replace")
    step.outcome = "failure" if code else "success"
    step.outputs = runner_files.outputs(output.read_text(encoding="utf-8"))
    step.summary = runner_files.summary(summary.read_bytes())


def _cancelled(process: subprocess.Popen[bytes], folder: Path, glob: str) -> bool:
    """Whether the step was told to end, as a runner tells it when a job is cancelled or out of time."""
    while process.poll() is None:
        if any(folder.glob(glob)):
            process.send_signal(signal.SIGINT)
            return True
        time.sleep(0.05)  # polls
    return any(folder.glob(glob))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--artifacts", type=Path, required=True, help="Where uploaded files go.")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    options.artifacts.mkdir(parents=True, exist_ok=True)
    given = dict(pair.split("=", 1) for pair in options.input)
    artifacts, scratch = options.artifacts.resolve(), Path(tempfile.mkdtemp(prefix="runner-"))
    job = run_action(
        given, workspace=options.workspace.resolve(), scratch=scratch, services=Services(artifacts=artifacts)
    )
    shown = {
        "conclusion": "failure" if job.failed else "success",
        "steps": {step.name: step.outcome for step in job.steps},
        "outputs": job.outputs,
        "annotations": [vars(command) for command in job.commands],
    }
    print(job.log, job.summary, json.dumps(shown, indent=2), sep="\n")
    return int(job.failed)


if __name__ == "__main__":
    sys.exit(main())
