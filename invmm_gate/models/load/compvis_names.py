"""Stable Diffusion 1 and 2 in one file, under the names of the CompVis code: each part as diffusers names it.

The conversion is diffusers' own. It leaves out what it does not know without a word, so that the numbers which go
in are counted against those which come out.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from torch import Tensor, nn

from invmm_gate.core.errors import ModelError

Part = Literal["unet", "vae", "text_encoder"]

PREFIXES: Final[dict[Part, str]] = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
}
SCHEDULE: Final = frozenset({
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    "scale_factor",
})  # fmt: skip
"""Numbers that follow from the noise schedule, which scheduler_config.json states."""

_OPEN_CLIP: Final = "cond_stage_model.model."
_UNUSED_IN_OPEN_CLIP: Final = ("logit_scale", "text_projection", "attn_mask", "transformer.resblocks.23.")
"""Beyond the 23 layers that Stable Diffusion 2 uses."""


def from_compvis(tensors: Mapping[str, Tensor], network: nn.Module, part: Part) -> dict[str, Tensor]:
    """The tensors of one part under diffusers' or transformers' names. Raises ModelError for what has no place."""
    _refuse_strange(tensors)
    chosen = {key: tensor for key, tensor in tensors.items() if key.startswith(PREFIXES[part])}
    if part == "text_encoder" and any(key.startswith(_OPEN_CLIP) for key in chosen):
        unused = tuple(_OPEN_CLIP + name for name in _UNUSED_IN_OPEN_CLIP)
        chosen = {key: tensor for key, tensor in chosen.items() if not key.startswith(unused)}
    try:
        converted = _convert(chosen, network, part)
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the {part} in the single file has no CompVis names: {str(error)[:200]}",
            expected="Stable Diffusion 1 or 2 and the configurations that belong to it",
            do="convert the checkpoint to a diffusers folder",
        ) from error
    before, after = (sum(tensor.numel() for tensor in items.values()) for items in (chosen, converted))
    if before != after:
        raise ModelError(
            f"of the {part}'s {before:,} numbers in the single file, {after:,} have a place in the network",
            expected="all of them",
            do="check that the configurations beside the file belong to it",
        )
    return converted


def _refuse_strange(tensors: Mapping[str, Tensor]) -> None:
    known = tuple(PREFIXES.values())
    for key in sorted(key for key in tensors if not key.startswith(known) and key not in SCHEDULE):
        averaged = key.startswith("model_ema.")
        raise ModelError(
            f"the single file holds {'averaged weights too' if averaged else f'the tensor {key!a}'}",
            expected="one UNet, one autoencoder and one text encoder with CompVis names",
            do="export a file with the weights that are released, and no others",
        )


def _convert(chosen: dict[str, Tensor], network: Any, part: Part) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as library

    converted: dict[str, Tensor]
    if part == "unet":
        converted = library.convert_ldm_unet_checkpoint(chosen, network.config)
    elif part == "vae":
        converted = library.convert_ldm_vae_checkpoint(chosen, network.config)
    elif any(key.startswith(_OPEN_CLIP) for key in chosen):
        converted = library.convert_open_clip_checkpoint(network, chosen)
    else:
        converted = library.convert_ldm_clip_checkpoint(chosen)
    return converted
