"""q over prompts: at each token position a categorical distribution over the vocabulary, independent of the others."""

import torch
from jaxtyping import Float
from torch import Tensor

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
