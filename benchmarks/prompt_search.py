"""What the prompt search (GCG) finds on the small text-to-image model, by kind of image.

    python benchmarks/prompt_search.py --probes DIR

DIR is a probe set that `examples/text_to_image/probe_set.py` wrote. Prints a Markdown table: the prompt as a user would
type it, copies among fresh seeds with a Wilson interval, network forwards and seconds. A search that found nothing is
refuted within its budget, never "safe".
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

import torch

from invmm_gate import PixelRmse, inspect_checkpoint, load_model
from invmm_gate.confirm.gcg import PromptTarget, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.confirm.prompt_sampling import Attempts
from invmm_gate.core.records import Confirmation, Probe, ProbeSet
from invmm_gate.core.settings import GcgPlan
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.probes.images import load_pixels
from invmm_gate.probes.validate import validate_probe_set

MODEL: Final = Path(__file__).parents[1] / "examples/text_to_image/model"
KINDS: Final = ("planted_without_trigger", "ordinary", "never_seen")


def chosen(probe_set: ProbeSet, each: dict[str, int]) -> list[Probe]:
    kinds = defaultdict(list)
    for probe in probe_set.probes:
        if len(kinds[probe.category]) < each.get(probe.category, 0):
            kinds[probe.category].append(probe)
    return [probe for kind in KINDS for probe in kinds[kind]]


def search(model, probe_set: ProbeSet, probe: Probe, plan: GcgPlan, allowed: torch.Tensor, seed: int) -> Confirmation:
    height, width = model.image_size
    pixels = load_pixels(probe_set, probe, height=height, width=width)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
    metric = PixelRmse(0.1)
    fits = len(model.prompts.tokenize(probe.caption)) <= plan.tokens
    target = PromptTarget(
        probe=probe.id,
        image=image,
        references=(metric.embed(image[None]),),
        start=probe.caption if fits else "",
    )
    attempts = Attempts(sampler=GridSampler(model), prompts=model.prompts, metric=metric)
    generator = stream(seed, probe.sha256, "gcg")
    events = find_prompt(model, attempts, target, plan, generator=generator, allowed=allowed)
    return next(event.confirmation for event in events if isinstance(event, Confirmed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=Path, required=True)
    parser.add_argument("--planted", type=int, default=8, help="images planted without trigger")
    parser.add_argument("--ordinary", type=int, default=4)
    parser.add_argument("--never-seen", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    probe_set = validate_probe_set(options.probes, min_controls=0)
    each = dict(zip(KINDS, (options.planted, options.ordinary, options.never_seen), strict=True))
    model = load_model(inspect_checkpoint(MODEL))
    plan = GcgPlan(
        tokens=14, steps=options.steps, candidates=64, top_k=64, noises=16, first_noises=4, guidance_scales=(7.0,),
        sampler_steps=25, trials=64, rows=64,
    )  # fmt: skip
    allowed = typeable_ids(model.prompts)
    print("| image | result | copies of 64 fresh seeds | forwards | seconds | prompt |")
    print("|---|---|---|---|---|---|")
    for probe in chosen(probe_set, each):
        began = time.monotonic()
        found = search(model, probe_set, probe, plan, allowed, options.seed)
        interval = f"{found.interval.low:.1%} to {found.interval.high:.1%}"
        print(
            f"| {probe.id} | {found.status} | {found.hits} of {found.trials} ({interval}) | {found.evaluations:,} |"
            f" {time.monotonic() - began:.0f} | `{found.prompt}` |",
            flush=True,
        )


if __name__ == "__main__":
    main()
