"""A git clone with the shipped dvc.yaml, the demo's models, five probes and a policy of few steps."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.stages.world import ROOT, policy_with

SHIPPED = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "constraints.txt", "dvc.yaml", "params.yaml")
CODE = ("invmm_gate", "policies", "reports/templates")
STAGES = ("probes", "gate", "validate", "measure", "confirm", "judge", "report", "verdict")
POLICY = policy_with(
    settings={"batch_size": 64, "steps": 4, "test_every": 2},
    confirm={"plain_sampling": {"trials": 16, "sampler_steps": 5, "confidence": 0.95, "probes": "all"}},
)
"""A batch as large as the rows of a call: one probe after the other, so that a run can be killed between two."""

PROBE_SET = """
import datetime, sys, tempfile
from pathlib import Path
from invmm_gate.core.options import NewProbes
from invmm_gate.probes.edit import add_probes, init_probe_set
from draw import draw

folder = Path(sys.argv[1])
init_probe_set(folder)
for group, numbers in (("duplicated", (1, 2)), ("sensitive", (16,)), ("control", (100_000, 100_001))):
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"p{number}.png" for number in numbers]
        for path, number in zip(paths, numbers):
            draw(number).save(path)
        new = NewProbes(group=group, caption="a private heron", added_on=datetime.date(2026, 11, 21))
        add_probes(folder, paths, new)
"""
"""Stands in for the demo's script: the same command, fewer probes."""


@dataclass(frozen=True)
class Ran:
    """How a command ended, and which stages DVC ran and skipped."""

    code: int
    text: str

    @property
    def stages(self) -> list[str]:
        return [line.split("'")[1] for line in self.text.splitlines() if line.startswith("Running stage '")]

    @property
    def skipped(self) -> list[str]:
        return [line.split("'")[1] for line in self.text.splitlines() if line.endswith("didn't change, skipping")]


@dataclass(frozen=True)
class Project:
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "pipeline" / "run"

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command with the environment's own tools first on PATH, as after `source .venv/bin/activate`."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "true",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site-cache"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *command: str) -> Ran:
        process = self.start(*command)
        text, _ = process.communicate()
        return Ran(process.returncode, text)

    def repro(self) -> Ran:
        return self.call("dvc", "repro")

    def changed(self) -> set[str]:
        """Stages that DVC would run."""
        lines = self.call("dvc", "status").text.splitlines()
        return {line.rstrip(":") for line in lines if line[:1].strip() and line.endswith(":")}

    def git(self, *arguments: str) -> str:
        done = self.call("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments)
        if done.code:
            raise AssertionError(done.text)
        return done.text

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it is")

    def params(self, **changes: object) -> None:
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def policy(self, **changes: Any) -> None:
        (self.folder / "small.yaml").write_text(yaml.safe_dump(POLICY | changes, sort_keys=False))

    def lines(self, name: str = "measurements.jsonl") -> list[dict[str, Any]]:
        path = self.run / name
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def files(self) -> dict[str, bytes]:
        """Every file of the run folder but the lock."""
        paths = (path for path in sorted(self.run.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
        return {path.relative_to(self.run).as_posix(): path.read_bytes() for path in paths}


def new_project(folder: Path, *, model: str) -> Project:
    project = Project(folder)
    demo = folder / "examples" / "demo"
    demo.mkdir(parents=True)
    for name in SHIPPED:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "examples" / "demo" / "models", demo / "models")
    shutil.copy(ROOT / "examples" / "demo" / "draw.py", demo)
    (demo / "probe_set.py").write_text(PROBE_SET)
    project.policy()
    project.params(model=model, policy="small.yaml")
    project.git("init", "--quiet", ".")
    project.commit()
    return project
