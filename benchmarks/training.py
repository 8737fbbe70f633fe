"""Training loops that the trainers of benchmarks/zoo and benchmarks/ladder share. Nothing here comes from the gate."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a denoiser is trained."""

    name: str
    """For the lines that are printed."""
    prediction: str
    """epsilon, v_prediction or sample."""
    steps: int
    batch: int
    peak_rate: float
    warm_up: int
    decay: float
    """Of the moving average of the weights."""
    mirrored: bool = False
    """Whether each image is mirrored in half of the draws."""
    print_every: int = 200


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then cosine to zero."""
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step, gradients clipped."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
    optimiser.step()


def train_denoiser(network: UNet2DModel, scheduler: Any, x_0: Tensor, training: Training) -> UNet2DModel:
    """The moving average of the network, trained on x_0."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    for step in range(training.steps):
        clean = x_0[torch.randint(len(x_0), (training.batch,))]
        if training.mirrored:
            clean = torch.where(torch.rand(training.batch, 1, 1, 1) < 0.5, clean.flip(3), clean)
        eps, timestep = torch.randn_like(clean), torch.randint(1000, (training.batch,))
        target = {"epsilon": eps, "sample": clean}.get(training.prediction)
        if target is None:
            target = scheduler.get_velocity(clean, eps, timestep)
        output = network(scheduler.add_noise(clean, eps, timestep), timestep).sample
        loss = torch.nn.functional.mse_loss(output, target)
        descend(optimiser, loss, learning_rate(step, training.steps, training.peak_rate, training.warm_up))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(training.decay, (step + 1) / (step + 10)))
        if step % training.print_every == 0 or step == training.steps - 1:
            print(f"{training.name} step {step} loss {loss.item():.4f}", flush=True)
    return average
