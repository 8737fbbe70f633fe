"""The distributions that are optimised, q over noise and q over prompts, and the random streams of a probe."""

from hashlib import sha256

import torch
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


Logits = Float[Tensor, "*#batch position choice"]


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Independent draws of Gumbel(0, 1), on the generator's device."""
    exponential = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    # The smallest positive float32 keeps the logarithm finite where the generator drew exactly 0.
    return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()


def soft_tokens(logits: Logits, gumbel: Logits, temperature: float) -> Logits:
    """Gumbel-softmax weights of each choice, summing to 1; differentiable. Source: arXiv:2405.05846v3, Eq. 18."""
    return ((logits.log_softmax(dim=-1) + gumbel) / temperature).softmax(dim=-1)


def hard_tokens(logits: Logits, gumbel: Logits) -> Logits:
    """One-hot weights of the tokens drawn from the distribution. Source: arXiv:2405.05846v3, Eq. 19."""
    drawn = (logits + gumbel).argmax(dim=-1)
    return torch.nn.functional.one_hot(drawn, logits.shape[-1]).to(logits.dtype)


def prompt_entropy(logits: Float[Tensor, "slot position choice"]) -> Float[Tensor, " slot"]:
    """Entropy of a token's distribution in nats, mean over the positions; from 0 (one prompt) to ln(choices)."""
    log_probability = logits.log_softmax(dim=-1)
    return -(log_probability.exp() * log_probability).sum(dim=-1).mean(dim=-1)


def stream(root_seed: int, *key: str | int, device: torch.device | None = None) -> torch.Generator:
    """A generator seeded from the run's seed and the key, e.g. a probe's sha256, its trial and `test`.

    A CPU generator, the default, gives the same numbers whatever device the tensors move to. The Gumbel noises of a
    whole vocabulary are drawn on the device itself: too many to move at each step.
    """
    name = "|".join(str(part) for part in (root_seed, *key))
    seed = int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.Generator(device or "cpu").manual_seed(seed)
