"""The layout of a checkpoint: its networks with their weights, its tokenizers and its noise schedule.

The same function reads the layout at inspection and again at loading, each time from bytes whose sha256 is known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeVar

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECES
from invmm_gate.models.read.autoencoder_configs import AutoencoderConfigs
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.components import EMA_SUFFIX, Component, Pipelined, denoiser_folder, read_component
from invmm_gate.models.read.diffusers_config import StrictConfig
from invmm_gate.models.read.network_configs import DenoiserConfig, has_ema_keys, network_config
from invmm_gate.models.read.pipelines import KINDS, PIPELINES, TOKENIZER_NAMES, Pipeline, Stated, read_index
from invmm_gate.models.read.refusals import Refusals
from invmm_gate.models.read.scheduler_config import AnyScheduler, read_scheduler
from invmm_gate.models.read.scheduler_file import read_schedule
from invmm_gate.models.read.tokenizer_files import TokenizerFiles, read_tokenizer
from invmm_gate.models.read.weight_file_names import DIFFUSERS_STEM, only_variant
from invmm_gate.models.read.weight_files import (
    embedded_config,
    find_weights,
    read_json,
    verified_metadata,
    without_index,
)

BARE: Final = "UNet2DModel"

_Config = TypeVar("_Config", bound=StrictConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint's scored parts, by the names that the pipeline gives them."""

    pipeline: str
    components: Mapping[str, Component]
    scheduler: AnyScheduler
    scheduler_content: Mapping[str, object]
    """The scheduler's configuration file, checked: diffusers reads it too, for how the pipeline samples."""
    scheduler_file: str
    """Empty where it is in the header of the weights."""
    denoiser: str = "unet"
    """Which of the components predicts."""
    tokenizers: Mapping[str, TokenizerFiles] = field(default_factory=dict)
    settings: Mapping[str, bool] = field(default_factory=dict)
    """Switches of model_index.json."""
    not_loaded: tuple[str, ...] = ()
    """Components and files that ship with the checkpoint and decide nothing here."""
    ema: bool = False
    variant: str = ""
    """Which variant of the weights is there, as `fp16`; empty for the plain ones."""
    notes: tuple[str, ...] = ()
    """What a reader must know of how the checkpoint was read."""
    asked_size: int | None = None
    """Side of the images in pixels, where the checkpoint does not say it and a policy does."""

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


def denoiser_of(layout: Layout) -> DenoiserConfig:
    """The configuration of the network that predicts."""
    config = layout.components[layout.denoiser].config
    if not isinstance(config, DenoiserConfig):
        raise ModelError(f"{layout.denoiser!r} is no denoiser", expected="a UNet or a transformer")
    return config


def autoencoder_of(layout: Layout) -> AutoencoderConfigs | None:
    """The autoencoder's configuration; None for a pixel-space model."""
    found = (component.config for component in layout.components.values())
    return next((config for config in found if isinstance(config, AutoencoderConfigs)), None)


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
    """All that is wrong with the parts is told at once, in a ModelError with its faults."""
    index = read_json(files, f"{prefix}model_index.json")
    name = pipeline_name(index)
    pipeline = PIPELINES[name]
    named = read_index(index, pipeline)
    refusals = Refusals()
    denoiser = pipeline.denoiser
    folders = {part: _folder(files, prefix, part, pipeline) for part in named.classes}
    with refusals.kept():
        folders[denoiser] = denoiser_folder(files, prefix, denoiser, root=not folders[denoiser]) or folders[denoiser]
    variant = "" if single is not None else only_variant(_network_files(files, named, folders))
    if variant:
        with refusals.kept():
            _refuse_variant(variant, folders[denoiser])
    networks = _networks(files, named, folders, Pipelined(pipeline=name, single=single, variant=variant), refusals)
    tokenizers = _tokenizers(files, prefix, named, refusals)
    with refusals.kept():
        schedule = read_schedule(
            files, f"{folders['scheduler']}scheduler_config.json", name, named.classes["scheduler"]
        )
    refusals.raise_any()
    return Layout(
        pipeline=name,
        components=networks,
        scheduler=schedule.config,
        scheduler_content=schedule.content,
        scheduler_file=schedule.file,
        denoiser=denoiser,
        tokenizers=tokenizers,
        settings=named.settings,
        not_loaded=_not_loaded(files, prefix, named),
        ema=_is_ema(files, networks[denoiser]),
        variant=variant,
        notes=(*schedule.notes, *_about_variant(variant)),
    )


def _is_ema(files: CheckpointFiles, denoiser: Component) -> bool:
    return denoiser.name.endswith(EMA_SUFFIX) or has_ema_keys(read_json(files, denoiser.config_file))


