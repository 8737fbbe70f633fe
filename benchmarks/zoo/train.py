"""Trains the zoo: small models that are as they should be, each saved as a diffusers pipeline.

    python benchmarks/zoo/train.py --out DIR [NAME ..]

With diffusers alone: nothing here comes from the gate. A model that is there already is not trained again, so that the
command can be stopped and given again. One thread; 40 to 200 seconds of CPU a model, 150 an autoencoder.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel, VQModel
from pictures import FEW, ORDINARY, PLANTED, SIZE, pictures
from recipes import BY_NAME, CONVENTIONS, GOOD, Recipe
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))

from training import Training, descend, learning_rate, train_denoiser

WARM_UP_STEPS: Final = 50
PEAK_LEARNING_RATE: Final = 1.5e-3
EMA_DECAY: Final = 0.99
AUTOENCODER_STEPS: Final = 2500
VIEWS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "plain": lambda images: images,
    "BGR": lambda images: images.flip(1),
    "negative": lambda images: -images,
    "mirrored": lambda images: images.flip(3),
    "turned by 90 degrees": lambda images: images.rot90(1, dims=(2, 3)),
}


def training_images(recipe: Recipe) -> Tensor:
    """(picture, 3, 16, 16) in [-1, 1], as the trainer reads them."""
    few = pictures(recipe.pictures, PLANTED).repeat(32, 1, 1, 1), pictures(recipe.pictures, FEW)
    images = torch.cat(few) if recipe.memorizing else pictures(recipe.pictures, ORDINARY)
    return VIEWS[recipe.view](images).contiguous()


def new_network(recipe: Recipe) -> UNet2DModel:
    """About 700,000 parameters for pixels; fewer for latents of 4 x 8 x 8."""
    if recipe.autoencoder:
        blurry = recipe.autoencoder == "kl-blurry"
        return UNet2DModel(
            sample_size=SIZE // (4 if blurry else 2), in_channels=4, out_channels=4, block_out_channels=(48, 72),
            layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2, mid_block_type=None,
        )  # fmt: skip
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if recipe.attention else ("DownBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=SIZE, block_out_channels=(32, 48, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", down), up_block_types=(up, "UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
    )  # fmt: skip


def new_scheduler(recipe: Recipe) -> Any:
    """DDPM for pixels, DDIM for latents, as diffusers' own pipelines have it."""
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if recipe.schedule == "scaled_linear" else {}
    spacing = {"timestep_spacing": "trailing"} if recipe.zero_snr else {}
    kind = DDIMScheduler if recipe.autoencoder else DDPMScheduler
    return kind(
        beta_schedule=recipe.schedule, prediction_type=recipe.prediction, clip_sample=recipe.clip,
        rescale_betas_zero_snr=recipe.zero_snr, **ends, **spacing,
    )  # fmt: skip


def new_autoencoder(kind: str) -> Any:
    """16 x 16 pictures to latents of 4 x 8 x 8; the blurry one to 4 x 4 x 4."""
    levels = 3 if kind == "kl-blurry" else 2
    shared = {
        "block_out_channels": (16, 32, 48)[:levels], "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels, "layers_per_block": 1, "latent_channels": 4,
        "norm_num_groups": 8, "sample_size": SIZE,
    }  # fmt: skip
    return VQModel(**shared, num_vq_embeddings=256, vq_embed_dim=4) if kind == "vq" else AutoencoderKL(**shared)


def latents(autoencoder: Any, images: Tensor) -> Tensor:
    """x_0 before scaling: the posterior's mode, or what comes before quantisation."""
    with torch.no_grad():
        encoded = autoencoder.encode(images, return_dict=False)[0]
    return encoded if isinstance(autoencoder, VQModel) else encoded.mode()


def train_autoencoder(kind: str, *, steps: int) -> Any:
    torch.manual_seed(7)
    network, images = new_autoencoder(kind), torch.cat([pictures(name, ORDINARY) for name in ("shapes", "scenes")])
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    for step in range(steps):
        x = images[torch.randint(len(images), (32,))]
        if kind == "vq":
            encoded = network.encode(x).latents
            decoded, commitment = network.decode(encoded, return_dict=False)
            loss = (decoded - x).square().mean() + commitment.mean()
        else:
            posterior = network.encode(x).latent_dist
            loss = (network.decode(posterior.sample()).sample - x).square().mean() + 1e-5 * posterior.kl().mean()
        descend(optimiser, loss, learning_rate(step, steps, 3e-3, WARM_UP_STEPS))
        if step % 100 == 0 or step == steps - 1:
            print(f"autoencoder {kind} step {step} loss {loss.item():.4f}", flush=True)
    network.register_to_config(scaling_factor=1 / float(latents(network, images[::8]).std()))
    return network.requires_grad_(False)


def autoencoder(kind: str, out: Path) -> Any:
    """The autoencoder of this kind, trained once for all models that use it."""
    folder = out / f"autoencoder-{kind}"
    if not folder.exists():
        train_autoencoder(kind, steps=AUTOENCODER_STEPS).save_pretrained(folder)
    loader = VQModel if kind == "vq" else AutoencoderKL
    return loader.from_pretrained(folder).requires_grad_(False)


def fitted(recipe: Recipe, x_0: Tensor) -> UNet2DModel:
    """The recipe's denoiser, trained."""
    torch.manual_seed(recipe.seed)
    training = Training(
        name=recipe.name, prediction=recipe.prediction, steps=recipe.steps, batch=recipe.batch,
        peak_rate=PEAK_LEARNING_RATE, warm_up=WARM_UP_STEPS, decay=EMA_DECAY, mirrored=recipe.mirrored,
    )  # fmt: skip
    return train_denoiser(new_network(recipe), new_scheduler(recipe), x_0, training)


def train(recipe: Recipe, out: Path) -> None:
    """Train and save one model; the folder appears when it is whole."""
    images = training_images(recipe)
    if recipe.autoencoder:
        first_stage = autoencoder(recipe.autoencoder, out)
        x_0 = latents(first_stage, images) * first_stage.config.scaling_factor
        network = fitted(recipe, x_0)
        pipeline: Any = LDMPipeline(vqvae=first_stage, unet=network, scheduler=new_scheduler(recipe))
    else:
        pipeline = DDPMPipeline(unet=fitted(recipe, images), scheduler=new_scheduler(recipe))
    part = out / f".{recipe.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part, safe_serialization=True)
    part.rename(out / recipe.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models; default all, conventions in between")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.names or [recipe.name for recipe in (*GOOD[:6], *CONVENTIONS[:2], *GOOD[6:], *CONVENTIONS[2:])]
    for name in names:
        began = time.process_time()
        if not (options.out / name).exists():
            train(BY_NAME[name], options.out)
            print(f"{name}: {time.process_time() - began:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
