"""Trains the models of the likelihood study, each saved as a diffusers pipeline.

    INVMM_CIFAR10=cifar10_subset.npz python benchmarks/ladder/train.py --out DIR [NAME ..]

With diffusers alone: nothing here comes from the gate. A model that is there already is not trained again. One thread.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel
from images import training_set
from recipes import RECIPES, Recipe
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))

from training import Training, descend, learning_rate, train_denoiser

BATCH: Final = 64
WARM_UP_STEPS: Final = 100
PEAK_LEARNING_RATE: Final = 1.2e-3
EMA_DECAY: Final = 0.995
AUTOENCODER_STEPS: Final = 2500


def new_network(recipe: Recipe) -> UNet2DModel:
    """Half a million to a million parameters."""
    levels = len(recipe.widths)
    channels = 4 if recipe.latent else 1 if recipe.source == "digits" else 3
    return UNet2DModel(
        sample_size=recipe.size // 4 if recipe.latent else recipe.size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=recipe.widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type=None,
    )


def new_scheduler(recipe: Recipe) -> Any:
    """DDPM for pixels, DDIM for latents, as diffusers' own pipelines have it."""
    ends = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False} if recipe.latent else {}
    kind = DDIMScheduler if recipe.latent else DDPMScheduler
    return kind(beta_schedule=recipe.schedule, prediction_type=recipe.prediction, **ends)


def train_autoencoder(recipe: Recipe, pictures: Tensor) -> AutoencoderKL:
    """32 x 32 images to latents of 4 x 8 x 8 with unit variance."""
    torch.manual_seed(recipe.seed)
    network = AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=recipe.size,
    )
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    for step in range(AUTOENCODER_STEPS):
        x = pictures[torch.randint(len(pictures), (32,))]
        posterior = network.encode(x).latent_dist
        loss = (network.decode(posterior.sample()).sample - x).square().mean() + 1e-5 * posterior.kl().mean()
        descend(optimiser, loss, learning_rate(step, AUTOENCODER_STEPS, 3e-3, WARM_UP_STEPS))
        if step % 500 == 0 or step == AUTOENCODER_STEPS - 1:
            print(f"{recipe.name}: autoencoder step {step} loss {loss.item():.4f}", flush=True)
    network.register_to_config(scaling_factor=1 / float(latents(network, pictures[:512]).std()))
    return network.requires_grad_(False)


def latents(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """The posterior's modes, not scaled."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part).latent_dist.mode() for part in pictures.split(256)])


def fitted(recipe: Recipe, x_0: Tensor) -> UNet2DModel:
    """The recipe's denoiser, trained."""
    torch.manual_seed(recipe.seed)
    training = Training(
        name=recipe.name, prediction=recipe.prediction, steps=recipe.steps, batch=BATCH,
        peak_rate=PEAK_LEARNING_RATE, warm_up=WARM_UP_STEPS, decay=EMA_DECAY, print_every=500,
    )  # fmt: skip
    return train_denoiser(new_network(recipe), new_scheduler(recipe), x_0, training)


def train(recipe: Recipe, out: Path) -> None:
    """Train and save one model; the folder appears when it is whole."""
    pictures = training_set(recipe)
    if recipe.latent:
        autoencoder = train_autoencoder(recipe, pictures)
        x_0 = latents(autoencoder, pictures) * autoencoder.config.scaling_factor
        network = fitted(recipe, x_0)
        pipeline: Any = LDMPipeline(vqvae=autoencoder, unet=network, scheduler=new_scheduler(recipe))
    else:
        pipeline = DDPMPipeline(unet=fitted(recipe, pictures), scheduler=new_scheduler(recipe))
    part = out / f".{recipe.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part, safe_serialization=True)
    part.rename(out / recipe.name)


def main() -> None:
    """Train what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; default: all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or RECIPES:
        began = time.process_time()
        if not (options.out / name).exists():
            train(RECIPES[name], options.out)
            print(f"{name}: {time.process_time() - began:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
