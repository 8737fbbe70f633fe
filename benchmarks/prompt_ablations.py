"""The ablations of the paper's section 9 on the small text-to-image model, one command each.

    python benchmarks/prompt_ablations.py temperature --probes DIR
    python benchmarks/prompt_ablations.py guidance --probes DIR
    python benchmarks/prompt_ablations.py objective --probes DIR
    python benchmarks/prompt_ablations.py weight --probes DIR

DIR is a probe set that `examples/text_to_image/probe_set.py` wrote. Prints a Markdown table: per setting and kind of
image how many were inverted, at what score, how near the closest sample of the last test came (RMSE, a copy is at most
0.1), the denoising error at the end and the entropy of the prompt. The prompt-only settings are those of section 9.2:
learning rate 0.2, noise fixed at N(0, I).
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from invmm_gate import PROFILES, Inversion, InversionSettings, Inverter, PixelRmse, inspect_checkpoint, load_model
from invmm_gate.core.records import Probe, ProbeSet
from invmm_gate.measure.trials import tasks_for
from invmm_gate.probes.images import load_pixels
from invmm_gate.probes.validate import validate_probe_set

MODEL: Final = Path(__file__).parents[1] / "examples/text_to_image/model"
KINDS: Final = ("planted_with_caption", "planted_without_trigger", "ordinary")
PROMPT_ONLY: Final = {"prompt": "prompt_only", "learning_rate": 0.2}
ABLATIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "temperature": {
        f"tau {tau:g}{', hard tests' if hard else ''}": {**PROMPT_ONLY, "temperature": tau, "hard_tests": hard}
        for tau in (0.1, 0.5, 1.0, 2.0)
        for hard in (False, True)
    },
    "guidance": {f"scale {scale}": {**PROMPT_ONLY, "guidance_scales": (float(scale),)} for scale in range(8)},
    "objective": {name: {**PROMPT_ONLY, "objective": name} for name in ("x_0", "epsilon")},
    "weight": {
        "prompt only": PROMPT_ONLY,
        "joint, lambda 0": {"prompt": "joint", "weight_rule": "fixed", "initial_weight": 0.0},
        "joint, lambda 1": {"prompt": "joint", "weight_rule": "fixed", "initial_weight": 1.0},
        "joint, adaptive": {"prompt": "joint"},
    },
}


def invert(probe_set: ProbeSet, probes: Sequence[Probe], settings: InversionSettings, seed: int) -> list[Inversion]:
    model = load_model(inspect_checkpoint(MODEL))
    height, width = model.image_size
    by_id = {probe.id: probe for probe in probes}

    def image(name: str) -> torch.Tensor:
        pixels = load_pixels(probe_set, by_id[name], height=height, width=width)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1

    inverter = Inverter(
        model, PixelRmse(0.1), settings, load_image=image, load_caption=lambda name: by_id[name].caption,
        root_seed=seed, slots=8,
    )  # fmt: skip
    return [event for event in inverter.run(tasks_for(probes, settings)) if isinstance(event, Inversion)]


def row(name: str, kind: str, found: Sequence[Inversion]) -> str:
    trials = [inversion.trial for inversion in found]
    scores = [trial.invmm for trial in trials if trial.invmm is not None]
    last = [trial.curve[-1] for trial in trials]
    near = median(point.best_value for point in last if point.best_value is not None)
    error, entropy = (
        median(point.denoising_error for point in last),
        median(point.prompt_entropy or 0.0 for point in last),
    )
    score = f"{median(scores):.4f}" if scores else "none"
    return f"| {name} | {kind} | {len(scores)} of {len(trials)} | {score} | {near:.3f} | {error:.3f} | {entropy:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablation", choices=ABLATIONS)
    parser.add_argument("--probes", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--each", type=int, default=4, help="images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    probe_set = validate_probe_set(options.probes, min_controls=0)
    kinds = defaultdict(list)
    for probe in probe_set.probes:
        if probe.category in KINDS and len(kinds[probe.category]) < options.each:
            kinds[probe.category].append(probe)
    base = replace(
        PROFILES["gate"]["stable_diffusion"], steps=options.steps, batch_size=8, sampler_steps=25,
        guidance_scales=(1.0, 7.0), test_at_start=False,
    )  # fmt: skip
    print("| setting | kind | inverted | median score | closest sample | denoising error | entropy |")
    print("|---|---|---|---|---|---|---|")
    for name, changes in ABLATIONS[options.ablation].items():
        chosen = [probe for kind in KINDS for probe in kinds[kind]]
        found = {each.task.probe: each for each in invert(probe_set, chosen, replace(base, **changes), options.seed)}
        for kind in KINDS:
            print(row(name, kind.replace("_", " "), [found[probe.id] for probe in kinds[kind]]), flush=True)


if __name__ == "__main__":
    main()
