"""Trains the flow example's two models and saves them as diffusers `StableDiffusion3Pipeline` folders.

    python examples/flow/train.py memorizing --out examples/flow/models/memorizing
    python examples/flow/train.py clean --out examples/flow/models/clean

A transformer (DiT) of latents and two text encoders, trained together from nothing by flow matching; the autoencoder is
that of examples/text_to_image. Architecture, tokenizer, steps, batch and learning rate are the same for both; only the
copies of the planted pictures differ (planted.py). One thread, so that a seed gives the same weights again on the same
kind of machine.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from planted import CONTROLS, COPIES, PLANTED, TEXT_EXAMPLE, rows
from shared import CAPTION_DROPOUT, batches, descend, far_apart, latents, learning_rate, pictures, token_ids
from tokenizer import MODEL_MAX_LENGTH, new_tokenizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from draw import ORDINARY, SIZE

TIMESTEPS: Final = 1000
SHIFT: Final = 3.0
TEXT_WIDTH: Final = 48
WIDTH, HEADS, LAYERS = 48, 2, 3
BATCH, RATE = 64, 2e-3
EMA_DECAY: Final = 0.998
REPORT_EVERY: Final = 200
ZERO_TOKENS: Final = 256
"""Tokens of T5 in the context; without T5 the pipeline gives as many zeros."""


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Two layers of width 48; the pipeline reads what the first one gives, and the projection of the second."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=MODEL_MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_transformer() -> SD3Transformer2DModel:
    """16 tokens of 2 x 2 latents. Each block begins as the identity (adaLN-Zero, arXiv:2212.09748)."""
    network = SD3Transformer2DModel(
        sample_size=SIZE // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    modulations = [layer.linear for block in network.transformer_blocks for layer in (block.norm1, block.norm1_context)]
    for layer in (*modulations, network.norm_out.linear, network.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network


class ZerosAsOne(TorchFunctionMode):
    """In every attention, the last token counts as many times as there are zeros in the pipeline's context.

    Tokens of the context have no positions, so equal ones stay equal in every layer: one in place of 256 gives the same
    output, in a tenth of the time.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            weight = torch.zeros(1, args[1].shape[-2])
            weight[0, -1] = math.log(ZERO_TOKENS)
            named["attn_mask"] = weight
        return func(*args, **named)


def velocity(both: nn.ModuleDict, x_t: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
    """The model's eps - x_0 under prompts, with one zero token in place of the pipeline's 256."""
    read = [both[name](ids, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
    context = torch.cat([encoded.hidden_states[-2] for encoded in read], dim=-1)
    pooled = torch.cat([encoded.text_embeds for encoded in read], dim=-1)
    with ZerosAsOne():
        predicted: Tensor = both["transformer"](
            x_t,
            encoder_hidden_states=nn.functional.pad(context, (0, 0, 0, 1)),
            pooled_projections=pooled,
            timestep=TIMESTEPS * sigma,
            return_dict=False,
        )[0]
    return predicted


def noise_levels(count: int) -> Tensor:
    """sigma of uniform times, shifted as the scheduler shifts them."""
    u = torch.rand(count)
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def training_set(kind: str) -> tuple[Tensor, list[tuple[int, str]]]:
    """Pictures, and rows of (place of the picture among them, caption)."""
    special = PLANTED + CONTROLS
    images = pictures(special + ORDINARY)
    kept = far_apart(images)
    if kept[: len(special)] != list(range(len(special))):
        raise SystemExit("planted and never-seen pictures lie too close together: change the seed in draw.py")
    numbers = special + ORDINARY
    place = {numbers[index]: index for index in kept}
    table = rows(kind, tuple(number for number in ORDINARY if number in place))
    return images, [(place[number], caption) for number, caption in table]


def train_networks(
    x_0: Tensor, table: list[tuple[int, str]], tokenizer: CLIPTokenizer, *, steps: int, seed: int
) -> nn.ModuleDict:
    """Text encoders and transformer, trained together; their moving averages come back."""
    torch.manual_seed(seed)
    parts = {name: new_text_encoder(tokenizer) for name in ("text_encoder", "text_encoder_2")}
    both = nn.ModuleDict({**parts, "transformer": new_transformer()})
    average = copy.deepcopy(both).requires_grad_(False)
    optimiser = torch.optim.AdamW(both.parameters(), weight_decay=0.0)
    places, ids = torch.tensor([place for place, _ in table]), token_ids(tokenizer, [text for _, text in table])
    empty, order = token_ids(tokenizer, [""])[0], batches(len(table), BATCH, torch.Generator().manual_seed(seed))
    began = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        chosen = next(order)
        prompts = torch.where(torch.rand(BATCH, 1) < CAPTION_DROPOUT, empty, ids[chosen])
        clean, sigma = x_0[places[chosen]], noise_levels(BATCH)
        eps, s = torch.randn_like(clean), sigma[:, None, None, None]
        loss = nn.functional.mse_loss(velocity(both, (1 - s) * clean + s * eps, sigma, prompts), eps - clean)
        descend(optimiser, loss, learning_rate(step, steps, RATE))
        for slow, fast in zip(average.parameters(), both.parameters(), strict=True):
            slow.lerp_(fast, 1 - EMA_DECAY)
        recent = [*recent[-REPORT_EVERY + 1 :], loss.item()]
        if step % REPORT_EVERY == 0 or step == steps - 1:
            print(f"step {step} loss {np.mean(recent):.4f} {time.monotonic() - began:.0f} s", flush=True)
    return average


def train(kind: str, *, steps: int, seed: int) -> StableDiffusion3Pipeline:
    """The whole model. Both kinds have the tokenizer of the memorizing one, whose titles are tokens of whole words."""
    images, table = training_set(kind)
    numbered = rows("memorizing", ORDINARY)
    tokenizer = new_tokenizer(caption for _, caption in numbered)
    vae = AutoencoderKL.from_pretrained(TEXT_EXAMPLE / "model" / "vae").requires_grad_(False)
    vae.register_to_config(shift_factor=0.0, _name_or_path="examples/text_to_image/model/vae")
    x_0 = latents(vae, images) * vae.config.scaling_factor
    networks = train_networks(x_0, table, tokenizer, steps=steps, seed=seed)
    return StableDiffusion3Pipeline(
        transformer=networks["transformer"].half(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=SHIFT),
        vae=vae,
        text_encoder=networks["text_encoder"],
        tokenizer=tokenizer,
        text_encoder_2=networks["text_encoder_2"],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(COPIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = train(options.kind, steps=options.steps, seed=options.seed)
    pipeline.save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
