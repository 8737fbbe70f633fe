"""Before the probes: is the gate able to see memorization, and is the model worth measuring?

A broken scorer and a broken model both look "not memorized"; a run that fails either check is inconclusive.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, DiffusionModel, Schedule
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.settings import InversionSettings
from invmm_gate.diffusion.closed_form import MixtureDenoiser, interpolated
from invmm_gate.diffusion.planted import CELLS, PATTERNS, CopyOfPlanted, PlantedText, paling, patterns
from invmm_gate.diffusion.prediction import denoising_error, repeat_rows
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.slots import Task

POSITIVE_CONTROL: Final = "positive_control"
UTILITY_FLOOR: Final = "utility_floor"
UTILITY_LIMIT: Final = 1.0
"""At this ratio the network is no better than the best linear denoiser; trained ones measured 0.6 to 0.7."""
_PLANTED_WEIGHT: Final = 0.2
"""Share of all samples. Under profile `gate` for models without prompts the pattern is then inverted, and so
it is at a share of 0.05, which an image has in the demo that was planted 32 times."""
_SEED: Final = 1
"""The control's own, so that no choice of the run's seed lets settings pass that see nothing."""
_TESTS: Final = 8
_LARGEST_SIDE: Final = 32
"""Of a control on pixels. With a side of 128 and more, no profile for text-to-image models inverts the pattern."""
_CHOICES: Final = 1024
_NOISES: Final = 4
_BLIND: Final = (
    ": the checkpoint does not denoise; hold prediction_type and beta_schedule of its scheduler, and the network's"
    " configuration, against the training"
)


def positive_control(
    metric: CopyMetric,
    settings: InversionSettings,
    schedule: Schedule,
    *,
    image_size: tuple[int, int],
    device: torch.device,
) -> SelfCheck:
    """A closed-form model that memorizes one pattern is measured as a checkpoint would be: the pattern must invert.

    Same loop, metric, schedule and settings as the run, on images of the model's size, for at most eight tests and no
    longer than the run; the step-0 test is left out, so that the optimisation is checked too. What the model memorizes
    lies as far from the probe as copies of trained networks do (COPY_RMSE). Images above 32 pixels
    stand in its latent as images of 32: in many dimensions the first noise decides by itself which pattern comes out,
    and a closed-form denoiser has no gradient that could move it.
    """
    small = patterns(stream(_SEED, POSITIVE_CONTROL)).to(device)
    image = interpolated(small[:1], image_size)[0]
    weights = torch.full((PATTERNS,), (1 - _PLANTED_WEIGHT) / (PATTERNS - 1))
    weights[0] = _PLANTED_WEIGHT
    larger = max(image_size) > _LARGEST_SIDE
    known = paling(image) * interpolated(small, (_LARGEST_SIDE, _LARGEST_SIDE) if larger else image_size)
    inverter = Inverter(
        MixtureDenoiser(known, weights, schedule, image_size=image_size if larger else None, cells=CELLS),
        metric,
        replace(_short(settings), guidance_scales=(1.0,), prompt="none"),
        load_image=lambda _: image,
        root_seed=_SEED,
        slots=1,
    )
    return _inverted(inverter, "model", "these settings and this copy threshold cannot see copies")


def positive_control_of_prompts(
    metric: CopyMetric, settings: InversionSettings, planted: PlantedText, *, choices: Int[Tensor, " choice"] | None
) -> SelfCheck:
    """The same with a text model, from which no noise brings the pattern out without its words: the soft prompt must
    find them, beside the noise or alone, as the settings say. Where these ask for the caption, it is the words.

    `choices`: ids that the run's soft prompts may mix; None = all. The control's may mix 1,024 of them.
    """
    inverter = Inverter(
        planted.model,
        CopyOfPlanted(metric=metric, model=planted.model),
        _short(settings),
        load_image=lambda _: planted.image,
        load_caption=lambda _: planted.caption,
        choices=choices_with(planted, choices),
        root_seed=_SEED,
        slots=1,
    )
    return _inverted(
        inverter,
        "text model",
        "these settings and this copy threshold see neither copies nor the prompts that make them",
    )


def choices_with(planted: PlantedText, choices: Int[Tensor, " choice"] | None) -> Int[Tensor, " mixed"]:
    """As many of these ids as a core can draw Gumbel noise for in seconds, and the trigger words; ascending."""
    ids = torch.arange(planted.model.prompts.vocabulary) if choices is None else choices.cpu()
    drawn = torch.randperm(len(ids), generator=stream(_SEED, POSITIVE_CONTROL, "choices"))[:_CHOICES]
    return torch.tensor(sorted({*planted.triggers, *ids[drawn].tolist()}))


def _short(settings: InversionSettings) -> InversionSettings:
    """At most eight tests, none of them before the first step; nobody released a closed-form model."""
    steps = min(_TESTS * settings.test_every, settings.steps)
    return replace(settings, steps=steps, test_at_start=False, mirror=False, sampler="grid")


def _inverted(inverter: Inverter, model: str, blind: str) -> SelfCheck:
    """Whether the pattern inverts; `blind`: what it means if not."""
    task = Task(probe=POSITIVE_CONTROL, content=POSITIVE_CONTROL, seed=0)
    (trial,) = (event.trial for event in inverter.run([task]) if isinstance(event, Inversion))
    passed = trial.outcome == "inverted"
    memorizes = f"a closed-form {model} that memorizes a pattern"
    return SelfCheck(
        name=POSITIVE_CONTROL,
        passed=passed,
        detail=(
            f"{memorizes} was inverted at step {trial.steps}"
            if passed
            else f"{memorizes} came out as {trial.outcome} after {trial.steps} steps: {blind}"
        ),
        value=trial.invmm,
    )


def utility_floor(
    model: DiffusionModel,
    images: Sequence[Float[Tensor, "3 image_height image_width"]],
    *,
    root_seed: int,
    captions: Sequence[str] = (),
) -> SelfCheck:
    """The model must denoise images it has not seen better than the best linear denoiser that knows their variance.

    Median over the images of error / linear error where signal and noise are equally strong; low = useful.
    """
    texts = captions or [""] * len(images)
    both = torch.stack(
        [
            _errors(model, image, text, stream(root_seed, UTILITY_FLOOR))
            for image, text in zip(images, texts, strict=True)
        ]
    )
    if not bool(both.isfinite().all()):
        return _floor(None, f"denoising {len(images)} controls gives NaN or infinity: the checkpoint does not denoise")
    textured = both[both[:, 1] > 0]
    if not len(textured):
        return _floor(None, f"all {len(images)} controls are of one colour: they show nothing of how a model denoises")
    value = float((textured[:, 0] / textured[:, 1]).median())
    return _floor(
        value,
        f"denoising error on {len(textured)} controls is {value:.2f} of the best linear denoiser's"
        f" (must be below {UTILITY_LIMIT:g})" + ("" if value < UTILITY_LIMIT else _BLIND),
    )


def _floor(value: float | None, detail: str) -> SelfCheck:
    passed = value is not None and value < UTILITY_LIMIT
    return SelfCheck(name=UTILITY_FLOOR, passed=passed, detail=detail, value=value, limit=UTILITY_LIMIT)


def _errors(
    model: DiffusionModel,
    image: Float[Tensor, "3 image_height image_width"],
    caption: str,
    generator: torch.Generator,
) -> Float[Tensor, " 2"]:
    """The model's denoising error, under the caption where it takes one, and that of the best linear denoiser."""
    x_0 = model.encode(image[None].to(model.device))
    timestep = _equal_signal_and_noise(model.schedule, model.device)
    eps = torch.randn(_NOISES, *model.latent_shape, generator=generator).to(model.device)
    with torch.no_grad():
        given = None if model.prompts is None else repeat_rows(model.prompts.encode([caption]), _NOISES)
        errors = denoising_error(model, x_0.expand_as(eps), eps, timestep.expand(_NOISES), condition=given)
    level = model.schedule.at(timestep)
    signal = level.alpha.square() * (x_0 - x_0.mean(dim=(2, 3), keepdim=True)).square().mean()
    noise = level.sigma.square()
    linear = signal / level.alpha.square() * noise / (signal + noise)
    return torch.stack([errors.mean(), linear.squeeze()]).cpu()


def _equal_signal_and_noise(schedule: Schedule, device: torch.device) -> Tensor:
    level = schedule.at(torch.arange(schedule.timesteps, device=device))
    return (level.alpha - level.sigma).abs().argmin()[None]
