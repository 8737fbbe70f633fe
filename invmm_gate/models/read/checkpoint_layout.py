"""The layout of a checkpoint: its networks with their weights, its tokenizers and its noise schedule.

The same function reads the layout at inspection and again at loading, each time from bytes whose sha256 is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal, TypeVar

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECE
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.diffusers_config import StrictConfig, class_name, scheduler_as_loaded, stated
from invmm_gate.models.read.network_configs import ENCODERS, NetworkConfig, encoder_config, has_ema_keys, network_config
from invmm_gate.models.read.pipelines import KINDS, PIPELINES, Stated, read_index
from invmm_gate.models.read.scheduler_config import (
    FLOW_SCHEDULERS,
    SCHEDULERS,
    WITHOUT_GENERATOR,
    FlowConfig,
    SchedulerConfig,
    read_scheduler,
)
from invmm_gate.models.read.tokenizer_files import TokenizerFiles, read_tokenizer
from invmm_gate.models.read.weight_files import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    embedded_config,
    find_weights,
    read_json,
    read_part,
    verified_metadata,
    without_index,
)

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
    weights: tuple[str, ...]
    shards: Mapping[str, str] | None = None
    """Tensor -> file, from the index of a sharded checkpoint."""
    part_of: Part | Literal[""] = ""
    """Which part of a single file with CompVis names it is; empty for weights of its own."""


def read_component(
    files: CheckpointFiles, name: str, allowed: tuple[str, ...], *, stated: str, pipeline: str, single: str | None
) -> Component:
    """The network in folder `name`, as the pipeline loads it.

    Raises ModelError for a missing file or a class other than the stated one. With `single`, the folder has the
    configuration and that file the weights.
    """
    path = f"{name}/config.json"
    content, kind = read_part(files, name, path), stated
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


def _part(name: str) -> Part:
    part = _PARTS.get(name.rsplit("/", 1)[-1])
    if part is None:
        raise ModelError(
            f"a single file has no part {name!r}",
            expected="Stable Diffusion 1 or 2",
            do="convert the checkpoint to a diffusers folder",
        )
    return part


BARE: Final = "UNet2DModel"

_Config = TypeVar("_Config", bound=StrictConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint's scored parts, by the names that the pipeline gives them."""

    pipeline: str
    components: Mapping[str, Component]
    scheduler: SchedulerConfig | FlowConfig
    scheduler_content: Mapping[str, object]
    """The scheduler's configuration file, checked: diffusers reads it too, for how the pipeline samples."""
    denoiser: str = "unet"
    """Which of the components predicts."""
    tokenizers: Mapping[str, TokenizerFiles] = field(default_factory=dict)
    settings: Mapping[str, bool] = field(default_factory=dict)
    """Switches of model_index.json."""
    not_loaded: tuple[str, ...] = ()
    """Components and files that ship with the checkpoint and decide nothing here."""
    ema: bool = False

    def config(self, name: str, kind: type[_Config]) -> _Config:
        """The configuration of a component that must be a `kind`. Raises ModelError if it is absent or another."""
        component = self.components.get(name)
        if component is None or not isinstance(component.config, kind):
            raise ModelError(
                f"{self.pipeline} without a fitting {name!r}", expected=f"a component with {kind.__name__}"
            )
        return component.config

    @property
    def claimed(self) -> frozenset[str]:
        """Every weights file that has a place in this checkpoint."""
        return frozenset(path for component in self.components.values() for path in component.weights)


def read_layout(files: CheckpointFiles, *, single: str | None = None) -> Layout:
    """The layout of a folder, or of the single weights file `single`. Raises ModelError if it is not a known one.

    A single file with a pipeline's configurations in the folder `<stem>/` beside it is one of CompVis.
    """
    if single is not None:
        folder = f"{PurePosixPath(single).stem}/"
        in_folder = f"{folder}model_index.json" in files
        return _pipeline(files, prefix=folder, single=single) if in_folder else _single_network(files, single)
    if "model_index.json" in files:
        return _pipeline(files)
    if "config.json" in files:
        return _bare(files)
    raise without_index(files.files)


