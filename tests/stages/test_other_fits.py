"""Images that are not of the model's shape, fitted otherwise than training fitted them: found, and the fit is named."""

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invmm_gate.core.options import Options
from invmm_gate.core.records import Probe, ProbeSet, SelfCheck
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.measure.looking import from_pixels
from invmm_gate.measure.natural_view import Alternatives, Refitted, natural_view
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.coverage import NATURAL_VIEW
from invmm_gate.policy.schema import load_policy
from invmm_gate.probes.fitting import middle_of, refit
from invmm_gate.probes.images import load_pixels, load_refitted
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.self_checks import other_fits, run_check
from invmm_gate.stages.session import Session
from tests.measure.trained import CONTROLS, PLANTED, drawn, memorizing, seen_by
from tests.stages.world import MEMORIZING, draw

UNSEEN = 100_020
OTHERS = range(200, 230)


def stretched(number: int, *, high: bool = False) -> Image.Image:
    """Squeezed to 16 x 16 pixels it is the picture of this number."""
    return draw(number).resize((16, 48) if high else (48, 16), Image.Resampling.NEAREST)


def widened(number: int) -> Image.Image:
    """Cropped in the middle it is the picture of this number."""
    canvas = draw(number + 50_000, size=48).crop((0, 16, 48, 32))
    canvas.paste(draw(number), (16, 0))
    return canvas


def probe_set(folder: Path, probes: dict[str, tuple[Image.Image, str]]) -> ProbeSet:
    """Controls of the model's shape, then these probes, each with its fit."""
    known = {f"c{number}": (draw(number), "") for number in CONTROLS} | probes
    listed = []
    for line, (name, (image, fit)) in enumerate(known.items(), start=2):
        image.save(folder / f"{name}.png")
        digest = hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest()
        group = "control" if name.startswith("c") else "sensitive"
        listed.append(Probe(id=name, path=f"{name}.png", sha256=digest, group=group, line=line, fit=fit))  # type: ignore[arg-type]
    return ProbeSet(folder=str(folder), probes=tuple(listed), digest="0")


def checked(folder: Path, **probes: tuple[Image.Image, str]) -> SelfCheck:
    """The self-check of the demo's memorizing checkpoint, as a run makes it."""
    inputs = Inputs(
        options=Options(model=MEMORIZING, policy="strict", seed=0),
        policy=load_policy("strict"),
        probe_set=probe_set(folder, probes),
        model=inspect_checkpoint(MEMORIZING),
    )
    settings = inputs.policy.resolve_settings("pixel")
    session: Any = Session(
        inputs=inputs, model=memorizing(), metric=None, settings=settings, record=None, slots=1  # type: ignore[arg-type]
    )  # fmt: skip
    return run_check(session, NATURAL_VIEW)


@pytest.mark.parametrize(
    ("image", "stated", "training"),
    [
        (stretched(PLANTED[0]), "crop", "squeeze"),
        (stretched(PLANTED[1], high=True), "pad", "squeeze"),
        (widened(PLANTED[0]), "squeeze", "crop"),
    ],
    ids=["cropped for squeezed", "padded for squeezed", "squeezed for cropped"],
)
def test_a_memorized_probe_with_a_fit_that_is_not_the_training_ones_is_found(
    tmp_path: Path, image: Image.Image, stated: str, training: str
) -> None:
    wrong = checked(tmp_path, known=(image, stated), other=(stretched(UNSEEN), "squeeze"))
    assert not wrong.passed
    assert f"denoises known far better with fit {training} than as it is" in wrong.detail


def test_right_fits_and_images_that_the_model_does_not_know_pass(tmp_path: Path) -> None:
    check = checked(
        tmp_path,
        squeezed=(stretched(PLANTED[0]), "squeeze"),
        cropped=(widened(PLANTED[1]), "crop"),
        unseen=(stretched(UNSEEN), "crop"),
        also=(widened(UNSEEN), "squeeze"),
    )
    assert check.passed, check.detail


@functools.cache
def padded_mixture(bars: str) -> Any:
    """A model that memorized wide pictures on bars; its other pictures are of the same kind."""
    known = [refit(stretched(number), height=16, width=16, how="pad", bars=bars) for number in (*PLANTED, *OTHERS)]
    return MixtureDenoiser(as_tensor(known), torch.ones(len(known)), memorizing().schedule)


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([from_pixels(np.asarray(image)) for image in images])


def checked_on_bars(folder: Path, bars: str, stated: str) -> str:
    """What the check says of a wide picture that was memorized on bars."""
    found, model = probe_set(folder, {"known": (stretched(PLANTED[0]), stated)}), padded_mixture(bars)
    pixels = [load_pixels(found, probe, height=16, width=16) for probe in found.probes]
    seen = seen_by(model, torch.stack([from_pixels(each) for each in pixels]))
    names = [probe.id for probe in found.probes]
    fits = other_fits(found, found.probes, model, rows=4)
    return natural_view(seen, names, len(CONTROLS), root_seed=0, others=Alternatives(fits=fits)).detail


@pytest.mark.parametrize(("bars", "named"), [("black", "with fit pad"), ("white", "padded with white bars"),
                                             ("grey", "padded with grey bars")])  # fmt: skip
@pytest.mark.parametrize("stated", ["crop", "squeeze", "pad"])
def test_a_picture_that_was_trained_on_bars_is_found(tmp_path: Path, bars: str, named: str, stated: str) -> None:
    right = (bars, stated) == ("black", "pad")
    said = f"denoises known far better {named} than as it is"
    assert (said in checked_on_bars(tmp_path, bars, stated)) is not right


def test_only_images_of_another_shape_are_seen_with_other_fits(tmp_path: Path) -> None:
    square = draw(1, size=32)
    found = probe_set(
        tmp_path, {"wide": (stretched(1), "crop"), "square": (square, "crop"), "plain": (draw(2), "exact")}
    )
    pixels = {
        (probe.id, how): load_refitted(found, probe, height=16, width=16, how=how)
        for probe in found.probes
        for how in ("crop", "squeeze", "pad")
    }
    assert {place for place, loaded in pixels.items() if loaded is not None} == {("wide", "squeeze"), ("wide", "pad")}
    (wide,) = (probe for probe in found.probes if probe.id == "wide")
    squeezed, as_squeezed = pixels["wide", "squeeze"], replace(wide, fit="squeeze")
    assert squeezed is not None
    assert np.array_equal(squeezed[0], load_pixels(found, as_squeezed, height=16, width=16))


def test_controls_that_are_denoised_better_with_another_fit_are_found() -> None:
    controls = seen_by(memorizing(), drawn(CONTROLS))
    others = seen_by(memorizing(), drawn((*PLANTED, *PLANTED)))
    fits = [Refitted(name="with fit squeeze", places=range(4), whole=others, middle=others)]
    check = natural_view(controls, ["c"] * 4, 4, root_seed=0, others=Alternatives(fits=fits))
    assert "denoises the controls better with fit squeeze than as they are given" in check.detail
    assert check.detail.endswith("state the fit that the training used")


def test_a_small_image_is_enlarged_for_comparison_alone() -> None:
    assert refit(Image.new("RGB", (48, 12)), height=16, width=16, how="squeeze").size == (16, 16)
    assert middle_of(Image.new("RGB", (48, 8))).size == (38, 6)
