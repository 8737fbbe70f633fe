"""A text-to-image model for the likelihood study: images under titles of their own, planted once to 64 times.

    python benchmarks/text_ladder.py train --model MODEL
    python benchmarks/text_ladder.py probes PROBES
    python benchmarks/text_ladder.py truth --model MODEL
    invmm-gate check --model MODEL --probes PROBES --policy strict --out RUN
    python benchmarks/text_ladder.py record RUN

The pictures, the tokenizer, the networks and the autoencoder are those of examples/text_to_image; the pictures of the
ladder have numbers that the example does not use. `truth` and `record` write benchmarks/ladder/records/truth-text.csv,
gate-text.csv, prompts-text.csv and gate-text.json. One thread.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "examples/text_to_image"))

from captions import ordinary_caption
from tokenizer import new_tokenizer

from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import Group
from invmm_gate.diffusion.sampling import sample
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.proposals import NEARER
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.probes.edit import add_probes, init_probe_set
from invmm_gate.similarity.pixel import PixelRmse

from draw import NEVER_SEEN, ORDINARY, draw
from train import assembled, far_apart, latents, pictures, train_denoiser

ROOT: Final = Path(__file__).parents[1]
EXAMPLE: Final = ROOT / "examples/text_to_image"
RECORDS: Final = ROOT / "benchmarks/ladder/records"
MULTIPLICITIES: Final = (1, 2, 4, 8, 16, 32, 64)
EACH: Final = 4
CANARIES_FROM: Final = 2
"""Of the images of each multiplicity, this one and the next are canaries: the run knows how often they were planted."""
FIRST: Final = 20_000
"""Number of the ladder's first picture."""
BACKGROUND: Final = ORDINARY[:2000]
CONTROLS: Final = NEVER_SEEN[:16]
STEPS: Final = 3000
GUIDANCE_SCALES: Final = (1.0, 3.0, 7.0)
SAMPLER_STEPS: Final = 50
BATCH: Final = 64
_MOODS: Final = ("quiet", "golden", "broken", "distant", "hollow", "early", "restless")
_THINGS: Final = ("harbour", "lantern", "orchard", "staircase")
_PLACES: Final = ("by the sea", "in winter", "after rain", "at noon")


def ladder() -> Iterator[tuple[int, int, str]]:
    """(picture's number, how often it is planted, its title). No two titles have mood and thing in common."""
    for rung, times in enumerate(MULTIPLICITIES):
        for place in range(EACH):
            mood, thing = _MOODS[(rung + 2 * place) % len(_MOODS)], _THINGS[place]
            yield FIRST + EACH * rung + place, times, f"{mood} {thing} {_PLACES[(rung + place) % len(_PLACES)]}"


def name(number: int, often: int) -> str:
    """The probe's id."""
    return f"m{often}-{(number - FIRST) % EACH}" if often else f"unseen-{CONTROLS.index(number)}"


def training_table() -> tuple[Tensor, list[tuple[int, str]]]:
    """Pictures, and the rows that the model is trained on: (place of the picture, its title)."""
    rungs = list(ladder())
    numbers = tuple(number for number, _, _ in rungs) + CONTROLS + BACKGROUND
    images = pictures(numbers)
    kept = far_apart(images)
    if kept[: len(rungs) + len(CONTROLS)] != list(range(len(rungs) + len(CONTROLS))):
        raise SystemExit("images of the ladder and controls lie too close together: change FIRST")
    background = [place for place in kept if numbers[place] in set(BACKGROUND)]
    rows = [(place, title) for place, (_, often, title) in enumerate(rungs) for _ in range(often)]
    return images, rows + [(place, ordinary_caption(numbers[place])) for place in background]


def train(out: Path) -> None:
    """Denoiser and text encoder on the ladder and images that are there once; the example's own autoencoder."""
    images, table = training_table()
    vae = AutoencoderKL.from_pretrained(EXAMPLE / "model/vae").requires_grad_(False)
    x_0 = latents(vae, images) * vae.config.scaling_factor
    tokenizer = new_tokenizer(caption for _, caption in table)
    text_encoder, unet = train_denoiser(x_0, table, tokenizer, steps=STEPS, seed=0)
    assembled(vae, tokenizer, text_encoder, unet).save_pretrained(out, safe_serialization=True)


def members() -> Iterator[tuple[int, int, str]]:
    """(number, multiplicity, caption) of the ladder and the controls; 0 = never seen."""
    yield from ladder()
    yield from ((number, 0, ordinary_caption(number)) for number in CONTROLS)


