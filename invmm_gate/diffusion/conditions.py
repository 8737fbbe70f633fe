"""Rows of conditions: taken, repeated and joined as the rows of x_t are."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from invmm_gate.core.protocols import Condition


def rows_of(condition: Condition) -> int:
    """Number of rows."""
    return next(iter(condition.tensors.values())).shape[0]


def take_rows(condition: Condition, index: Int[Tensor, " taken"]) -> Condition:
    """The rows at `index`, in its order, repeated where it repeats."""
    return Condition(tensors={name: tensor[index] for name, tensor in condition.tensors.items()})


def repeat_rows(condition: Condition, count: int) -> Condition:
    """Each row `count` times, copies side by side."""
    return Condition(
        tensors={name: tensor.repeat_interleave(count, dim=0) for name, tensor in condition.tensors.items()}
    )


def join_rows(conditions: Sequence[Condition]) -> Condition:
    """The rows of all conditions, in order; they must hold the same named tensors."""
    names = conditions[0].tensors.keys()
    return Condition(tensors={name: torch.cat([part.tensors[name] for part in conditions]) for name in names})
