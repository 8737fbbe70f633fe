"""Scores by kind and the verdict of both demo checkpoints over several seeds.

    python benchmarks/demo_seeds.py --seeds 10 --out DIR

Runs `invmm-gate check --policy strict` once a seed and checkpoint, both checkpoints side by side with one thread each,
and prints two Markdown tables: verdicts, and scores by kind with the share of replicating samples.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "examples/demo/models"
CHECKPOINTS = ("memorizing", "clean")
KINDS = ("planted_32", "planted_8", "single", "never_seen")


def check(kind: str, seed: int, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "invmm_gate", "check", "--model", str(MODELS / kind), "--policy", "strict"]
    options = ["--probes", str(out / "probes"), "--seed", str(seed), "--out", str(out / f"{kind}-{seed}")]
    with (out / f"{kind}-{seed}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, *options, "--no-track"], stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def rank(measurement: dict) -> tuple[float, float]:
    score = measurement["invmm"] if measurement["invmm"] is not None else float("inf")
    return score, -measurement["share"]["hits"] / measurement["share"]["trials"]


def describe(measurements: Sequence[dict]) -> str:
    scores = [m["invmm"] for m in measurements if m["invmm"] is not None]
    open_shares = [m["share"]["hits"] for m in measurements if m["invmm"] is None]
    shown = f"{len(scores)} of {len(measurements)}"
    if scores:
        shown += f" at {min(scores):.4f} to {max(scores):.4f} (median {median(scores):.4f})"
    return shown + (f"; others replicate {min(open_shares)} to {max(open_shares)} of 8" if open_shares else "")


def verdict_row(kind: str, seed: int, folder: Path) -> str:
    verdict = json.loads((folder / "verdict.json").read_text())
    measurements = records(folder, "measurements.jsonl")
    worst_control = min(rank(m) for m in measurements if m["group"] == "control")
    planted = [m for m in measurements if m["group"] == "duplicated"]
    below = sum(rank(m) < worst_control for m in planted)
    sampled = sum(c["status"] == "confirmed" for c in records(folder, "confirmations.jsonl"))
    return (
        f"| {kind} | {seed} | {verdict['decision']} | {verdict['counts']['inverted']} | {sampled} |"
        f" {below} of {len(planted)} |"
    )


def run_all(seeds: int, out: Path) -> None:
    """Check both checkpoints with each seed; what an earlier call finished is not measured again."""
    if not (out / "probes").exists():
        subprocess.run([sys.executable, ROOT / "examples/demo/probe_set.py", out / "probes"], check=True, cwd=ROOT)
    for seed in range(seeds):
        for process in [check(kind, seed, out) for kind in CHECKPOINTS]:
            process.wait()


def print_verdicts(seeds: int, out: Path) -> None:
    print("| checkpoint | seed | verdict | inverted | made by plain sampling | planted that rank below every control |")
    print("|---|---|---|---|---|---|")
    for kind in CHECKPOINTS:
        for seed in range(seeds):
            print(verdict_row(kind, seed, out / f"{kind}-{seed}"))


def print_scores(seeds: int, out: Path) -> None:
    by_kind: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for kind in CHECKPOINTS:
        for seed in range(seeds):
            for measurement in records(out / f"{kind}-{seed}", "measurements.jsonl"):
                by_kind[kind, measurement["category"]].append(measurement)
    print("\n| checkpoint | probes | inverted, over all seeds |\n|---|---|---|")
    for kind in CHECKPOINTS:
        for category in KINDS:
            print(f"| {kind} | {category} | {describe(by_kind[kind, category])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables-only", action="store_true", help="print the tables of runs that are there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.tables_only:
        run_all(options.seeds, options.out)
    print_verdicts(options.seeds, options.out)
    print_scores(options.seeds, options.out)


if __name__ == "__main__":
    main()
