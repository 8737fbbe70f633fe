"""Does the run's own sampler make pictures from pure noise? Noise, blur and flat colour are none."""

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.prediction import Rows
from invmm_gate.measure.looking import Images, Pictures, noise_like, row_means
from invmm_gate.measure.streams import stream

SAMPLES: Final = "samples"
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "size of x_0": (0.4, 1.5),
    "contrast": (0.35, 1.75),
    "roughness": (0.25, 3.0),
    "diversity": (0.3, 1.75),
}
"""Least and largest value of each statistic of samples over that of the controls, see docs/design-notes.md."""
_TINY: Final = 1e-12


def sample_statistics(controls: Pictures, *, steps: int, root_seed: int) -> SelfCheck:
    """Samples from pure noise, one a control and under its condition, against the controls by four statistics.

    `size of x_0` is its root mean square before anything is clamped; `contrast` the standard deviation within an
    image; `roughness` the squared difference of neighbouring pixels over the variance, which is 2 for white noise;
    `diversity` the standard deviation from image to image. Value = the ratio that is farthest out of, or nearest to,
    its bounds. `steps` evaluations a control.
    """
    generator = stream(root_seed, SAMPLES)
    with torch.no_grad():
        x_0 = controls.encoded()
        noise = noise_like(x_0, generator)
        samples = controls.sampled(noise, controls.model.schedule.grid(steps))
        if not bool(samples.isfinite().all()):
            return _check(None, None, "samples from pure noise hold NaN or infinity: the checkpoint makes no pictures")
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
        return _check(ratios[worst], limit, said)
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


def _check(value: float | None, limit: float | None, detail: str) -> SelfCheck:
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
