"""The networks of a checkpoint: configuration and weights of each, and where they lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.network_configs import ENCODERS, NetworkConfig, encoder_config, loaded_as, network_config
from invmm_gate.models.read.weight_file_names import DIFFUSERS_STEM, TRANSFORMERS_STEM
from invmm_gate.models.read.weight_files import find_weights, read_part

Part = Literal["unet", "vae", "text_encoder"]
_PARTS: Final[dict[str, Part]] = {"unet": "unet", "vae": "vae", "text_encoder": "text_encoder"}
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
    config_file: str
    """Empty where the configuration is in the header of the weights."""
    weights: tuple[str, ...]
    index: str = ""
    """The file that says which shard holds which tensor; empty for one file."""
    shards: Mapping[str, str] | None = None
    """Tensor -> file, from the index of a sharded checkpoint."""
    part_of: Part | Literal[""] = ""
    """Which part of a single file with CompVis names it is; empty for weights of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelined:
    """How the pipeline that a network belongs to loads it."""

    pipeline: str
    single: str | None
    """The file that has the weights, where the folder has the configurations alone."""
    variant: str


def read_component(
    files: CheckpointFiles, folder: str, allowed: tuple[str, ...], *, part: str, stated: str, loaded: Pipelined
) -> Component:
    """The network that the pipeline calls `part`, below `folder`: a path with its slash, or empty for the root.

    Raises ModelError for a missing file or a class other than the stated one.
    """
    name, path = folder.removesuffix("/") or part, f"{folder}config.json"
    content, kind = read_part(files, name, path), stated
    if stated in ENCODERS:
        config = encoder_config(content, name=path, kind=stated)
    else:
        kind, config = network_config(content, name=path, allowed=allowed, pipeline=loaded.pipeline)
        if loaded_as(loaded.pipeline, kind) != loaded_as(loaded.pipeline, stated):
            raise ModelError(
                f"model_index.json names {stated} for {part!r}, {path} {kind}",
                expected="one class: diffusers takes that of model_index.json",
                do="save the pipeline again",
            )
        kind = loaded_as(loaded.pipeline, kind)
    if loaded.single is not None:
        return Component(
            name=name, kind=kind, config=config, config_file=path, weights=(loaded.single,), part_of=_part(part)
        )
    stem = TRANSFORMERS_STEM if stated in ENCODERS else DIFFUSERS_STEM
    found = find_weights(files, folder, stem=stem, variant=loaded.variant)
    return Component(
        name=name,
        kind=kind,
        config=config,
        config_file=path,
        weights=found.files,
        index=found.index,
        shards=found.shards,
    )


def denoiser_folder(files: CheckpointFiles, prefix: str, name: str, *, root: bool) -> str | None:
    """The folder of the denoiser; None where it has none. Raises ModelError for raw and averaged weights side by side.

    `root`: whether the pipeline would load the raw ones from the root of the checkpoint.

    Diffusers loads `unet/` then, whatever else was scored: a verdict on one must not cover the other.
    """
    folders = f"{prefix}{name}/", f"{prefix}{name}{EMA_SUFFIX}/"
    there = [folder for folder in folders if any(path.startswith(folder) for path in files.files)]
    if len(there) == 2:
        raise ModelError(
            f"the checkpoint holds two models: {folders[0]}, which diffusers loads, and {folders[1]}",
            expected="one, the one that is released",
            do="choose --weights raw or --weights ema; the verdict's digest leaves the other out",
        )
    if there and root and "config.json" in files:
        raise ModelError(
            f"the checkpoint holds two models: that of the folder's root, which diffusers loads, and {there[0]}",
            expected="one, the one that is released",
            do="remove the other: --weights chooses between two folders",
        )
    return there[0] if there else None


def _part(name: str) -> Part:
    part = _PARTS.get(name)
    if part is None:
        raise ModelError(
            f"a single file has no part {name!r}",
            expected="Stable Diffusion 1 or 2",
            do="convert the checkpoint to a diffusers folder",
        )
    return part
