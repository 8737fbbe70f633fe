"""What the checks before measuring cost: network forwards of one row (F), CPU seconds and memory of each; one thread.

python benchmarks/check_costs.py --model examples/demo/models/clean --probes probes --policy strict
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from invmm_gate.core.options import Options
from invmm_gate.models.load.load import load_model
from invmm_gate.models.load.observation import observe
from invmm_gate.models.load.reference import observed_by_diffusers
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.stages.preflight import prepare
from invmm_gate.stages.self_checks import CHECKS
from invmm_gate.stages.session import open_session

UNETS: Final = {"UNet2DModel", "UNet2DConditionModel"}


@contextmanager
def counted() -> Iterator[list[int]]:
    """The rows of each forward of any denoiser while the block runs, that of the positive control included."""
    rows: list[int] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if type(module).__name__ in UNETS:
            rows.append(arguments[0].shape[0])

    handle = register_module_forward_pre_hook(note)
    try:
        yield rows
    finally:
        handle.remove()


def row(name: str, forwards: object, began: float, *, peak: str = "") -> None:
    """One line of the table."""
    print(f"| {name} | {forwards} | {time.process_time() - began:.1f} | {peak} |", flush=True)


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--probes", type=Path, required=True)
    parser.add_argument("--policy", default="strict")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare(
            Options(model=options.model, policy=options.policy, probes=options.probes, out=Path(folder) / "run")
        )
    print("| check | F | CPU s | peak memory |")
    print("|---|---|---|---|")
    before = children_seconds()
    observed_by_diffusers(inputs.model)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"| diffusers loads and draws, in a child | as here | {children_seconds() - before:.1f} | {peak:.2f} GB |")
    began = time.process_time()
    model, denoiser = load_model(inputs.model), layout_of(inputs.model)[1].denoiser
    pipeline = model.released.pipeline  # type: ignore[union-attr]
    with counted() as rows:
        observe(pipeline, denoiser)
    row("the measured model is loaded, and drawn with likewise", sum(rows), began)
    session = open_session(inputs)
    checks: dict[str, Callable[..., object]] = dict(CHECKS)
    for name, check in checks.items():
        began = time.process_time()
        with counted() as rows:
            check(session)
        row(name, sum(rows), began)


if __name__ == "__main__":
    main()
