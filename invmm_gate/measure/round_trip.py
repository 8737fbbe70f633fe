"""Could a copy be seen at all? Images go through autoencoder and sampler and must come back as copies of themselves."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, NoiseLevel
from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.levels import level_at, timestep_at
from invmm_gate.diffusion.prediction import Rows
from invmm_gate.measure.looking import Images, Pictures, mixed, noise_like
from invmm_gate.measure.streams import stream

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


def round_trip(images: Pictures, metric: CopyMetric, *, root_seed: int) -> SelfCheck:
    """decode(encode(image)) is a copy of most images, and an image noised a little is denoised to a copy of itself.

    By the run's own metric and sampler; value = the smaller share, high = good. Four evaluations an image. Not on
    controls where there are probes: a metric that takes the controls for references knows no copy of one.
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
