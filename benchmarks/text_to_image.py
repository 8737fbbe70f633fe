"""Scores by kind of the small text-to-image model, under captions and under joint inversion, over several seeds.

    python benchmarks/text_to_image.py --seeds 3 --out DIR

Runs `invmm-gate measure` once a mode and seed, two at a time with one thread each, and prints a Markdown table. Steps
and batch are less than those of profile `gate`, so that it ends within the hour on two cores; --steps changes them.
A run that is there is not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import yaml

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/text_to_image"
KINDS = ("planted_with_caption", "planted_without_trigger", "ordinary", "never_seen")
MODES = ("caption", "joint")


def policy(mode: str, steps: int, out: Path) -> Path:
    content = yaml.safe_load((ROOT / "policies/strict.yaml").read_text())
    content["name"] = f"strict-{mode}"
    content["measure"]["settings"] = {
        "prompt": mode, "steps": steps, "batch_size": 4, "sampler_steps": 25, "guidance_scales": [1.0, 7.0],
    }  # fmt: skip
    path = out / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def measure(mode: str, seed: int, chosen: Path, out: Path) -> Path:
    folder = out / f"{mode}-{seed}"
    command = [sys.executable, "-m", "invmm_gate", "measure", "--model", str(EXAMPLE / "model"), "--policy"]
    options = [str(chosen), "--probes", str(out / "probes"), "--seed", str(seed), "--out", str(folder)]
    with (out / f"{mode}-{seed}.log").open("wb") as log:
        subprocess.run(
            [*command, *options], stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True
        )
    return folder


def describe(measurements: Sequence[dict]) -> str:
    scores = [found["invmm"] for found in measurements if found["invmm"] is not None]
    shares = sorted(replicating(found) for found in measurements if found["invmm"] is None)
    text = f"{len(scores)} of {len(measurements)}"
    if scores:
        text += f" at {min(scores):.4f} to {max(scores):.4f} (median {median(scores):.4f})"
    return text + (f"; others replicate {shares[0]:.0%} to {shares[-1]:.0%} of the samples" if shares else "")


def replicating(measurement: dict) -> float:
    """The share of a probe that was not inverted: of the fresh draws, if there were any, as its tests chose it."""
    (trial,) = measurement["trials"]
    share = trial["confirmation"] or trial["share"]
    return share["hits"] / share["trials"]


def print_table(folders: dict[tuple[str, int], Path]) -> None:
    print("| mode | seed | " + " | ".join(kind.replace("_", " ") for kind in KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS))
    for (mode, seed), folder in folders.items():
        by_kind = defaultdict(list)
        for line in (folder / "measurements.jsonl").read_text().splitlines():
            found = json.loads(line)
            by_kind[found["category"]].append(found)
        print(f"| {mode} | {seed} | " + " | ".join(describe(by_kind[kind]) for kind in KINDS) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "probes").exists():
        subprocess.run([sys.executable, str(EXAMPLE / "probe_set.py"), str(options.out / "probes")], check=True)
    policies = {mode: policy(mode, options.steps, options.out) for mode in MODES}
    with ThreadPoolExecutor(2) as pool:
        runs = {
            (mode, seed): pool.submit(measure, mode, seed, policies[mode], options.out)
            for seed in range(options.seeds)
            for mode in MODES
        }
        print_table({key: run.result() for key, run in runs.items()})


if __name__ == "__main__":
    main()
