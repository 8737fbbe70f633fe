"""Fixtures for all tests: closed-form models whose memorization is known, and the demo's trained checkpoints."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.schedule import VariancePreserving
from tests.order import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401  (hooks)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's background job is started so, and so would be all that the tests start and then interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("shared_machine", deadline=None)  # a busy machine is no bug
settings.load_profile("shared_machine")
ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """What was imported until now is no garbage: the collector need not look at it again and again."""
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def linear_schedule() -> VariancePreserving:
    """DDPM's own: beta from 1e-4 to 2e-2 in 1000 steps."""
    return VariancePreserving(torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), dim=0))


@pytest.fixture(scope="session")
def known_images() -> Tensor:
    """33 random images: the last is in no model."""
    return torch.rand(33, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="session")
def mixture(linear_schedule: VariancePreserving, known_images: Tensor) -> Callable[..., MixtureDenoiser]:
    """A denoiser that knows images 0 to 31 exactly, with the given weights for the first ones and 1 for the rest."""

    def build(*first_weights: float) -> MixtureDenoiser:
        weights = torch.ones(32)
        weights[: len(first_weights)] = torch.tensor(first_weights)
        return MixtureDenoiser(known_images[:32], weights, linear_schedule)

    return build
