"""Milliseconds a row of one network call, forward and forward with backward to the input, by rows and memory layout.

python benchmarks/network_cost.py --threads 2 [--model FOLDER]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from invmm_gate import DiffusionModel, inspect_checkpoint, load_model

DEMO = Path(__file__).parents[1] / "examples/demo/models/memorizing"
REPEATS = 5


def milliseconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * median(times)


def forward(model: DiffusionModel, rows: int) -> Callable[[], object]:
    x_t, level = torch.randn(rows, *model.latent_shape), model.schedule.at(torch.full((rows,), 500))

    def run() -> None:
        with torch.no_grad():
            model.estimate_x_0(x_t, level)

    return run


def both(model: DiffusionModel, rows: int) -> Callable[[], object]:
    level = model.schedule.at(torch.full((rows,), 500))
    x_t = torch.randn(rows, *model.latent_shape, requires_grad=True)
    return lambda: torch.autograd.grad(model.estimate_x_0(x_t, level).square().sum(), x_t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded, plain = (load_model(inspect_checkpoint(options.model)) for _ in range(2))
    plain.network.to(memory_format=torch.contiguous_format)
    print("| rows | forward | forward + backward to the input | forward, channels last | both, channels last |")
    print("|---|---|---|---|---|")
    for rows in (8, 16, 32, 64, 128):
        # Side by side in one loop, so that other work on the machine meets all columns alike.
        figures = [milliseconds(work(model, rows)) / rows for model in (plain, loaded) for work in (forward, both)]
        print(f"| {rows} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
