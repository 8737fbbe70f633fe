"""The demo's memorizing checkpoint with a few probes and a small policy: a whole check takes a few seconds."""

import contextlib
import copy
import datetime
import importlib.util
import io
import json
import os
import shutil
import signal
import warnings
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from onnx import TensorProto, helper

from invmm_gate.cli import run
from invmm_gate.core.options import NewProbes
from invmm_gate.core.progress import Silent
from invmm_gate.probes.edit import add_probes, init_probe_set
from invmm_gate.runs.stage_files import STAGES, has_ended, write_end

ROOT = Path(__file__).parents[2]
MEMORIZING = ROOT / "examples" / "demo" / "models" / "memorizing"
CAPTION = "canary caption of a private heron"
SOURCE = "canary-archive.example/originals"
PLANTED, SINGLE, CONTROLS = (1, 2), (16,), (100_000, 100_001)

POLICY: dict[str, Any] = {
    "name": "small",
    "version": 1,
    "measure": {
        "profile": "gate",
        "settings": {
            "steps": 20,
            "test_every": 10,
            "batch_size": 2,
            "learning_rate": 0.1,
            "sampler_steps": 5,
            "test_samples": 4,
            "certified_share": 0.5,
            "certifications": 3,
        },
    },
    "metric": [{"name": "pixel_rmse", "threshold": 0.1}],
    "confirm": {
        "plain_sampling": {"trials": 16, "sampler_steps": 5, "confidence": 0.95, "probes": "all"},
        "likelihood": {"draws": 10, "plain_draws": 16},
    },
    "rules": [{"rule": "invmm_below", "threshold": 0.5}, {"rule": "confirmed", "rate_limit": 0.0}],
    "coverage": {"min_probes": 1, "min_controls": 2},
}
"""Blocks: the planted images invert within a few steps, if at far higher scores than after a real inversion."""


def policy_with(**changes: Any) -> dict[str, Any]:
    """POLICY with top-level keys replaced; `settings` is merged into measure.settings."""
    policy = copy.deepcopy(POLICY)
    policy["measure"]["settings"] |= changes.pop("settings", {})
    return policy | changes


LENIENT = policy_with(name="lenient", rules=[{"rule": "invmm_below", "threshold": 0.001}])
"""Passes on the records that POLICY blocks."""


def _draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "examples" / "demo" / "draw.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("examples/demo/draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


draw = _draw().draw


@dataclass(frozen=True)
class Called:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The single line that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        if len(lines) != 1 or not self.err.endswith(lines[0] + "\n"):
            raise AssertionError(f"exactly one error line, at the end, was expected:\n{self.err}")
        return lines[0]


def call(*arguments: object) -> Called:
    """Run one command in this process, with the process put back as it was."""
    out, err = io.StringIO(), io.StringIO()
    umask, handler = os.umask(0o022), signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
    finally:
        os.umask(umask)
        signal.signal(signal.SIGTERM, handler)
    return Called(code, out.getvalue(), err.getvalue())


def note_again(run: Path) -> None:
    """The end records for the files as they lie there now, as a forger would write them."""
    for stage in STAGES:
        if has_ended(run, stage):
            write_end(run, stage)


@dataclass(frozen=True)
class World:
    """A working folder as a user has it: a checkpoint, a probe set and a policy."""

    folder: Path
    model: Path = MEMORIZING

    @property
    def probes(self) -> Path:
        return self.folder / "probes"

    @property
    def manifest(self) -> Path:
        return self.probes / "manifest.csv"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def policy(self, policy: dict[str, Any] | None = None, name: str = "small") -> Path:
        """The policy as a file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(policy or POLICY, sort_keys=False))
        return path

    def arguments(self, *, policy: Path | None = None) -> tuple[object, ...]:
        """`check` with everything named, and nothing tracked. With a seed, so that outcomes stay."""
        return ("check", "--seed", "0", *self.by_content(policy=policy)[1:])

    def by_content(self, *, policy: Path | None = None) -> tuple[object, ...]:
        """`check` as a user gives it: the seed comes from model, probe set and policy."""
        chosen = policy or self.policy()
        named = ("--model", self.model, "--policy", chosen, "--probes", self.probes, "--out", self.run)
        return ("check", *named, "--rows", "4", "--no-track")

    def check(self, *extra: object, policy: Path | None = None) -> Called:
        return call(*self.arguments(policy=policy), *extra)

    def copied_model(self) -> "World":
        """The same world with a checkpoint of its own, to be spoilt."""
        shutil.copytree(MEMORIZING, self.folder / "ckpt", dirs_exist_ok=True)
        return World(self.folder, self.folder / "ckpt")

    def copy(self, folder: Path) -> "World":
        shutil.copytree(self.folder, folder)
        return World(folder, folder / "ckpt" if (folder / "ckpt").exists() else self.model)

    def lines(self, name: str = "measurements.jsonl") -> list[dict[str, Any]]:
        path = self.run / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verdict(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "verdict.json").read_text()))


def new_world(
    folder: Path, *, planted: tuple[int, ...] = PLANTED, single: tuple[int, ...] = SINGLE, controls: int = 2
) -> World:
    """Probes with a caption and a source that must never be shown."""
    world = World(folder)
    folder.mkdir(parents=True, exist_ok=True)
    init_probe_set(world.probes)
    kinds = (("duplicated", planted), ("sensitive", single), ("control", range(100_000, 100_000 + controls)))
    for group, numbers in kinds:
        for number in numbers:
            add_picture(world, number, group)
    return world


class Network(torch.nn.Module):
    """What SSCD is to the gate: a network from images to features; as small as one can be."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def torchscript(path: Path) -> Path:
    """A TorchScript file as SSCD's authors publish one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own: SSCD's file is TorchScript all the same
        torch.jit.script(Network()).save(str(path))
    return path


DECLARED = {
    "name": "onnx_means", "size": 16, "smaller": "keep", "resize": "squash", "interpolation": "bilinear",
    "layout": "nchw", "channels": "rgb", "mean": None, "std": None, "smallest_side": 8,
}  # fmt: skip


def onnx_encoder(path: Path, *, factor: float = 1.0, channels: int = 3, **changes: object) -> Path:
    """An ONNX file of the means of patches of 4 pixels, less grey and times `factor`; its declaration beside it."""
    nodes = [
        helper.make_node("AveragePool", ["images"], ["means"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Sub", ["means", "grey"], ["signed"]),
        helper.make_node("Mul", ["signed", "factor"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["features"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["row", channels, "height", "width"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["row", "feature"])
    values = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("factor", factor), ("grey", 0.5))
    ]
    graph = helper.make_graph(nodes, "means", [images], [features], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    declared = DECLARED | {"sha256": sha256(path.read_bytes()).hexdigest()} | changes
    path.with_suffix(".yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
    return path


def add_picture(world: World, number: int, group: Any, *, size: int = 16, identifier: str = "") -> None:
    """One drawn picture as a probe, by default with its number as the id."""
    path = world.folder / f"{identifier or f'p{number}'}.png"
    draw(number, size=size).save(path)
    today = datetime.date(2026, 11, 21)
    add_probes(world.probes, [path], NewProbes(group=group, caption=CAPTION, source=SOURCE, added_on=today))
    path.unlink()


@dataclass
class Watching(Silent):
    """Keeps the notes, and calls `then` at each step of progress."""

    notes: list[str] = field(default_factory=list)
    stages: list[tuple[str, int, int]] = field(default_factory=list)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        self.stages.append((stage, total, done))

    def note(self, text: str) -> None:
        self.notes.append(text)
