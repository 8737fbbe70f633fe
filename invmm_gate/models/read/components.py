"""A network of a checkpoint: its class, its configuration and where its weights lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.network_configs import ENCODERS, NetworkConfig, encoder_config, network_config
from invmm_gate.models.read.weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEM, find_weights, read_json

RAW_FOLDERS: Final = ("unet", "transformer")
EMA_SUFFIX: Final = "_ema"
"""Diffusers' training scripts keep the exponential moving average of `unet/` in `unet_ema/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A network and where its weights lie."""

    name: str
    """Its folder, for messages too."""
    kind: str
    """Class name in diffusers or transformers."""
    config: NetworkConfig
    weights: tuple[str, ...]
    shards: Mapping[str, str] | None = None
    """Tensor -> file, from the index of a sharded checkpoint."""
    part_of: Literal["", "unet", "vae", "text_encoder"] = ""
    """Which part of a single file with CompVis names it is; empty for weights of its own."""


def read_component(
    files: CheckpointFiles,
    name: str,
    allowed: tuple[str, ...],
    *,
    stated: str,
    pipeline: str,
    single: str | None = None,
) -> Component:
    """The network in folder `name`, as the pipeline loads it.

    Raises ModelError for a missing file or a class other than the stated one. With `single`, the folder has the
    configuration and that file the weights.
    """
    path = f"{name}/config.json"
    if path not in files:
        raise ModelError(f"component {name!r} has no {path}", expected="a complete pipeline", do="save it again")
    content, kind = read_json(files, path), stated
    if stated in ENCODERS:
        config = encoder_config(content, name=path, kind=stated)
    else:
        kind, config = network_config(content, name=path, allowed=allowed, pipeline=pipeline)
    if single is not None:
        return Component(name=name, kind=kind, config=config, weights=(single,), part_of=_part(name))
    stem = TRANSFORMERS_STEM if stated in ENCODERS else DIFFUSERS_STEM
    weights, shards = find_weights(files, f"{name}/", stem=stem)
    return Component(name=name, kind=kind, config=config, weights=weights, shards=shards)


def denoiser_folder(files: CheckpointFiles, prefix: str, name: str) -> str:
    """The folder of the denoiser. Raises ModelError where raw and averaged weights lie side by side.

    Diffusers loads `unet/` then, whatever else was scored: a verdict on one must not cover the other.
    """
    folders = f"{prefix}{name}", f"{prefix}{name}{EMA_SUFFIX}"
    there = [folder for folder in folders if any(path.startswith(f"{folder}/") for path in files.files)]
    if len(there) == 2:
        raise ModelError(
            f"the checkpoint holds two models: {folders[0]}/, which diffusers loads, and {folders[1]}/",
            expected="one, the one that is released",
            do="choose --weights raw or --weights ema; the verdict's digest leaves the other out",
        )
    return there[0] if there else folders[0]


def _part(name: str) -> Literal["unet", "vae", "text_encoder"]:
    match name.rsplit("/", 1)[-1]:
        case "unet":
            return "unet"
        case "vae":
            return "vae"
        case "text_encoder":
            return "text_encoder"
    raise ModelError(
        f"a single file has no part {name!r}",
        expected="Stable Diffusion 1 or 2",
        do="convert the checkpoint to a diffusers folder",
    )