def pipeline_name(index: Mapping[str, object]) -> str:
    """The class that model_index.json names. Raises ModelError for one that this gate does not measure."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise ModelError(
            f"model_index.json names the pipeline {kind!a}, which is not supported"[:200],
            expected="one of " + ", ".join(PIPELINES),
            do="nothing of this folder can be measured",
        )
    return kind


def _folder(files: CheckpointFiles, prefix: str, part: str, pipeline: Pipeline) -> str:
    """Where diffusers looks for a component: in its folder, or in the root of a pipeline of one network."""
    folder = f"{prefix}{part}/"
    alone = pipeline.classes.keys() == {pipeline.denoiser, "scheduler"}
    return "" if alone and not prefix and not any(path.startswith(folder) for path in files.files) else folder


def _network_files(files: CheckpointFiles, named: Stated, folders: Mapping[str, str]) -> Iterator[str]:
    for part, kind in named.classes.items():
        if part != "scheduler" and kind not in KINDS:
            yield from (path for path in files.files if path.rpartition("/")[0] == folders[part].removesuffix("/"))


def _refuse_variant(variant: str, folder: str) -> None:
    """Diffusers finds a variant in a component's folder alone, and takes averaged weights from none."""
    if not folder or folder.removesuffix("/").endswith(EMA_SUFFIX):
        raise ModelError(
            f"the weights are there only as the variant {variant!r}, in {folder or 'the root of the folder'}",
            expected="the plain weights, or a variant in the folder that the pipeline loads",
            do="save the pipeline with save_pretrained",
        )


def _about_variant(variant: str) -> Iterator[str]:
    if variant:
        yield (
            f"Of the weights only the variant {variant!r} is there, and it was scored; diffusers loads it with "
            f"variant={variant!r}."
        )


def _networks(
    files: CheckpointFiles, named: Stated, folders: Mapping[str, str], loaded: Pipelined, refusals: Refusals
) -> dict[str, Component]:
    allowed, found = PIPELINES[loaded.pipeline].classes, {}
    for part, kind in named.classes.items():
        if part != "scheduler" and kind not in KINDS:
            with refusals.kept():
                found[part] = read_component(files, folders[part], allowed[part], part=part, stated=kind, loaded=loaded)
    return found


def _tokenizers(files: CheckpointFiles, prefix: str, named: Stated, refusals: Refusals) -> dict[str, TokenizerFiles]:
    found = {}
    for part, kind in named.classes.items():
        if kind in KINDS:
            with refusals.kept():
                found[part] = read_tokenizer(files, f"{prefix}{part}", kind)
    return found


def _not_loaded(files: CheckpointFiles, prefix: str, named: Stated) -> tuple[str, ...]:
    tokenizers = {part: TOKENIZER_NAMES[KINDS[kind]] for part, kind in named.classes.items() if kind in KINDS}
    spieces = [f"{prefix}{part}/{name}" for part, names in tokenizers.items() for name in sorted(names & SPIECES)]
    return (*(f"{prefix}{part}" for part in named.unused), *(path for path in spieces if path in files))


def _bare(files: CheckpointFiles) -> Layout:
    content = read_json(files, "config.json")
    kind, config = network_config(content, name="config.json", allowed=(BARE,))
    variant = only_variant(path for path in files.files if "/" not in path)
    found = find_weights(files, "", stem=DIFFUSERS_STEM, variant=variant)
    network = Component(
        name="unet",
        kind=kind,
        config=config,
        config_file="config.json",
        weights=found.files,
        index=found.index,
        shards=found.shards,
    )
    places = [path for path in ("scheduler_config.json", "scheduler/scheduler_config.json") if path in files]
    if len(places) != 1:
        raise ModelError(
            f"{len(places)} scheduler configurations belong to this network",
            expected="one: scheduler_config.json, beside config.json or in scheduler/",
            do="save the scheduler that it was trained with next to it",
        )
    schedule = read_schedule(files, places[0], BARE)
    return Layout(
        pipeline=BARE,
        components={"unet": network},
        scheduler=schedule.config,
        scheduler_content=schedule.content,
        scheduler_file=schedule.file,
        ema=has_ema_keys(content),
        variant=variant,
        notes=tuple(_about_variant(variant)),
    )


def _single_network(files: CheckpointFiles, path: str) -> Layout:
    """One weights file of one network; its configurations are in its header, or beside it under the same stem."""
    metadata = verified_metadata(files, path)
    stem = PurePosixPath(path).stem
    beside = f"{stem}.config.json", f"{stem}.scheduler_config.json"
    network = embedded_config(files, metadata, key="unet_config", sibling=beside[0])
    schedule = embedded_config(files, metadata, key="scheduler_config", sibling=beside[1])
    kind, config = network_config(network, name=f"{stem}: network", allowed=(BARE,))
    config_file, scheduler_file = (name if name in files else "" for name in beside)
    component = Component(name="unet", kind=kind, config=config, config_file=config_file, weights=(path,))
    return Layout(
        pipeline=BARE,
        components={"unet": component},
        scheduler=read_scheduler(schedule, f"{stem}: scheduler"),
        scheduler_content=schedule,
        scheduler_file=scheduler_file,
        ema=has_ema_keys(network),
    )
