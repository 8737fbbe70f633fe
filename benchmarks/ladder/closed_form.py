"""How often the bounds hold where the likelihood is known exactly, and how often a share is certified wrongly.

    python benchmarks/ladder/closed_form.py

R is a half-space of the noises: what lies beyond an edge along one direction. A run has 2,048 plain samples and 128
draws around a point near the edge, as many of each of five distributions, as `confirm` draws them. Writes
records/coverage.csv and records/certified.csv beside this file; one thread, a minute.
"""

import csv
from collections.abc import Sequence
from itertools import product
from math import log
from typing import Final

import numpy as np
import torch
from criteria import RECORDS
from scipy.special import ndtri_exp

from invmm_gate.measure.likelihood import WeighedDraws, draws_to_certify, log_lower_bound
from invmm_gate.measure.proposals import around

RUNS: Final = 1_000
PLAIN: Final = 2048
DRAWS: Final = 128
ALPHA: Final = 0.05
LIKELIHOODS: Final = (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9)
BEYOND: Final = 0.3
"""How far beyond the edge the inverted distribution lies."""


def one_run(edge: float, generator: torch.Generator) -> WeighedDraws:
    """The weights of a run's copies; only the direction of R matters, so that noises have one dimension."""
    mixture = around(torch.full((1, 1, 1), edge + BEYOND), torch.zeros(1, 1, 1), draws=DRAWS, plain=PLAIN)
    standard = torch.randn(PLAIN + DRAWS, 1, 1, 1, generator=generator)
    noises = torch.cat([standard[:PLAIN], mixture.noises(standard[PLAIN:])])
    copied = noises[noises[:, 0, 0, 0] > edge]
    return WeighedDraws(draws=PLAIN + DRAWS, log_weights=tuple(mixture.log_weights(copied).tolist()))


def coverage() -> list[tuple[object, ...]]:
    """A row for each likelihood: bounds above it, their median, estimates within a factor of 3, their mean."""
    rows = []
    for p in LIKELIHOODS:
        generator = torch.Generator().manual_seed(20_261_129)
        found = [one_run(float(-ndtri_exp(log(p))), generator) for _ in range(RUNS)]
        bounds = np.exp([log_lower_bound(each, ALPHA) for each in found])
        estimates = np.exp([each.log_estimate for each in found])
        near = int(((estimates > p / 3) & (estimates < 3 * p)).sum())
        middle, mean = float(np.median(bounds)) / p, float(estimates.mean()) / p
        rows.append((f"{p:g}", RUNS, int((bounds > p).sum()), f"{middle:.3f}", near, f"{mean:.3f}"))
    return rows


def certified() -> list[tuple[object, ...]]:
    """A row for each number of attempts and allowed misses: how often a share of 0.9 is certified to be above 0.95.

    The same of a share of 0.95 itself, which is the worst case: there the error that is allowed is nearly used.
    """
    random, rows = np.random.default_rng(4), []
    for attempts, misses in product((1, 4, 40), (0, 3)):
        needed = draws_to_certify(0.95, ALPHA / attempts, misses=misses)
        wrong = [sum(_passes(random, share, needed, attempts) for _ in range(10 * RUNS)) for share in (0.9, 0.95)]
        rows.append((attempts, misses, " or ".join(map(str, needed)), 10 * RUNS, *wrong))
    return rows


def _passes(random: np.random.Generator, share: float, needed: Sequence[int], attempts: int) -> bool:
    """Whether one of the attempts has few enough misses at one of its looks."""
    missed = (random.random((attempts, needed[-1])) >= share).cumsum(axis=1)
    return any((missed[:, draws - 1] <= allowed).any() for allowed, draws in enumerate(needed))


def write(name: str, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """records/NAME.csv."""
    RECORDS.mkdir(exist_ok=True)
    with (RECORDS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def main() -> None:
    """Both records."""
    torch.set_num_threads(1)
    head = ("likelihood", "runs", "bounds_above", "median_bound_over_p", "within_factor_3", "mean_estimate_over_p")
    write("coverage", head, coverage())
    write("certified", ("attempts", "misses", "draws", "runs", "of_09", "of_095"), certified())
    print(f"{RECORDS}/coverage.csv, {RECORDS}/certified.csv")


if __name__ == "__main__":
    main()
