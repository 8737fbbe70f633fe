"""How many network evaluations the sequential sensitivity test saves on a trained checkpoint, at the same decisions.

    python benchmarks/early_fail.py --checks 200

Inverts images of the demo on its memorizing checkpoint and records every sensitivity test on the way: the distribution
at that step, the noises of the test, and what the sequential test decided. Each recorded test is then made again in
full. Prints a Markdown table; ends with 1 if any decision differs.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invmm_gate.core.protocols import CopyMetric, DiffusionModel
from invmm_gate.core.settings import PROFILES
from invmm_gate.measure import inversion
from invmm_gate.measure.inversion import Inverter
from invmm_gate.measure.sensitivity import TestCase, TestResult, run_tests
from invmm_gate.measure.slots import Task
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One sensitivity test on the way of an inversion, as the sequential test decided it."""

    case: TestCase
    result: TestResult


class Recorder:
    """Takes the place of `run_tests` in the inversion loop: tests sequentially, and keeps cases and results."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def __call__(
        self, model: DiffusionModel, metric: CopyMetric, cases: Sequence[TestCase], **options: Any
    ) -> tuple[TestResult, ...]:
        sequential = [replace(case, fewest=0) for case in cases]
        results = run_tests(model, metric, sequential, **options)
        self.checks += [Check(case, result) for case, result in zip(sequential, results, strict=True)]
        return results


class SampledRows:
    """Counts the rows that the network samples: those that the tests need, and those that fill up a call."""

    def __init__(self, network: nn.Module) -> None:
        self.rows = 0
        network.register_forward_pre_hook(self._count)

    def _count(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.rows += 0 if torch.is_grad_enabled() else inputs[0].shape[0]


def probe_images() -> dict[str, Tensor]:
    """Images planted 32 and 8 times, seen once and never seen, in [-1, 1]."""
    sys.path.insert(0, str(DEMO))
    draw = importlib.import_module("draw")
    numbers = (*draw.PLANTED_32, *draw.PLANTED_8, *draw.SINGLE[:4], *draw.NEVER_SEEN[:4])
    pixels = {str(number): torch.from_numpy(draw.draw_array(number).copy()) for number in numbers}
    return {name: image.permute(2, 0, 1).float() / 127.5 - 1 for name, image in pixels.items()}


def record(model: DiffusionModel, options: argparse.Namespace) -> list[Check]:
    """Invert the images, with another seed on each round, until there are checks enough."""
    images, recorder = probe_images(), Recorder()
    settings = replace(
        PROFILES["gate"]["pixel"],
        steps=options.steps,
        test_every=options.test_every,
        sampler_steps=options.sampler_steps,
        certified_share=None,  # the tests of eight alone
        certify_at="success",
    )
    tasks = [Task(probe=name, content=name, seed=seed) for seed in range(options.checks) for name in images]
    inversion.run_tests = recorder  # type: ignore[assignment]
    inverter = Inverter(
        model,
        PixelRmse(),
        settings,
        load_image=images.__getitem__,
        root_seed=0,
        slots=ROWS // settings.batch_size,
    )
    for _ in inverter.run(tasks):
        if len(recorder.checks) >= options.checks:
            break
    return recorder.checks[: options.checks]


def main() -> int:
    """Record, test in full, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--test-every", type=int, default=5)
    parser.add_argument("--sampler-steps", type=int, default=15)
    options = parser.parse_args()
    started = time.monotonic()
    model = load_model(inspect_checkpoint(DEMO / "models" / "memorizing"))
    sampled = SampledRows(model.network)  # type: ignore[attr-defined]
    checks = record(model, options)
    sampled_early, sampled.rows = sampled.rows, 0
    in_full = [replace(check.case, fewest=len(check.case.standard)) for check in checks]
    full = run_tests(model, PixelRmse(), in_full, rows=ROWS, sampler_steps=options.sampler_steps)
    same = sum(check.result.passed == result.passed for check, result in zip(checks, full, strict=True))
    print("| hits of 8 | checks | passed | evaluations in full | with early fail | saved |\n|---|---|---|---|---|---|")
    for label, hits in [("0", {0}), ("1 to 7", set(range(1, 8))), ("8", {8}), ("all", set(range(9)))]:
        chosen = [(check.result, result) for check, result in zip(checks, full, strict=True) if result.hits in hits]
        whole = sum(result.samples for _, result in chosen) * options.sampler_steps
        early = sum(result.samples for result, _ in chosen) * options.sampler_steps
        saved = f"{1 - early / whole:.0%}" if whole else "-"
        passed = sum(result.passed for result, _ in chosen)
        print(f"| {label} | {len(chosen)} | {passed} | {whole} | {early} | {saved} |")
    print(f"\nThe same decision in {same} of {len(checks)} checks; {time.monotonic() - started:.0f} s.")
    print(f"Sampled rows, those that fill up a call included: {sampled.rows} in full, {sampled_early} with early fail.")
    return 0 if same == len(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
