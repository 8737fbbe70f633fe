"""Under which labels of a class-conditional model an image is denoised best."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.protocols import DiffusionModel, LabelEncoder
from invmm_gate.diffusion.prediction import denoising_error, repeat_rows
from invmm_gate.measure.timesteps import InformativeTimesteps

DRAWS: Final = 4
"""Network forwards for each label: one at each of so many noise levels, with noises that all labels share."""
_ROWS: Final = 16
"""Rows of a call of the network, the last one too: then no error depends on how many labels there are."""


def by_denoising_error(
    model: DiffusionModel,
    labels: LabelEncoder,
    image: Float[Tensor, "3 image_height image_width"],
    *,
    generator: torch.Generator,
) -> tuple[int, ...]:
    """All labels that a user can give, that of the smallest mean log denoising error of the image first.

    The noise levels are spread over those at which x_t says something of the image, but not everything. The mean is
    that of logarithms, as the errors of high noise would bury the others. Ties go to the smaller label, and an error
    that is NaN or infinite comes last.
    """
    with torch.no_grad():
        x_0 = model.encode(image[None].to(model.device))
        eps = torch.randn(DRAWS, *model.latent_shape, generator=generator).to(model.device)
        energy = float(x_0.double().square().sum())
        timestep = InformativeTimesteps(model.schedule).at(torch.full((DRAWS,), 0.5), energy=energy).to(model.device)
        errors = [_log_errors(model, labels, part, x_0, eps, timestep) for part in _parts(labels.inputs)]
    found = torch.cat(errors)[: len(labels.inputs)].nan_to_num(nan=torch.inf)
    order: list[int] = found.argsort(stable=True).tolist()
    return tuple(labels.inputs[place] for place in order)


def _parts(inputs: Sequence[int]) -> list[list[int]]:
    """The labels of each call; the last one is filled up with the first label."""
    each = _ROWS // DRAWS
    parts = [list(inputs[start : start + each]) for start in range(0, len(inputs), each)]
    parts[-1] += [inputs[0]] * (each - len(parts[-1]))
    return parts


def _log_errors(
    model: DiffusionModel, labels: LabelEncoder, part: Sequence[int], x_0: Tensor, eps: Tensor, timestep: Tensor
) -> Float[Tensor, " label"]:
    """The mean log denoising error under each label."""
    condition = repeat_rows(labels.encode([str(label) for label in part]), DRAWS)
    noises, times = eps.repeat(len(part), 1, 1, 1), timestep.repeat(len(part))
    errors = denoising_error(model, x_0.expand_as(noises), noises, times, condition=condition)
    return errors.view(len(part), DRAWS).log().mean(dim=1).cpu()
