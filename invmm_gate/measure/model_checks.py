"""Checks of the model before the probes: the round trip, the timestep that it is told, samples from noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, NoiseLevel, NoiseSampler
from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.prediction import Rows
from invmm_gate.diffusion.samplers import seeds_from
from invmm_gate.diffusion.schedule import level_at, timestep_at
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.looking import Images, Pictures, mixed, noise_like, row_means

ROUND_TRIP: Final = "round_trip"
DECODED_LIMIT: Final = 0.75
"""Share of the images that must come back from the autoencoder as copies."""
DENOISED_LIMIT: Final = 0.5
"""Share of them that must come back from a little noise as copies."""
NOISE: Final = 0.3
"""sigma / alpha. At 0.2 an image is a copy of itself by pixel_rmse 0.1 before anybody denoises it."""
STEPS: Final = 4
_UNSEEN: Final = (
    ": this checkpoint could not show a copy that this metric sees; look at its autoencoder, at its scheduler"
    " (prediction_type, clip_sample_range, thresholding), and at the copy threshold"
)
TOLD_TIME: Final = "told_time"
GAIN_LIMIT: Final = 0.15
"""Natural logarithm of an error ratio: under another timestep the error may be smaller by this much."""
LOSS_LIMIT: Final = 0.1
"""Under the most wrong timestep the error must be larger by this much: a network that is deaf to it was not trained."""
RATIOS: Final = (0.5, 1.0, 2.0)
"""sigma / alpha at which images are noised."""
FACTORS: Final = (0.5, 0.71, 1.41, 2.0)
"""What the timestep is multiplied by."""
SAMPLES: Final = "samples"
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "size of x_0": (0.4, 1.5),
    "contrast": (0.35, 1.75),
    "roughness": (0.25, 3.0),
    "diversity": (0.3, 1.75),
}
"""Least and largest value of each statistic of samples over that of the controls, see docs/design-notes.md."""
_TINY: Final = 1e-12


def round_trip(images: Pictures, metric: CopyMetric, *, root_seed: int) -> SelfCheck:
    """decode(encode(image)) is a copy of most images, and an image noised a little is denoised to a copy of itself.

    By the run's own metric, on the measure's grid; value = the smaller share, high = good. Four evaluations an image.
    Not on controls where there are probes: a metric that takes the controls for references knows no copy of one.
    """
    with torch.no_grad():
        shares = {
            "encoded and decoded": _share(_copies(images, images.encoded(), metric)),
            "noised a little and denoised": _share(_copies(images, _denoised(images, root_seed), metric)),
        }
    limits = (DECODED_LIMIT, DENOISED_LIMIT)
    failed = [
        f"{share:.0%} of the images that were {what} are copies of themselves (must be at least {limit:.0%})"
        for (what, share), limit in zip(shares.items(), limits, strict=True)
        if not share >= limit
    ]
    worst, limit = min(zip(shares.values(), limits, strict=True), key=lambda pair: pair[0] / pair[1])
    said = "; ".join(failed) + _UNSEEN
    passed = f"most images come back from autoencoder and sampler as copies of themselves ({worst:.0%} at the least)"
    return SelfCheck(name=ROUND_TRIP, passed=not failed, detail=said if failed else passed, value=worst, limit=limit)


def _copies(pictures: Pictures, x_0: Rows, metric: CopyMetric) -> Bool[Tensor, " image"]:
    """Whether each decoded x_0 is a copy of its image."""
    decoded: Images = pictures.decoded(x_0)
    found = [
        metric.is_copy(
            metric.compare(metric.embed(decoded[part]), metric.embed(pictures.images[part].to(decoded.device)))
        )
        for part in pictures.parts()
    ]
    return torch.cat(found)


def _share(copies: Bool[Tensor, " image"]) -> float:
    return float(copies.float().mean())


def _denoised(images: Pictures, root_seed: int) -> Rows:
    x_0 = images.encoded()
    levels = _levels(images)
    eps = noise_like(x_0, stream(root_seed, ROUND_TRIP))
    return images.sampled(mixed(x_0, eps, levels[0]), levels)


def _levels(images: Pictures) -> Sequence[NoiseLevel]:
    """Evenly spaced timesteps from where the noise is `NOISE` of the signal down."""
    first = timestep_at(images.model.schedule, NOISE)
    timesteps = dict.fromkeys(round(first * (STEPS - step) / STEPS) for step in range(STEPS))
    return [level_at(images.model.schedule, timestep, images.model.device) for timestep in timesteps]


def told_time(pictures: Pictures, *, root_seed: int) -> SelfCheck:
    """Denoising errors under other timesteps than the schedule's, against those under its own.

    A schedule that is not the one of training, or a time embedding that is built otherwise, puts the network's own
    clock out: it then denoises better when told a wrong time. Value = log(error as configured / least error
    elsewhere), a mean over levels and a median over images; low = good. 15 evaluations an image.
    """
    with torch.no_grad():
        gains = torch.stack([_gains(pictures, ratio, stream(root_seed, TOLD_TIME, str(ratio))) for ratio in RATIOS])
    typical = gains.mean(dim=0).median(dim=1).values
    value, loss = float(typical.max()), float(-typical.min())
    if not bool(typical.isfinite().all()):
        return _failed(None, "the controls' denoising error is NaN or infinity: the checkpoint does not denoise")
    if value > GAIN_LIMIT:
        factor = FACTORS[int(typical.argmax())]
        return _failed(
            value,
            f"told {factor:g} times the timestep, the network's error is smaller by a factor of"
            f" {typical.max().exp():.2f}: schedule or time embedding are not those of its training",
        )
    if loss < LOSS_LIMIT:
        return _failed(value, "the network denoises alike whatever timestep it is told: it is not a trained denoiser")
    return SelfCheck(
        name=TOLD_TIME,
        passed=True,
        detail=f"under other timesteps than the schedule's the log error changes by {-value:+.2f} at the least",
        value=value,
        limit=GAIN_LIMIT,
    )


def _failed(value: float | None, detail: str) -> SelfCheck:
    return SelfCheck(name=TOLD_TIME, passed=False, detail=detail, value=value, limit=GAIN_LIMIT)


def _gains(pictures: Pictures, ratio: float, generator: torch.Generator) -> Float[Tensor, "factor image"]:
    """log(error under the schedule's timestep / error under each other one), at one noise level."""
    schedule, device = pictures.model.schedule, pictures.model.device
    timestep = timestep_at(schedule, ratio)
    level, x_0 = level_at(schedule, timestep, device), pictures.encoded()
    x_t = mixed(x_0, noise_like(x_0, generator), level)

    def log_error(told: NoiseLevel) -> Float[Tensor, " image"]:
        return row_means((pictures.estimates(x_t, told) - x_0).square()).log()

    others = [min(round(timestep * factor), schedule.timesteps - 1) for factor in FACTORS]
    told = [replace(level, time=level_at(schedule, other, device).time) for other in others]
    own = log_error(level)
    return torch.stack([own - log_error(other) for other in told])


def sample_statistics(controls: Pictures, sampler: NoiseSampler, *, steps: int, root_seed: int) -> SelfCheck:
    """Samples from pure noise, one a control and under its condition, against the controls by four statistics.

    By the run's own sampler. `size of x_0` is its root mean square before anything is clamped; `contrast` the standard
    deviation within an image; `roughness` the squared difference of neighbouring pixels over the variance, which is 2
    for white noise; `diversity` the standard deviation from image to image. Value = the ratio that is farthest out of,
    or nearest to, its bounds. `steps` evaluations a control.
    """
    generator = stream(root_seed, SAMPLES)
    with torch.no_grad():
        x_0 = controls.encoded()
        noise = noise_like(x_0, generator)
        samples = controls.drawn(noise, seeds_from(generator, len(noise)), sampler, steps=steps)
        if not bool(samples.isfinite().all()):
            return _no_pictures(
                None, None, "samples from pure noise hold NaN or infinity: the checkpoint makes no pictures"
            )
        drawn, real = _statistics(controls, samples), _statistics(controls, x_0)
    ratios = {name: (drawn[name] + _TINY) / (real[name] + _TINY) for name in BOUNDS}
    return _judged(ratios)


def _judged(ratios: Mapping[str, float]) -> SelfCheck:
    outside = {name: _outside(ratio, *BOUNDS[name]) for name, ratio in ratios.items()}
    worst = max(outside, key=lambda name: outside[name])
    low, high = BOUNDS[worst]
    limit = low if ratios[worst] < (low * high) ** 0.5 else high
    failed = [
        f"{name} is {ratios[name]:.3g} times the controls' (must be {BOUNDS[name][0]:g} to {BOUNDS[name][1]:g})"
        for name in ratios
        if not outside[name] <= 0
    ]
    if failed:
        said = f"samples from pure noise do not look like the controls: {'; '.join(failed)}"
        return _no_pictures(ratios[worst], limit, said)
    said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return SelfCheck(
        name=SAMPLES,
        passed=True,
        detail=f"samples from pure noise over controls: {said}",
        value=ratios[worst],
        limit=limit,
    )


def _outside(ratio: float, low: float, high: float) -> float:
    """How far a ratio is beyond its nearer bound, in log; negative inside."""
    value = torch.tensor(ratio).log()
    return float(torch.maximum(torch.tensor(low).log() - value, value - torch.tensor(high).log()))


def _no_pictures(value: float | None, limit: float | None, detail: str) -> SelfCheck:
    return SelfCheck(name=SAMPLES, passed=False, detail=detail, value=value, limit=limit)


def _statistics(pictures: Pictures, x_0: Rows) -> dict[str, float]:
    images = pictures.decoded(x_0)
    variance = row_means((images - images.mean(dim=(2, 3), keepdim=True)).square())
    return {
        "size of x_0": float(x_0.square().mean().sqrt()),
        "contrast": float(variance.sqrt().median()),
        "roughness": float((_neighbour_difference(images) / (variance + _TINY)).median()),
        "diversity": float(images.var(dim=0, correction=0).mean().sqrt()),
    }


def _neighbour_difference(images: Images) -> Float[Tensor, " image"]:
    """Mean squared difference of neighbours, both directions."""
    across = row_means((images[..., 1:] - images[..., :-1]).square())
    down = row_means((images[..., 1:, :] - images[..., :-1, :]).square())
    return (across + down) / 2
