"""Class-conditional checkpoints of a few thousand random weights, saved by diffusers itself."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)
from torch import nn

from tests.models.conftest import tiny_kl, tiny_unet

CLASSES = 3
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_num_groups": 4,
}


def tiny_dit(**changes: Any) -> DiTTransformer2DModel:
    """Its blocks start as zero; here they say something, and each class another thing."""
    torch.manual_seed(4)
    network = DiTTransformer2DModel(**{**DIT, **changes}).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    return network


def dit_pipeline(**changes: Any) -> DiTPipeline:
    pipeline = DiTPipeline(tiny_dit(**changes), tiny_kl().eval(), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def class_unet(classes: int = CLASSES, **changes: Any) -> UNet2DModel:
    return tiny_unet(num_class_embeds=classes, **changes).eval()


def save_all(root: Path) -> None:
    """`dit`, `few` (a DiT of three classes), `ddpm`, `ddim` and `bare`."""
    dit_pipeline().save_pretrained(root / "dit")
    dit_pipeline(num_embeds_ada_norm=CLASSES).save_pretrained(root / "few")
    DDPMPipeline(class_unet(), DDPMScheduler()).save_pretrained(root / "ddpm")
    DDIMPipeline(class_unet(), DDIMScheduler()).save_pretrained(root / "ddim")
    class_unet().save_pretrained(root / "bare")
    DDPMScheduler().save_pretrained(root / "bare")
