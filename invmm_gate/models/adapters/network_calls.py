"""How the pipelines of diffusers call each class of networks that a prompt conditions: one row of a table for each.

A row knows the network's arguments, how latents are packed for it, in which unit it is told the time, and what it knows
of guidance. All else is the same for every class (`TextToImageModel`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.diffusion.prediction import guided

Guidance = Literal["classifier_free", "embedded", "none"]
"""`classifier_free`: a step away from the unconditional estimate. `embedded`: the network is told the scale, and has no
unconditional branch. `none`: the network knows no scale, and its pipeline ignores it."""
Latents = Float[Tensor, "row channel height width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a network is given, in its own dtype; each tensor has the row first."""

    x_t: Latents
    time: Tensor
    """As the noise level has it: a training timestep, or for flow matching sigma times their number."""
    condition: Mapping[str, Tensor]
    guidance_scale: float
    """For networks that are told it."""
    image_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a pipeline gave its network, in the gate's own terms."""

    x_t: Latents
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCall:
    """How pipelines call networks of one class."""

    predict: Callable[[Any, Given], Tensor]
    """The network's prediction, (row, channel, height, width), with the sign that the scheduler is given."""
    guidance: Callable[[Any], Guidance] = lambda _: "classifier_free"
    """What a network with this configuration knows of guidance."""
    seen: Callable[[tuple[Any, ...], Mapping[str, Any]], Seen]
    """What the arguments of a call mean."""
    pipeline_scale: Callable[[float], float] = lambda scale: scale
    """The pipeline's `guidance_scale` for the gate's, which is 1 for the conditional estimate."""
    guidance_argument: str = "guidance_scale"
    """The pipeline's name for it."""
    negative_prompt: str = ""
    """What guidance leads away from: of pipelines that guide only where they are given one, what their users give."""
    bare_negative: bool = False
    """Whether the pipeline puts nothing around it, though it puts words around the prompt."""
    options: tuple[tuple[str, object], ...] = ()
    """What the pipeline is told too, so that it draws the prompt and the size that it is given and no others."""
    guided: Callable[[Latents, Latents, float], Latents] = guided
    """The guided prediction of the unconditional and the conditional one."""
    unpacked: Callable[[Tensor], Latents] = lambda latents: latents
    """Latents as the pipeline's scheduler holds them, of a square image, as (row, channel, height, width)."""

    def told(self, guidance_scale: float, rows: int) -> dict[str, object]:
        """The pipeline's arguments for so many prompts at a guidance scale of the gate's."""
        negative = {"negative_prompt": [self.negative_prompt] * rows} if self.negative_prompt else {}
        return {self.guidance_argument: self.pipeline_scale(guidance_scale), **negative, **dict(self.options)}


# --- UNet2DConditionModel: Stable Diffusion 1, 2, XL, and text-conditioned LDM


def _unet(network: Any, given: Given) -> Tensor:
    arguments: dict[str, Any] = {"encoder_hidden_states": given.condition["context"], "return_dict": False}
    if _unet_guidance(network.config) == "embedded":
        size = network.config.time_cond_proj_dim
        embedding = guidance_embedding(given.guidance_scale - 1, size).to(given.x_t)
        arguments["timestep_cond"] = embedding.expand(given.x_t.shape[0], size)
    if "pooled" in given.condition:
        pooled = given.condition["pooled"]
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": _size_ids(pooled, given.image_size)}
    output: Tensor = network(given.x_t, given.time, **arguments)[0]
    return output


def _unet_guidance(config: Any) -> Guidance:
    return "classifier_free" if getattr(config, "time_cond_proj_dim", None) is None else "embedded"


def _size_ids(pooled: Tensor, image_size: tuple[int, int]) -> Float[Tensor, "row 6"]:
    """Original size, crop corner and target size, for an image that was never cropped (SD XL)."""
    ids = torch.tensor([*image_size, 0, 0, *image_size], device=pooled.device, dtype=pooled.dtype)
    return ids.expand(pooled.shape[0], 6)


def guidance_embedding(weight: float, size: int) -> Float[Tensor, "1 size"]:
    """Sines, then cosines, of 1000 * weight at falling frequencies: how a distilled UNet is told the guidance.

    `weight` is guidance_scale - 1. Source: arXiv:2210.03142; frequencies as in diffusers' StableDiffusionPipeline.
    """
    half = size // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / (half - 1)))
    angles = 1000.0 * weight * frequencies[None]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return nn.functional.pad(waves, (0, size % 2))


