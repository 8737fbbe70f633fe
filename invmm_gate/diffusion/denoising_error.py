"""The denoising error: how far x_0_hat is from x_0."""

from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import Condition, DiffusionModel, NoiseLevel
from invmm_gate.diffusion.prediction import Rows, per_row


def denoising_error(
    model: DiffusionModel,
    x_0: Rows,
    eps: Rows,
    timestep: Int[Tensor, " row"],
    *,
    condition: Condition | None = None,
    guidance_scale: float = 1.0,
) -> Float[Tensor, " row"]:
    """Mean squared x_0_hat - x_0 of each row, differentiable in `eps`; low = well denoised.

    Source: arXiv:2405.05846v3, Eq. 12. The text sums over elements; the authors' code takes the mean, and xi, delta and
    the first lambda of 1 only make sense with a mean.
    """
    level = model.schedule.at(timestep)
    x_t = per_row(level.alpha) * x_0 + per_row(level.sigma) * eps
    x_0_hat = model.estimate_x_0(x_t, level, condition=condition, guidance_scale=guidance_scale)
    return (x_0_hat - x_0).square().flatten(1).mean(dim=1)


def epsilon_weight(level: NoiseLevel) -> Float[Tensor, " row"]:
    """The factor that turns the squared error of x_0_hat into that of eps_hat: (alpha / sigma)^2.

    Source: eps_hat - eps = (alpha / sigma) * (x_0 - x_0_hat), from x_t = alpha * x_0 + sigma * eps.
    """
    return (level.alpha / level.sigma).square()
