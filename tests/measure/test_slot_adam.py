"""One optimiser for all slots is torch's Adam, run for each slot alone."""

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.measure.slots import SlotAdam

SLOTS, SHAPE, RATE = 3, (3, 4, 4), 0.1


def _gradients(seed: int, steps: int) -> Tensor:
    """(step, part, slot, ...), over eight orders of magnitude, so that Adam's eps is felt too."""
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** (torch.rand(steps, 2, SLOTS, 1, 1, 1, generator=generator) * 8 - 7)
    return torch.randn(steps, 2, SLOTS, *SHAPE, generator=generator) * size


def _alone(gradients: Sequence[Tensor]) -> Tensor:
    """torch.optim.Adam on one slot's mu and log_var."""
    parameters = [torch.zeros(SHAPE, requires_grad=True) for _ in range(2)]
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    for gradient in gradients:
        for parameter, part in zip(parameters, gradient, strict=True):
            parameter.grad = part.clone()
        optimiser.step()
    return torch.stack([parameter.detach() for parameter in parameters])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 60), entry=st.integers(0, 59))
def test_every_slot_moves_as_under_its_own_adam_also_one_that_enters_late(seed: int, steps: int, entry: int) -> None:
    gradients = _gradients(seed, steps)
    adam = SlotAdam(torch.zeros(2, SLOTS, *SHAPE), learning_rate=RATE)
    for step, gradient in enumerate(gradients):
        if step == entry:
            adam.reset(1)
        adam.step(gradient)
    late = entry if entry < steps else 0
    for slot, since in ((0, 0), (1, late), (2, 0)):
        expected = _alone(list(gradients[since:, :, slot]))
        # Each step moves by up to 0.1 and rounds a few times: 60 steps keep 5 of float32's 7 digits.
        torch.testing.assert_close(adam.parameters[:, slot], expected, atol=2e-6, rtol=1e-5)


def test_a_slot_that_is_reset_or_broken_leaves_its_neighbours_bit_for_bit_alone() -> None:
    gradients = _gradients(0, 20)
    undisturbed = SlotAdam(torch.zeros(2, SLOTS, *SHAPE), learning_rate=RATE)
    disturbed = SlotAdam(torch.zeros(2, SLOTS, *SHAPE), learning_rate=RATE)
    for step, gradient in enumerate(gradients):
        undisturbed.step(gradient)
        broken = gradient.clone()
        broken[:, 1] = torch.nan
        disturbed.step(broken)
        if step == 10:
            disturbed.reset(1)
    assert torch.equal(undisturbed.parameters[:, [0, 2]], disturbed.parameters[:, [0, 2]])
    assert bool(disturbed.parameters[:, 1].isnan().all())


def test_reset_clears_what_a_broken_task_left_behind() -> None:
    adam = SlotAdam(torch.zeros(2, SLOTS, *SHAPE), learning_rate=RATE)
    adam.step(torch.full((2, SLOTS, *SHAPE), torch.nan))
    adam.reset(2)
    gradient = _gradients(1, 1)[0]
    adam.step(gradient)
    torch.testing.assert_close(adam.parameters[:, 2], _alone([gradient[:, 2]]), atol=2e-6, rtol=1e-5)
