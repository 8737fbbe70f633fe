"""From a network's output to x_0_hat: conversions, guidance, the denoising error. Pure; the row comes first."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, DiffusionModel, NoiseLevel

Rows = Float[Tensor, "row channel height width"]


def per_row(values: Float[Tensor, " row"]) -> Float[Tensor, "row 1 1 1"]:
    """One coefficient a row, shaped to multiply latents."""
    return values[:, None, None, None]


def x_0_from_epsilon(eps_hat: Rows, x_t: Rows, level: NoiseLevel) -> Rows:
    """x_0_hat = (x_t - sigma * eps_hat) / alpha. Source: arXiv:2405.05846v3, Eq. 6 solved for x_0."""
    return (x_t - per_row(level.sigma) * eps_hat) / per_row(level.alpha)


def x_0_from_v(v_hat: Rows, x_t: Rows, level: NoiseLevel) -> Rows:
    """x_0_hat = alpha * x_t - sigma * v_hat, for v = alpha * eps - sigma * x_0.

    Source: arXiv:2202.00512, appendix D.
    """
    return per_row(level.alpha) * x_t - per_row(level.sigma) * v_hat


def x_0_from_sample(x_0_hat: Rows, x_t: Rows, level: NoiseLevel) -> Rows:
    """The network predicts x_0 itself."""
    del x_t, level
    return x_0_hat


def x_0_from_velocity(velocity_hat: Rows, x_t: Rows, level: NoiseLevel) -> Rows:
    """x_0_hat = x_t - sigma * velocity_hat, for velocity = eps - x_0 (flow matching)."""
    return x_t - per_row(level.sigma) * velocity_hat


_ESTIMATES: Final[dict[str, Callable[[Rows, Rows, NoiseLevel], Rows]]] = {
    "epsilon": x_0_from_epsilon,
    "v_prediction": x_0_from_v,
    "sample": x_0_from_sample,
    "velocity": x_0_from_velocity,
}
PREDICTION_TYPES: Final = tuple(_ESTIMATES)


def x_0_from(prediction_type: str, output: Rows, x_t: Rows, level: NoiseLevel) -> Rows:
    """x_0_hat in float32 of a network's output, whatever its dtype. Raises ModelError for an unknown type."""
    if prediction_type not in _ESTIMATES:
        raise ModelError(
            f"prediction type {prediction_type!r} is not known",
            expected="one of " + ", ".join(PREDICTION_TYPES),
            do="correct the scheduler's configuration",
        )
    return _ESTIMATES[prediction_type](output.float(), x_t.float(), level)


def guided(unconditional: Rows, conditional: Rows, guidance_scale: float) -> Rows:
    """Classifier-free guidance; 1 is the conditional estimate. Linear, so it may be taken on x_0_hat as well."""
    return unconditional + guidance_scale * (conditional - unconditional)


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


def rows_of(condition: Condition) -> int:
    """Number of rows."""
    return next(iter(condition.tensors.values())).shape[0]


def take_rows(condition: Condition, index: Int[Tensor, " taken"]) -> Condition:
    """The rows at `index`, in its order, repeated where it repeats."""
    return Condition(tensors={name: tensor[index] for name, tensor in condition.tensors.items()})


def rows_at(condition: Condition, rows: slice) -> Condition:
    """The rows of a slice."""
    return Condition(tensors={name: tensor[rows] for name, tensor in condition.tensors.items()})


def repeat_rows(condition: Condition, count: int) -> Condition:
    """Each row `count` times, copies side by side."""
    return Condition(
        tensors={name: tensor.repeat_interleave(count, dim=0) for name, tensor in condition.tensors.items()}
    )


def join_rows(conditions: Sequence[Condition]) -> Condition:
    """The rows of all conditions, in order; they must hold the same named tensors."""
    names = conditions[0].tensors.keys()
    return Condition(tensors={name: torch.cat([part.tensors[name] for part in conditions]) for name in names})
