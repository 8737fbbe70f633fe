"""Adam for many independent problems in one tensor: each slot has its own moments and step count."""

import torch
from torch import Tensor

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8


class SlotAdam:
    """torch.optim.Adam with its default betas and eps, for parameters of shape (part, slot, ...).

    Equal to one optimiser a slot, which the tests check; a slot that is reset starts with fresh moments.
    """

    def __init__(self, parameters: Tensor, *, learning_rate: float) -> None:
        self.parameters = parameters
        self._learning_rate = learning_rate
        self._first = torch.zeros_like(parameters)
        self._second = torch.zeros_like(parameters)
        self._steps = torch.zeros(parameters.shape[1], dtype=torch.float64, device=parameters.device)

    def reset(self, slot: int) -> None:
        """Zero parameters, moments and step count of one slot."""
        for tensor in (self.parameters, self._first, self._second):
            tensor[:, slot] = 0
        self._steps[slot] = 0

    def step(self, gradient: Tensor) -> None:
        """One update of every slot, in place. Source: arXiv:1412.6980, Algorithm 1."""
        self._steps += 1
        self._first.lerp_(gradient, 1 - _BETA_1)
        self._second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        rate = self._per_slot(self._learning_rate / (1 - _BETA_1**self._steps))
        correction = self._per_slot((1 - _BETA_2**self._steps).sqrt())
        self.parameters -= rate * self._first / (self._second.sqrt() / correction + _EPS)

    def _per_slot(self, values: Tensor) -> Tensor:
        return values.to(self.parameters.dtype).view(1, -1, *[1] * (self.parameters.ndim - 2))
