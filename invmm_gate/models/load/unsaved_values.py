"""Values that no file holds: positions, turns, scales, which the libraries compute as they build a network.

A network that was built without memory has none of them; some are no buffers, so that nobody sees them missing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

TIED: Final = ("shared.weight", "encoder.embed_tokens.weight")
"""The two names of T5's one token embedding."""
_TURNS: Final = ("rotary_emb", "rotary_pos_emb")
"""How language models of transformers call the module that turns queries and keys."""
_BUILT_AGAIN: Final[Mapping[str, Callable[[Any], nn.Module]]] = {
    "QwenEmbedRope": lambda old: type(old)(old.theta, old.axes_dim, old.scale_rope),
    "Lumina2RotaryPosEmbed": lambda old: type(old)(old.theta, old.axes_dim, old.axes_lens, old.patch_size),
    "ChromaCombinedTimestepTextProjEmbeddings": lambda old: type(old)(
        old.time_proj.num_channels, old.mod_proj.shape[0]
    ),
}
"""Modules of diffusers without weights, and how the library builds them."""
_PATCHES: Final = "PatchEmbed"
"""Diffusers' patches of an image, whose positions DiT, PixArt and Sana compute; Stable Diffusion 3 has them on disk."""


def complete(network: nn.Module) -> None:
    """Compute them; and make T5's embedding one tensor again."""
    _complete_buffers(network)
    _complete_modules(network)
    if network.state_dict().keys() >= set(TIED):
        network.set_input_embeddings(network.get_input_embeddings())  # type: ignore[operator]


def _complete_buffers(network: nn.Module) -> None:
    for name, buffer in list(network.named_buffers()):
        parent, _, own = name.rpartition(".")
        if buffer.is_meta and own == "position_ids":
            network.get_submodule(parent).register_buffer(own, positions(buffer.shape[-1]), persistent=False)
        elif buffer.is_meta and own == "embed_scale":  # Gemma's embedding
            scaled: Any = network.get_submodule(parent)
            scaled.embed_scale = torch.tensor(scaled.scalar_embed_scale)
        elif buffer.is_meta and own == "pos_embed" and type(network.get_submodule(parent)).__name__ == _PATCHES:
            network.get_submodule(parent).register_buffer(
                own, _places_of_patches(network, parent, buffer), persistent=False
            )


def _complete_modules(network: nn.Module) -> None:
    for name, module in list(network.named_modules()):
        if name.endswith(_TURNS) and any(buffer.is_meta for buffer in module.buffers()):
            network.set_submodule(name, type(module)(module.config))
        elif type(module).__name__ in _BUILT_AGAIN:
            network.set_submodule(name, _BUILT_AGAIN[type(module).__name__](module))


def positions(count: int) -> Tensor:
    """0, 1, 2, ... in one row."""
    return torch.arange(count)[None]


def _places_of_patches(network: Any, name: str, buffer: Tensor) -> Tensor:
    """As the library computes them for the network's own size, with as many features as the buffer has."""
    patches: Any = type(network.get_submodule(name))(
        height=network.config.sample_size,
        width=network.config.sample_size,
        patch_size=network.config.patch_size,
        in_channels=1,
        embed_dim=buffer.shape[-1],
        interpolation_scale=network.get_submodule(name).interpolation_scale,
    )
    places: Tensor = patches.pos_embed
    return places
