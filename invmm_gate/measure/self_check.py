"""Before the probes: is the gate able to see memorization, and is the model worth measuring?

A broken scorer and a broken model both look "not memorized"; a run that fails either check is inconclusive.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.denoising_error import denoising_error
from invmm_gate.measure.inversion import Inversion, Inverter, Task
from invmm_gate.measure.streams import stream
from invmm_gate.protocols import CopyMetric, DiffusionModel, Schedule
from invmm_gate.records import SelfCheck
from invmm_gate.settings import InversionSettings

POSITIVE_CONTROL: Final = "positive_control"
UTILITY_FLOOR: Final = "utility_floor"
UTILITY_LIMIT: Final = 1.0
"""At this ratio the network is no better than the best linear denoiser; trained ones measured 0.6 to 0.7."""
_PATTERNS: Final = 8
_PLANTED_WEIGHT: Final = 0.9
_TESTS: Final = 4
_NOISES: Final = 4


def positive_control(
    metric: CopyMetric,
    settings: InversionSettings,
    schedule: Schedule,
    *,
    image_size: tuple[int, int],
    root_seed: int,
    device: torch.device,
) -> SelfCheck:
    """A closed-form model that memorizes one pattern is measured as a checkpoint would be: the pattern must invert.

    Same loop, metric, schedule and settings as the run, on pixels of the model's image size, for at most four tests.
    """
    patterns = _patterns(image_size, stream(root_seed, POSITIVE_CONTROL)).to(device)
    weights = torch.full((_PATTERNS,), (1 - _PLANTED_WEIGHT) / (_PATTERNS - 1))
    weights[0] = _PLANTED_WEIGHT
    short = replace(settings, steps=_TESTS * settings.test_every, stop_above=None, mirror=False, guidance_scales=(1.0,))
    inverter = Inverter(
        MixtureDenoiser(patterns, weights, schedule),
        metric,
        short,
        load_image=lambda _: patterns[0],
        root_seed=root_seed,
        slots=1,
    )
    task = Task(probe=POSITIVE_CONTROL, content=POSITIVE_CONTROL, seed=0)
    (trial,) = (event.trial for event in inverter.run([task]) if isinstance(event, Inversion))
    passed = trial.outcome == "inverted"
    return SelfCheck(
        name=POSITIVE_CONTROL,
        passed=passed,
        detail=(
            f"a closed-form model that memorizes a pattern was inverted at step {trial.steps}"
            if passed
            else f"a closed-form model that memorizes a pattern came out as {trial.outcome}: the gate cannot see copies"
        ),
        value=trial.invmm,
    )


def _patterns(image_size: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "pattern 3 height width"]:
    """Smooth colour patterns in [-1, 1]: 4x4 random colours, interpolated."""
    coarse = torch.rand(_PATTERNS, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=image_size, mode="bilinear", align_corners=False)


def utility_floor(
    model: DiffusionModel,
    images: Sequence[Float[Tensor, "3 image_height image_width"]],
    *,
    root_seed: int,
) -> SelfCheck:
    """The model must denoise images it has not seen better than the best linear denoiser that knows their variance.

    Median over the images of error / linear error where signal and noise are equally strong; low = useful.
    """
    both = torch.stack([_errors(model, image, stream(root_seed, UTILITY_FLOOR)) for image in images])
    textured = both[both[:, 1] > 0]  # an image of one colour is known without the model
    value = float((textured[:, 0] / textured[:, 1]).median()) if len(textured) else None
    value = value if bool(both.isfinite().all()) else None
    passed = value is not None and value < UTILITY_LIMIT
    shown = f"{value:.2f}" if value is not None else ("NaN or infinity" if len(textured) else "undefined: one colour")
    return SelfCheck(
        name=UTILITY_FLOOR,
        passed=passed,
        detail=(
            f"denoising error on {len(images)} controls is {shown} of the best linear denoiser's"
            f" (must be below {UTILITY_LIMIT:g})" + ("" if passed else ": the checkpoint does not denoise")
        ),
        value=value,
        limit=UTILITY_LIMIT,
    )


def _errors(
    model: DiffusionModel, image: Float[Tensor, "3 image_height image_width"], generator: torch.Generator
) -> Float[Tensor, " 2"]:
    """The model's denoising error and that of the best linear denoiser."""
    x_0 = model.encode(image[None].to(model.device))
    timestep = _equal_signal_and_noise(model.schedule, model.device)
    eps = torch.randn(_NOISES, *model.latent_shape, generator=generator).to(model.device)
    with torch.no_grad():
        errors = denoising_error(model, x_0.expand_as(eps), eps, timestep.expand(_NOISES))
    level = model.schedule.at(timestep)
    signal = level.alpha.square() * (x_0 - x_0.mean(dim=(2, 3), keepdim=True)).square().mean()
    noise = level.sigma.square()
    linear = signal / level.alpha.square() * noise / (signal + noise)
    return torch.stack([errors.mean(), linear.squeeze()]).cpu()


def _equal_signal_and_noise(schedule: Schedule, device: torch.device) -> Tensor:
    level = schedule.at(torch.arange(schedule.timesteps, device=device))
    return (level.alpha - level.sigma).abs().argmin()[None]