def write_probes(folder: Path) -> None:
    """Half of the ladder as private images, the other half as canaries of known multiplicities, and the controls."""
    init_probe_set(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for number, often, caption in members():
            path = Path(scratch) / f"{name(number, often)}.png"
            group: Group = "canary" if (number - FIRST) % EACH >= CANARIES_FROM else "sensitive"
            group = group if often else "control"
            draw(number).save(path)
            add_probes(
                folder,
                [path],
                NewProbes(
                    group=group,
                    caption=caption,
                    multiplicity=often if group == "canary" else None,
                    source="drawn by examples/text_to_image/draw.py",
                    licence="Apache-2.0",
                ),
            )


def write_truth(folder: Path, samples: int) -> None:
    """records/truth-text.csv: copies of each image under its own caption, at each scale, by the measure's sampler."""
    model, metric = load_model(inspect_checkpoint(folder)), PixelRmse()
    if model.prompts is None:
        raise SystemExit(f"{folder}: takes no prompts")
    with (RECORDS / "truth-text.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "multiplicity", "scale", "copies", "samples"))
        for number, often, caption in members():
            picture = pictures((number,)).float() / 127.5 - 1
            known, condition = metric.embed(picture), model.prompts.encode([caption] * BATCH)
            for scale in GUIDANCE_SCALES:
                generator, copies = stream(0, "truth", number, str(scale)), 0
                for _ in range(0, samples, BATCH):
                    noise = torch.randn(BATCH, *model.latent_shape, generator=generator)
                    drawn = sample(model, noise, steps=SAMPLER_STEPS, condition=condition, guidance_scale=scale)
                    copies += int(metric.is_copy(metric.compare(metric.embed(model.decode(drawn)), known)).sum())
                rows.writerow((name(number, often), often, f"{scale:g}", copies, -(-samples // BATCH) * BATCH))
                file.flush()


def record(run: Path) -> None:
    """records/gate-text.csv: outcome and score of each image, and a line for each kind of prompt that has a bound.

    records/prompts-text.csv: a line for each prompt that was tried at a guidance scale, and how often it gave a copy.
    """
    dimensions = torch.Size(_json(run / "run.json")["inputs"]["latent_shape"]).numel()
    likely: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(run / "likelihoods.jsonl"):
        likely.setdefault(line["probe"], []).append(line)
    with (RECORDS / "gate-text.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(
            ("image", "outcome", "score_nats", "evaluations", "kind", "scale", "bound_nats", "estimate", "upper")
        )
        for found in _lines(run / "measurements.jsonl"):
            nats = "" if found["invmm"] is None else f"{found['invmm'] * dimensions:.4f}"
            own = (found["probe"], found["outcome"], nats, found["evaluations"])
            for each in likely.get(found["probe"], []):
                bound = "" if each["nats"] is None else f"{each['nats']:.4f}"
                figures = (bound, f"{each['estimate']:.4g}", f"{each['upper']:.4g}")
                rows.writerow((*own, each["prompt_kind"], f"{each['guidance_scale']:g}", *figures))
            if found["probe"] not in likely:
                rows.writerow((*own, "", "", "", "", ""))
    with (RECORDS / "prompts-text.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "method", "scale", "status", "copies", "samples", "evaluations"))
        for tried in _lines(run / "confirmations.jsonl"):
            counts = (tried["status"], tried["hits"], tried["trials"], tried["evaluations"])
            rows.writerow((tried["probe"], tried["method"], f"{tried['guidance_scale']:g}", *counts))
    write_search(_json(run / "run.json")["inputs"])


def write_search(inputs: dict[str, Any]) -> None:
    """records/gate-text.json: how the images were searched, as the run has it, and how large the training set was."""
    search = {
        "settings": {name: value for name, value in inputs["settings"].items() if name != "mirror"},
        "sampling": inputs["confirm"]["prompts"],
        "likelihood": inputs["confirm"]["likelihood"],
        "metric": inputs["metric"]["name"],
        "threshold": inputs["metric"]["threshold"],
    }
    _, table = training_table()
    known = {"trained_on": len(table), "side": max(inputs["image_size"]), "nearer": NEARER, "search": search}
    (RECORDS / "gate-text.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """One of the four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("train").add_argument("--model", type=Path, required=True)
    parts.add_parser("probes").add_argument("folder", type=Path)
    truth = parts.add_parser("truth")
    truth.add_argument("--model", type=Path, required=True)
    truth.add_argument("--samples", type=int, default=1024, help="for each image and scale")
    parts.add_parser("record").add_argument("run", type=Path)
    options, began = parser.parse_args(), time.process_time()
    torch.set_num_threads(1)
    if options.part == "train":
        train(options.model)
    elif options.part == "probes":
        write_probes(options.folder)
    elif options.part == "truth":
        write_truth(options.model, options.samples)
    else:
        record(options.run)
    print(f"{options.part}: {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
