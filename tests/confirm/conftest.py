"""The model with prompts that the tests of this package share."""

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.diffusion.schedule import VariancePreserving
from tests.confirm.text_world import TextMixture, text_mixture


@pytest.fixture
def text_model(known_images: Tensor, linear_schedule: VariancePreserving) -> TextMixture:
    """Image 0 follows its caption, image 1 three words together; the last known image is in no model."""
    return text_mixture(known_images[:32], linear_schedule)


@pytest.fixture(scope="session")
def typeable(known_images: Tensor, linear_schedule: VariancePreserving) -> Tensor:
    """What can be typed to that model."""
    prompts = text_mixture(known_images[:32], linear_schedule).prompts
    assert prompts is not None
    return typeable_ids(prompts)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
