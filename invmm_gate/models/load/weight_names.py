"""Tensors under the names that today's libraries give them, each old name mapped to exactly one new one.

Stable Diffusion 1 and 2 in one file have the names of the CompVis code. Their conversion is diffusers' own, which says
nothing of what it leaves out: the numbers that go in are counted against those that come out.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.components import Component, Part
from invmm_gate.models.read.network_configs import ENCODERS

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
_AVERAGING: Final = ("model_ema.decay", "model_ema.num_updates")
"""Numbers that CompVis' trainer keeps of its average, also in files without averaged weights."""
_OPEN_CLIP: Final = "cond_stage_model.model."
_UNUSED_IN_OPEN_CLIP: Final = ("logit_scale", "text_projection", "attn_mask", "transformer.resblocks.23.")
"""Beyond the 23 layers that Stable Diffusion 2 uses."""
Tensors = Mapping[str, Tensor]
_OLD_ATTENTION: Final = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_NAMES: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TEXT_MODEL: Final = "text_model."
"""CLIP's encoder is nested under this name on disk; transformers 5 has `CLIPTextModel` without the nesting."""
_TIED: Final = ("shared.weight", "encoder.embed_tokens.weight")
"""The two names of T5's one token embedding."""
_TIED_HEAD: Final = ("model.embed_tokens.weight", "lm_head.weight")
"""Token embedding and head of a language model, where they are one tensor; no prompt sees the head."""
_LANGUAGE_MODEL: Final = "model."
"""A language model with a head is nested under this name; transformers loads it without its head too."""


def current_names(tensors: Tensors, network: nn.Module, component: Component) -> Tensors:
    """The tensors of a component under the names that `network` has for them.

    Raises ModelError for a tensor that is there under two names, or a buffer with other numbers than the library's.
    """
    if component.part_of:
        tensors = from_compvis(tensors, network, component.part_of)
    if component.kind not in ENCODERS:
        return _current_attention(tensors)
    expected = network.state_dict().keys()
    if component.kind.startswith("Qwen3"):
        return _of_language_model(tensors, expected)
    return _tied(_nested(_without_position_ids(tensors, component.name), expected), expected, component.name)


def complete(network: nn.Module) -> None:
    """Values for what no file holds: positions of CLIP and DiT, the turns of Qwen, T5's embedding as one tensor."""
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta and name.endswith("position_ids"):
            parent, _, own = name.rpartition(".")
            network.get_submodule(parent).register_buffer(own, _positions(buffer.shape[-1]), persistent=False)
    _positions_of_patches(network)
    for name, module in list(network.named_modules()):
        if name.endswith("rotary_emb") and any(buffer.is_meta for buffer in module.buffers()):
            network.set_submodule(name, type(module)(module.config))
    if network.state_dict().keys() >= set(_TIED):
        network.set_input_embeddings(network.get_input_embeddings())  # type: ignore[operator]


def _positions_of_patches(network: Any) -> None:
    """Those of DiT, which follow from its size; Stable Diffusion 3 has its own on disk."""
    patches: Any = getattr(network, "pos_embed", None)
    if type(patches).__name__ != "PatchEmbed" or not patches.pos_embed.is_meta:
        return
    config: Any = network.config
    own = type(patches)(
        height=config.sample_size,
        width=config.sample_size,
        patch_size=config.patch_size,
        in_channels=1,
        embed_dim=patches.pos_embed.shape[-1],
    )
    patches.register_buffer("pos_embed", own.pos_embed, persistent=False)


def _positions(count: int) -> Tensor:
    return torch.arange(count)[None]


def _current_attention(tensors: Tensors) -> Tensors:
    """Attention tensors saved before diffusers 0.18, as diffusers itself converts them."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        old = _OLD_ATTENTION.fullmatch(key)
        name = f"{old[1]}.{_NEW_NAMES[old[2]]}.{old[3]}" if old else key
        if name in renamed or (old and name in tensors):
            raise ModelError(f"tensor {name!r} is there under its old and its new name", expected="one of them")
        renamed[name] = tensor
    return renamed


def _without_position_ids(tensors: Tensors, name: str) -> Tensors:
    """A buffer that transformers saved before 4.31 and computes since."""
    kept = dict(tensors)
    for key in [key for key in tensors if key.endswith("embeddings.position_ids")]:
        buffer = kept.pop(key)
        if buffer.dim() != 2 or not torch.equal(buffer.to(torch.int64), _positions(buffer.shape[-1])):
            raise ModelError(f"{name}: {key!r} does not count 0, 1, 2, ...", expected="the positions of a CLIP encoder")
    return kept


def _nested(tensors: Tensors, expected: Collection[str]) -> Tensors:
    """With or without the nesting, as `expected` has it; only where every tensor has the other form."""
    wanted = {key.startswith(_TEXT_MODEL) for key in expected if not key.startswith("text_projection")}
    found = {key.startswith(_TEXT_MODEL) for key in tensors if not key.startswith("text_projection")}
    if wanted == {False} and found == {True}:
        return {key.removeprefix(_TEXT_MODEL): tensor for key, tensor in tensors.items()}
    if wanted == {True} and found == {False}:
        return {
            key if key.startswith("text_projection") else _TEXT_MODEL + key: tensor for key, tensor in tensors.items()
        }
    return tensors


def _of_language_model(tensors: Tensors, expected: Collection[str]) -> Tensors:
    """Without the nesting where the network has no head; with the head that is the embedding, where it has one."""
    if not any(key.startswith(_LANGUAGE_MODEL) for key in expected):
        return {key.removeprefix(_LANGUAGE_MODEL): tensor for key, tensor in tensors.items()}
    embedding, head = _TIED_HEAD
    return {head: tensors[embedding], **tensors} if embedding in tensors else tensors


def _tied(tensors: Tensors, expected: Collection[str], name: str) -> Tensors:
    """T5's embedding under both of its names; files hold it under one of them, or twice the same."""
    there = [key for key in _TIED if key in tensors]
    if not there or not set(_TIED) <= set(expected):
        return tensors
    first = tensors[there[0]]
    if not torch.equal(first, tensors[there[-1]]):
        raise ModelError(f"{name}: {_TIED[0]} and {_TIED[1]} differ", expected="one token embedding")
    return {**tensors, **dict.fromkeys(_TIED, first)}


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
    passed = SCHEDULE | {key for key in _AVERAGING if key in tensors and tensors[key].numel() == 1}
    for key in sorted(key for key in tensors if not key.startswith(known) and key not in passed):
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
