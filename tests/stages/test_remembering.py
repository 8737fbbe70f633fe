"""A network that is remembered says what it would say, and is asked again once it is another."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from tests.stages.remembering import remembering

FORWARD = UNet2DModel.forward
"""Its own: the tests of this folder run with one that is remembered."""
GIVEN = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> UNet2DModel:
    torch.manual_seed(0)
    made = UNet2DModel(
        sample_size=8, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), attention_head_dim=2,
    )  # fmt: skip
    frozen: UNet2DModel = made.eval().requires_grad_(False)
    return frozen


def test_results_and_gradients_are_the_networks_own_to_the_bit_and_are_evaluated_once(network: UNet2DModel) -> None:
    given, calls = GIVEN + 1, list[int]()
    asked = remembering(counted(FORWARD, calls))
    for _ in range(2):
        for time in (7, torch.tensor([7, 9])):
            own, again = given.clone().requires_grad_(), given.clone().requires_grad_()
            expected, (found,) = FORWARD(network, own, time).sample, asked(network, again, time, None, False)
            assert torch.equal(found, expected)
            (gradient,) = torch.autograd.grad((expected**2).sum(), own)
            assert torch.equal(torch.autograd.grad((found**2).sum(), again)[0], gradient)
            assert torch.equal(asked(network, given, time).sample, FORWARD(network, given, time).sample)
    assert len(calls) == 4


def test_a_gradient_of_a_known_result_is_the_networks_own_too(network: UNet2DModel) -> None:
    asked = remembering(FORWARD)
    for factor in (1.0, 2.0):
        own, again = GIVEN.clone().requires_grad_(), GIVEN.clone().requires_grad_()
        (expected,) = torch.autograd.grad((factor * FORWARD(network, own, 3).sample).sum(), own)
        assert torch.equal(torch.autograd.grad((factor * asked(network, again, 3).sample).sum(), again)[0], expected)


@pytest.mark.parametrize("change", ["written to", "replaced", "another module"])
def test_a_network_that_was_changed_is_asked_again(network: UNet2DModel, change: str) -> None:
    asked = remembering(FORWARD)
    before = asked(network, GIVEN, 7).sample
    if change == "written to":
        network.conv_out.bias.fill_(2.0)
    elif change == "replaced":
        network.conv_out.bias = torch.nn.Parameter(torch.full((3,), 2.0), requires_grad=False)
    else:
        network.conv_out = torch.nn.Conv2d(4, 3, 3, padding=1).requires_grad_(False)
    found = asked(network, GIVEN, 7).sample
    assert not torch.equal(found, before)
    assert torch.equal(found, FORWARD(network, GIVEN, 7).sample)


def counted(forward: Callable[..., Tensor], calls: list[int]) -> Callable[..., Tensor]:
    def counting(*given: object) -> Tensor:
        calls.append(1)
        return forward(*given)

    return counting