def _seen_by_unet(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    time = arguments[1] if len(arguments) > 1 else named["timestep"]
    return Seen(x_t=arguments[0], time=_number(time))


# --- SD3Transformer2DModel: Stable Diffusion 3 and 3.5


def _sd3(network: Any, given: Given) -> Tensor:
    output: Tensor = network(
        given.x_t,
        timestep=given.time,
        encoder_hidden_states=given.condition["context"],
        pooled_projections=given.condition["pooled"],
        return_dict=False,
    )[0]
    return output


def _seen_by_sd3(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    del arguments
    return Seen(x_t=named["hidden_states"], time=_number(named["timestep"]))


# --- PixArtTransformer2DModel: PixArt-Alpha and PixArt-Sigma


_PIXELS: Final = 8
"""Pixels of the image for one of its latents, along a side: of every checkpoint that is read."""


def _pixart(network: Any, given: Given) -> Tensor:
    """Its prediction of the noise, without the variance that it learned too."""
    rows, channels = given.x_t.shape[:2]
    told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if network.use_additional_conditions:
        height, width = (_PIXELS * side for side in given.x_t.shape[2:])
        told = {
            "resolution": torch.tensor([[height, width]]).expand(rows, 2).to(given.x_t),
            "aspect_ratio": torch.tensor([[height / width]]).expand(rows, 1).to(given.x_t),
        }
    output: Tensor = network(
        given.x_t,
        encoder_hidden_states=given.condition["context"],
        encoder_attention_mask=given.condition["mask"],
        timestep=given.time,
        added_cond_kwargs=told,
        return_dict=False,
    )[0]
    return output[:, :channels]


# --- FluxTransformer2DModel: FLUX.1 dev and schnell

_TIME_UNIT: Final = 1000
"""Pipelines of flow matching divide the time by this, whatever the number of training timesteps."""


def _flux(network: Any, given: Given) -> Tensor:
    """Patches of 2 x 2 latents are its tokens; their places and those of the text are told by ids."""
    rows, _, height, width = given.x_t.shape
    told = torch.full((rows,), given.guidance_scale, device=given.x_t.device)
    output: Tensor = network(
        hidden_states=packed(given.x_t),
        timestep=given.time / _TIME_UNIT,
        guidance=told if network.config.guidance_embeds else None,
        pooled_projections=given.condition["pooled"],
        encoder_hidden_states=given.condition["context"],
        txt_ids=torch.zeros(given.condition["context"].shape[1], 3).to(given.x_t),
        img_ids=_places(height // 2, width // 2).to(given.x_t),
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


def _places(rows: int, columns: int) -> Float[Tensor, "place 3"]:
    """(0, row, column) of each patch."""
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return places.float()


def packed(latents: Latents) -> Float[Tensor, "row patch feature"]:
    """Each 2 x 2 patch of latents as one token: its channels, and in each of them its four values."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, (height // 2) * (width // 2), 4 * channels)


def unpacked(patches: Float[Tensor, "row patch feature"], height: int, width: int) -> Latents:
    """The latents that `packed` was given."""
    rows, _, features = patches.shape
    latents = patches.reshape(rows, height // 2, width // 2, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(rows, features // 4, height, width)


def _unpacked_square(patches: Tensor) -> Latents:
    side = 2 * math.isqrt(patches.shape[1])
    return unpacked(patches, side, side)


def _seen_by_flux(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    del arguments
    return Seen(x_t=_unpacked_square(named["hidden_states"]), time=_number(named["timestep"]) * _TIME_UNIT)


# --- ChromaTransformer2DModel: Chroma


def _chroma(network: Any, given: Given) -> Tensor:
    """As FLUX.1 without a pooled vector; the mask, of prompt and image, has the first token of padding too."""
    rows, _, height, width = given.x_t.shape
    words, patches = given.condition["mask"], packed(given.x_t)
    seen = torch.cat([words[:, :1], words[:, :-1], words.new_ones(rows, patches.shape[1])], dim=1)
    output: Tensor = network(
        hidden_states=patches,
        timestep=given.time / _TIME_UNIT,
        encoder_hidden_states=given.condition["context"],
        txt_ids=torch.zeros(words.shape[1], 3).to(given.x_t),
        img_ids=_places(height // 2, width // 2).to(given.x_t),
        attention_mask=seen,
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


# --- AuraFlowTransformer2DModel: AuraFlow


def _aura_flow(network: Any, given: Given) -> Tensor:
    """The network is told no mask: what its pipeline gives it of padding is zero."""
    output: Tensor = network(
        given.x_t,
        timestep=given.time / _TIME_UNIT,
        encoder_hidden_states=given.condition["context"],
        return_dict=False,
    )[0]
    return output


def _seen_by_aura_flow(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    return Seen(x_t=arguments[0], time=_number(named["timestep"]) * _TIME_UNIT)


# --- Flux2Transformer2DModel: FLUX.2-klein


def _flux_2(network: Any, given: Given) -> Tensor:
    """Each place of the latents is a token; ids tell the row and column of it, and the place of a word."""
    rows, _, height, width = given.x_t.shape
    words = given.condition["context"].shape[1]
    output: Tensor = network(
        hidden_states=_tokens(given.x_t),
        timestep=given.time / _TIME_UNIT,
        guidance=None,
        encoder_hidden_states=given.condition["context"],
        txt_ids=_grid(1, 1, words).to(given.x_t.device),
        img_ids=_grid(height, width, 1).to(given.x_t.device),
        return_dict=False,
    )[0]
    return output.transpose(1, 2).reshape(rows, -1, height, width)


def _grid(rows: int, columns: int, words: int) -> Float[Tensor, "place 4"]:
    """(0, row, column, word) of each place."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns), torch.arange(words))


def _tokens(latents: Latents) -> Float[Tensor, "row place channel"]:
    return latents.flatten(2).transpose(1, 2)


def _square(tokens: Float[Tensor, "row place channel"]) -> Latents:
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)


def _seen_by_flux_2(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    del arguments
    return Seen(x_t=_square(named["hidden_states"]), time=_number(named["timestep"]) * _TIME_UNIT)


# --- QwenImageTransformer2DModel: Qwen-Image


def _qwen_image(network: Any, given: Given) -> Tensor:
    """Tokens as in FLUX.1; what is padding in every row is cut off, the rest of it masked."""
    rows, _, height, width = given.x_t.shape
    words = given.condition["mask"] > 0
    longest = int(words.sum(dim=1).max())
    words = words[:, :longest]
    output: Tensor = network(
        hidden_states=packed(given.x_t),
        timestep=given.time / _TIME_UNIT,
        encoder_hidden_states=given.condition["context"][:, :longest],
        encoder_hidden_states_mask=None if bool(words.all()) else words,
        img_shapes=[[(1, height // 2, width // 2)]] * rows,
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


def _guided_at_the_norm_of_patches(unconditional: Latents, conditional: Latents, guidance_scale: float) -> Latents:
    """Each 2 x 2 patch of the guided prediction, scaled to the norm of the conditional one."""
    height, width = conditional.shape[2:]
    plain, given = packed(guided(unconditional, conditional, guidance_scale)), packed(conditional)
    norms = given.norm(dim=-1, keepdim=True) / plain.norm(dim=-1, keepdim=True)
    return unpacked(plain * norms, height, width)


# --- Lumina2Transformer2DModel: Lumina-Image 2.0


def _lumina_2(network: Any, given: Given) -> Tensor:
    """Its time runs from noise (0) to data (1), and it predicts x_0 - eps; the pipeline turns the sign."""
    output: Tensor = network(
        hidden_states=given.x_t,
        timestep=1 - given.time / _TIME_UNIT,
        encoder_hidden_states=given.condition["context"],
        encoder_attention_mask=(given.condition["mask"] > 0).to(torch.int64),
        return_dict=False,
    )[0]
    return -output


def _guided_at_the_norm_of_lines(unconditional: Latents, conditional: Latents, guidance_scale: float) -> Latents:
    """Each line of each channel of the guided prediction, scaled to the norm of the conditional one."""
    plain = guided(unconditional, conditional, guidance_scale)
    scaled: Tensor = plain * (conditional.norm(dim=-1, keepdim=True) / plain.norm(dim=-1, keepdim=True))
    return scaled


def _seen_by_lumina_2(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    del arguments
    return Seen(x_t=named["hidden_states"], time=_TIME_UNIT - _number(named["timestep"]) * _TIME_UNIT)


# --- SanaTransformer2DModel: Sana


def _sana(network: Any, given: Given) -> Tensor:
    output: Tensor = network(
        given.x_t,
        encoder_hidden_states=given.condition["context"],
        encoder_attention_mask=given.condition["mask"],
        timestep=given.time,
        return_dict=False,
    )[0]
    return output


# --- ZImageTransformer2DModel: Z-Image and Z-Image-Turbo

_PADDED_TO: Final = 32
"""The network pads a prompt to a multiple of so many tokens, and masks what a longer one beside it has more."""


def _z_image(network: Any, given: Given) -> Tensor:
    """Its time runs from noise (0) to data (1), and it predicts x_0 - eps; the pipeline turns the sign.

    Rows whose prompts are padded to one length are predicted together, the others apart: of its neighbours' lengths a
    row sees no more than rounding.
    """
    lengths: list[int] = (given.condition["mask"] > 0).sum(dim=1).tolist()
    output = torch.empty_like(given.x_t)
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(-(-length // _PADDED_TO), []).append(row)
    for rows in groups.values():
        output[rows] = _z_image_rows(network, given, rows, lengths)
    return output


def _z_image_rows(network: Any, given: Given, rows: list[int], lengths: list[int]) -> Tensor:
    predicted: list[Tensor] = network(
        list(given.x_t[rows].unsqueeze(2)),
        (_TIME_UNIT - given.time[rows]) / _TIME_UNIT,
        [given.condition["context"][row, : lengths[row]] for row in rows],
        return_dict=False,
    )[0]
    return -torch.stack(predicted).squeeze(2)


def _seen_by_z_image(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Seen:
    del named
    return Seen(x_t=arguments[0][0].transpose(0, 1), time=_TIME_UNIT - _number(arguments[1]) * _TIME_UNIT)


def _number(time: Any) -> float:
    return float(torch.as_tensor(time).flatten()[0])


CALLS: Final[dict[str, NetworkCall]] = {
    "UNet2DConditionModel": NetworkCall(predict=_unet, guidance=_unet_guidance, seen=_seen_by_unet),
    "SD3Transformer2DModel": NetworkCall(predict=_sd3, seen=_seen_by_sd3),
    "PixArtTransformer2DModel": NetworkCall(
        predict=_pixart,
        seen=_seen_by_unet,
        options=(("clean_caption", False), ("use_resolution_binning", False)),
    ),
    "FluxTransformer2DModel": NetworkCall(
        predict=_flux,
        guidance=lambda config: "embedded" if config.guidance_embeds else "none",
        seen=_seen_by_flux,
        unpacked=_unpacked_square,
    ),
    "ChromaTransformer2DModel": NetworkCall(predict=_chroma, seen=_seen_by_flux, unpacked=_unpacked_square),
    "AuraFlowTransformer2DModel": NetworkCall(predict=_aura_flow, seen=_seen_by_aura_flow),
    "Flux2Transformer2DModel": NetworkCall(predict=_flux_2, seen=_seen_by_flux_2, unpacked=_square),
    "QwenImageTransformer2DModel": NetworkCall(
        predict=_qwen_image,
        seen=_seen_by_flux,
        guidance_argument="true_cfg_scale",
        negative_prompt=" ",
        guided=_guided_at_the_norm_of_patches,
        unpacked=_unpacked_square,
    ),
    "Lumina2Transformer2DModel": NetworkCall(
        predict=_lumina_2, seen=_seen_by_lumina_2, bare_negative=True, guided=_guided_at_the_norm_of_lines
    ),
    "SanaTransformer2DModel": NetworkCall(predict=_sana, seen=_seen_by_unet, bare_negative=True),
    "ZImageTransformer2DModel": NetworkCall(
        predict=_z_image, seen=_seen_by_z_image, pipeline_scale=lambda scale: scale - 1
    ),
}
"""Class of diffusers -> how its networks are called."""
_PLAIN: Final = NetworkCall(predict=_unet, seen=_seen_by_unet)


def call_of(network: nn.Module) -> NetworkCall:
    """How a network is called; one without prompts is called as a UNet is."""
    return CALLS.get(type(network).__name__, _PLAIN)
