"""q = N(mu, diag(exp(log_var))) over the noise that is mixed into x_0, one for each slot of the batch."""

from jaxtyping import Float
from torch import Tensor

Slots = Float[Tensor, "slot channel height width"]
SlotNoise = Float[Tensor, "slot sample channel height width"]


def normality(mu: Slots, log_var: Slots) -> Float[Tensor, " slot"]:
    """KL(q || N(0, I)) in nats per latent dimension, >= 0; 0 = standard normal. Source: arXiv:2405.05846v3, Eq. 10."""
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1).flatten(1).mean(dim=1)


def noise_from(mu: Slots, log_var: Slots, standard: SlotNoise) -> SlotNoise:
    """Draws of q from standard normal draws; differentiable in mu and log_var."""
    return mu[:, None] + (0.5 * log_var).exp()[:, None] * standard
