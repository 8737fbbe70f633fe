"""Real checkpoints of a few thousand weights, saved by diffusers itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel, VQModel

from tests.models import tiny_text

TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CODER = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "sample_size": 16,
}


def tiny_unet(seed: int = 0, **changes: Any) -> UNet2DModel:
    torch.manual_seed(seed)
    return UNet2DModel(**{**TINY, **changes})


def tiny_vq(**changes: Any) -> VQModel:
    torch.manual_seed(1)
    return VQModel(**{**CODER, "latent_channels": 3, "num_vq_embeddings": 16, "scaling_factor": 1.0, **changes})


def tiny_kl(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(**{**CODER, "latent_channels": 4, "scaling_factor": 0.5, **changes})


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(root / "ddpm")
    LDMPipeline(tiny_vq(), tiny_unet(), DDIMScheduler()).save_pretrained(root / "vq")
    LDMPipeline(tiny_kl(), tiny_unet(in_channels=4, out_channels=4), DDIMScheduler()).save_pretrained(root / "kl")
    tiny_unet().save_pretrained(root / "bare")
    DDPMScheduler().save_pretrained(root / "bare")
    return root


@pytest.fixture
def checkpoint(_saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A fresh copy of a saved checkpoint: `ddpm`, `vq`, `kl` or `bare`."""

    def copy(name: str) -> Path:
        return shutil.copytree(_saved / name, tmp_path / name)

    return copy


ONE_LEVEL = {"block_out_channels": (8,), "mid_block_type": None, "sample_size": 8}


@pytest.fixture
def one_level(tmp_path: Path) -> Path:
    """A pipeline of few tensors, with attention, for tests that load it once for each of them."""
    blocks = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}
    DDPMPipeline(tiny_unet(**ONE_LEVEL, **blocks), DDPMScheduler()).save_pretrained(tmp_path / "one")
    return tmp_path / "one"


@pytest.fixture(scope="session")
def _saved_with_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipelines")
    for name in tiny_text.NAMES:
        tiny_text.build(name).pipeline.save_pretrained(root / name)
    return root


@pytest.fixture
def text_checkpoint(_saved_with_prompts: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A fresh copy of a saved text-to-image pipeline, one of `tiny_text.NAMES`."""

    def copy(name: str) -> Path:
        return shutil.copytree(_saved_with_prompts / name, tmp_path / name)

    return copy


@pytest.fixture
def sd(text_checkpoint: Callable[[str], Path]) -> Path:
    return text_checkpoint("sd1")


@pytest.fixture
def ddpm(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("ddpm")