def _pipeline(files: CheckpointFiles, *, prefix: str = "", single: str | None = None) -> Layout:
    index = read_json(files, f"{prefix}model_index.json")
    name = class_name(index, name="model_index.json", allowed=tuple(PIPELINES))
    pipeline = PIPELINES[name]
    named = read_index(index, pipeline)
    denoiser = denoiser_folder(files, prefix, pipeline.denoiser)
    folders = {part: f"{prefix}{part}" for part in named.classes} | {pipeline.denoiser: denoiser}
    networks = {
        part: read_component(files, folders[part], pipeline.classes[part], stated=kind, pipeline=name, single=single)
        for part, kind in named.classes.items()
        if part != "scheduler" and kind not in KINDS
    }
    place = f"{prefix}scheduler/scheduler_config.json"
    scheduler, content = _scheduler(files, place, name, named.classes["scheduler"])
    return Layout(
        pipeline=name,
        components=networks,
        scheduler=scheduler,
        scheduler_content=content,
        denoiser=pipeline.denoiser,
        tokenizers=_tokenizers(files, prefix, named),
        settings=named.settings,
        not_loaded=_not_loaded(files, prefix, named),
        ema=denoiser.endswith(EMA_SUFFIX) or has_ema_keys(read_json(files, f"{denoiser}/config.json")),
    )


def _tokenizers(files: CheckpointFiles, prefix: str, named: Stated) -> dict[str, TokenizerFiles]:
    return {
        part: read_tokenizer(files, f"{prefix}{part}", kind) for part, kind in named.classes.items() if kind in KINDS
    }


def _not_loaded(files: CheckpointFiles, prefix: str, named: Stated) -> tuple[str, ...]:
    spieces = [f"{prefix}{part}/{SPIECE}" for part, kind in named.classes.items() if KINDS.get(kind) == "t5"]
    return (*(f"{prefix}{part}" for part in named.unused), *(path for path in spieces if path in files))


def _bare(files: CheckpointFiles) -> Layout:
    content = read_json(files, "config.json")
    kind, config = network_config(content, name="config.json", allowed=(BARE,))
    weights, shards = find_weights(files, "", stem=DIFFUSERS_STEM)
    places = [path for path in ("scheduler_config.json", "scheduler/scheduler_config.json") if path in files]
    if len(places) != 1:
        raise ModelError(
            f"{len(places)} scheduler configurations belong to this network",
            expected="one: scheduler_config.json, beside config.json or in scheduler/",
            do="save the scheduler that it was trained with next to it",
        )
    scheduler, schedule = _scheduler(files, places[0])
    return Layout(
        pipeline=BARE,
        components={"unet": Component(name="unet", kind=kind, config=config, weights=weights, shards=shards)},
        scheduler=scheduler,
        scheduler_content=schedule,
        ema=has_ema_keys(content),
    )


def _single_network(files: CheckpointFiles, path: str) -> Layout:
    """One weights file of one network; its configurations are in its header, or beside it under the same stem."""
    metadata = verified_metadata(files, path)
    stem = PurePosixPath(path).stem
    network = embedded_config(files, metadata, key="unet_config", sibling=f"{stem}.config.json")
    schedule = embedded_config(files, metadata, key="scheduler_config", sibling=f"{stem}.scheduler_config.json")
    kind, config = network_config(network, name=f"{stem}: network", allowed=(BARE,))
    return Layout(
        pipeline=BARE,
        components={"unet": Component(name="unet", kind=kind, config=config, weights=(path,))},
        scheduler=read_scheduler(schedule, f"{stem}: scheduler"),
        scheduler_content=schedule,
        ema=has_ema_keys(network),
    )


def _scheduler(
    files: CheckpointFiles, path: str, pipeline: str = BARE, expected: str | None = None
) -> tuple[SchedulerConfig | FlowConfig, Mapping[str, object]]:
    """The scheduler as loaded, and as it stands in the file; `expected` is the class that model_index.json names."""
    written = read_part(files, "scheduler", path)
    content = stated(written, path)
    allowed = FLOW_SCHEDULERS if expected in FLOW_SCHEDULERS else SCHEDULERS
    kind = class_name(content, name=path, allowed=allowed)
    if expected not in (None, kind):
        raise ModelError(f"model_index.json names {expected}, {path} {kind}", expected="one scheduler")
    read = read_scheduler(scheduler_as_loaded(pipeline, content, path), path, allowed=allowed)
    if pipeline == "DDPMPipeline" and kind in WITHOUT_GENERATOR:
        raise ModelError(
            f"DDPMPipeline cannot draw with {kind}: it hands a generator to each step, and this one takes none",
            expected="a scheduler with which the pipeline draws",
            do=f"save it with {_as_ddpm(read)}, which has the same noise schedule",
        )
    return read, written


def _as_ddpm(config: SchedulerConfig | FlowConfig) -> str:
    """The DDPMScheduler of this noise schedule; `from_config` would put its own defaults where a value is a default."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    given = {key: getattr(config, key, None) for key in keys}
    return f"DDPMScheduler({', '.join(f'{key}={value!r}' for key, value in given.items() if value is not None)})"
