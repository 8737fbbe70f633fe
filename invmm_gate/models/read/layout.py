"""The layout of a checkpoint: its networks, its weights and its noise schedule. No torch, no diffusers.

The same function reads the layout at inspection and again at loading, each time from bytes whose sha256 is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeVar

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECE
from invmm_gate.models.read.as_loaded import scheduler_as_loaded
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.components import EMA_SUFFIX, Component, denoiser_folder, read_component
from invmm_gate.models.read.configs import StrictConfig, class_name, stated
from invmm_gate.models.read.network_configs import has_ema_keys, network_config
from invmm_gate.models.read.pipelines import PIPELINES, Stated, read_index
from invmm_gate.models.read.scheduler_config import FLOW_SCHEDULERS, SCHEDULERS, FlowConfig, SchedulerConfig
from invmm_gate.models.read.scheduler_config import scheduler_config as parsed_scheduler
from invmm_gate.models.read.single_file import embedded_config, verified_metadata
from invmm_gate.models.read.tokenizer_config import KINDS
from invmm_gate.models.read.tokenizer_files import TokenizerFiles, read_tokenizer
from invmm_gate.models.read.weight_files import DIFFUSERS_STEM, find_weights, read_json, without_index

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
        scheduler=parsed_scheduler(schedule, f"{stem}: scheduler"),
        scheduler_content=schedule,
        ema=has_ema_keys(network),
    )


def _scheduler(
    files: CheckpointFiles, path: str, pipeline: str = BARE, expected: str | None = None
) -> tuple[SchedulerConfig | FlowConfig, Mapping[str, object]]:
    """The scheduler as loaded, and as it stands in the file; `expected` is the class that model_index.json names."""
    if path not in files:
        raise ModelError(f"the component 'scheduler' has no {path}", expected="a complete pipeline", do="save it again")
    written = read_json(files, path)
    content = stated(written, path)
    allowed = FLOW_SCHEDULERS if expected in FLOW_SCHEDULERS else SCHEDULERS
    kind = class_name(content, name=path, allowed=allowed)
    if expected not in (None, kind):
        raise ModelError(f"model_index.json names {expected}, {path} {kind}", expected="one scheduler")
    return parsed_scheduler(scheduler_as_loaded(pipeline, content, path), path, allowed=allowed), written
