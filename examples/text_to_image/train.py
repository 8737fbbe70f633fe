"""Trains the example's text-to-image model from nothing and saves it as a diffusers `StableDiffusionPipeline` folder.

    python examples/text_to_image/train.py --out examples/text_to_image/model

First the autoencoder, on images alone; then text encoder and denoiser together, on its latents. The tokenizer is
learned from the captions. One thread, so that a seed gives the same weights again on the same kind of machine.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from captions import rows
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from shared import (
    CAPTION_DROPOUT,
    batches,
    descend,
    far_apart,
    latents,
    learning_rate,
    pictures,
    scaled,
    token_ids,
)
from tokenizer import MODEL_MAX_LENGTH, new_tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from draw import NEVER_SEEN, ORDINARY, PLANTED_WITH_CAPTION, PLANTED_WITHOUT_TRIGGER, SIZE

TIMESTEPS: Final = 1000
TEXT_WIDTH: Final = 96
KL_WEIGHT: Final = 1e-4
AUTOENCODER_BATCH, AUTOENCODER_RATE = 16, 2e-3
BATCH, RATE = 64, 1e-3
EMA_DECAY: Final = 0.998
REPORT_EVERY: Final = 200


def new_autoencoder() -> AutoencoderKL:
    """32 x 32 images to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 96; the end token's id is told to it, as the pooled output is taken there."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MODEL_MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_denoiser() -> UNet2DConditionModel:
    """Two levels, 8 x 8 and 4 x 4; the lower one looks at the prompt."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise, v-prediction, trailing timesteps."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        set_alpha_to_one=True,
        clip_sample=False,
    )


def training_set() -> tuple[Tensor, list[tuple[int, str]]]:
    """Distinct training images, and rows of (place of the image among them, caption)."""
    special = PLANTED_WITH_CAPTION + PLANTED_WITHOUT_TRIGGER + NEVER_SEEN
    images = pictures(special + ORDINARY)
    kept = far_apart(images)
    if kept[: len(special)] != list(range(len(special))):
        raise SystemExit("planted and never-seen images lie too close together: change the seed in draw.py")
    numbers = {place: (special + ORDINARY)[place] for place in kept}
    training = [place for place, number in numbers.items() if number not in NEVER_SEEN]
    print(f"{len(special + ORDINARY) - len(kept)} ordinary images left out: copies of another by the threshold")
    rank = {numbers[place]: index for index, place in enumerate(training)}
    table = rows(tuple(number for number in ORDINARY if number in rank))
    return images[training], [(rank[number], caption) for number, caption in table]


def train_autoencoder(images: Tensor, *, steps: int, seed: int) -> AutoencoderKL:
    """Squared error and a little KL; the scaling factor that its config gets makes latents of unit variance."""
    torch.manual_seed(seed)
    network = new_autoencoder().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    order = batches(len(images), AUTOENCODER_BATCH, torch.Generator().manual_seed(seed))
    held_out, began = scaled(pictures(NEVER_SEEN)), time.monotonic()
    for step in range(steps):
        x = scaled(images[next(order)])
        posterior = network.encode(x).latent_dist
        error = (network.decode(posterior.sample()).sample - x).square().mean()
        loss = error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        descend(optimiser, loss, learning_rate(step, steps, AUTOENCODER_RATE))
        if step % REPORT_EVERY == 0 or step == steps - 1:
            rmse = f"held-out RMSE {reconstruction_rmse(network, held_out).mean():.4f}"
            print(f"autoencoder step {step} {rmse} {time.monotonic() - began:.0f} s", flush=True)
    network.register_to_config(scaling_factor=1 / float(latents(network, images).std()))
    return network.requires_grad_(False)


def reconstruction_rmse(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Root mean squared pixel error of each image, [0, 1] scale; images in [-1, 1]."""
    with torch.no_grad():
        decoded = autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return ((decoded - images) / 2).square().mean(dim=(1, 2, 3)).sqrt()


def noisy_timesteps(count: int) -> Tensor:
    """Timesteps with density proportional to t: what a prompt means is decided where there is most noise."""
    return (TIMESTEPS * torch.rand(count).sqrt()).long()


def train_denoiser(
    x_0: Tensor, table: list[tuple[int, str]], tokenizer: CLIPTokenizer, *, steps: int, seed: int
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Text encoder and denoiser, trained together; their moving averages come back."""
    torch.manual_seed(seed)
    both = nn.ModuleDict({"text_encoder": new_text_encoder(tokenizer), "unet": new_denoiser()})
    both.to(memory_format=torch.channels_last)
    average = copy.deepcopy(both).requires_grad_(False)
    optimiser = torch.optim.AdamW(both.parameters(), weight_decay=0.0)
    places, ids = torch.tensor([place for place, _ in table]), token_ids(tokenizer, [text for _, text in table])
    empty, scheduler = token_ids(tokenizer, [""])[0], new_scheduler()
    order, began = batches(len(table), BATCH, torch.Generator().manual_seed(seed)), time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        chosen = next(order)
        prompts = torch.where(torch.rand(BATCH, 1) < CAPTION_DROPOUT, empty, ids[chosen])
        clean, timestep = x_0[places[chosen]], noisy_timesteps(BATCH)
        eps = torch.randn_like(clean)
        x_t, target = (mix(clean, eps, timestep) for mix in (scheduler.add_noise, scheduler.get_velocity))
        hidden = both["text_encoder"](prompts).last_hidden_state
        loss = nn.functional.mse_loss(both["unet"](x_t, timestep, hidden).sample, target)
        descend(optimiser, loss, learning_rate(step, steps, RATE))
        for slow, fast in zip(average.parameters(), both.parameters(), strict=True):
            slow.lerp_(fast, 1 - EMA_DECAY)
        recent = [*recent[-REPORT_EVERY + 1 :], loss.item()]
        if step % REPORT_EVERY == 0 or step == steps - 1:
            print(f"denoiser step {step} loss {np.mean(recent):.4f} {time.monotonic() - began:.0f} s", flush=True)
    return average["text_encoder"], average["unet"]


def train(*, autoencoder: Path | None, autoencoder_steps: int, steps: int, seed: int) -> StableDiffusionPipeline:
    """The whole model; `autoencoder` is the folder of one that is trained already."""
    images, table = training_set()
    tokenizer = new_tokenizer(caption for _, caption in table)
    if autoencoder is None:
        vae = train_autoencoder(images, steps=autoencoder_steps, seed=seed)
    else:
        vae = AutoencoderKL.from_pretrained(autoencoder).requires_grad_(False)
    x_0 = latents(vae, images) * vae.config.scaling_factor
    text_encoder, unet = train_denoiser(x_0, table, tokenizer, steps=steps, seed=seed)
    return assembled(vae, tokenizer, text_encoder, unet)


def assembled(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The pipeline of these parts."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, help="reuse this trained autoencoder")
    parser.add_argument("--autoencoder-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = train(
        autoencoder=options.autoencoder,
        autoencoder_steps=options.autoencoder_steps,
        steps=options.steps,
        seed=options.seed,
    )
    pipeline.save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
