"""What a checkpoint's files are for: which network, which weights, which noise schedule. No torch, no diffusers.

The same function reads the layout at inspection and again at loading, each time from bytes whose sha256 is known.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from invmm_gate.errors import ModelError
from invmm_gate.models.configs import (
    EMA_KEYS,
    KLConfig,
    NetworkConfig,
    UNetConfig,
    VQConfig,
    class_name,
    network_config,
)
from invmm_gate.models.files import CheckpointFiles
from invmm_gate.models.header import read_header
from invmm_gate.models.scheduler_config import SCHEDULERS, SchedulerConfig, scheduler_config
from invmm_gate.models.strict_json import parse_object
from invmm_gate.models.weight_files import find_weights, read_json, without_index

PIPELINES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "DDPMPipeline": {"unet": ("UNet2DModel",), "scheduler": SCHEDULERS},
    "DDIMPipeline": {"unet": ("UNet2DModel",), "scheduler": SCHEDULERS},
    "LDMPipeline": {
        "unet": ("UNet2DModel",),
        "vqvae": ("VQModel", "AutoencoderKL"),
        "scheduler": SCHEDULERS,
    },
}
"""Pipeline class -> component -> the classes that it may have."""

BARE: Final = "UNet2DModel"
RAW_FOLDER: Final = "unet"
EMA_FOLDER: Final = "unet_ema"
"""Where diffusers' training scripts keep the exponential moving average of `unet/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A network and where its weights lie."""

    name: str
    config: NetworkConfig
    weights: tuple[str, ...]
    shards: Mapping[str, str] | None = None
    """Tensor -> file, from the index of a sharded checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint's scored parts."""

    pipeline: str
    unet: Component
    scheduler: SchedulerConfig
    autoencoder: Component | None = None
    ema: bool = False

    @property
    def unet_config(self) -> UNetConfig:
        """The denoiser's configuration."""
        if not isinstance(self.unet.config, UNetConfig):
            raise ModelError("the denoiser is an autoencoder", expected="a UNet2DModel")
        return self.unet.config

    @property
    def autoencoder_config(self) -> VQConfig | KLConfig | None:
        """The autoencoder's configuration; None for a pixel-space model."""
        config = self.autoencoder.config if self.autoencoder else None
        return config if isinstance(config, VQConfig | KLConfig) else None

    @property
    def claimed(self) -> frozenset[str]:
        """Every weights file that has a place in this checkpoint."""
        autoencoder = self.autoencoder.weights if self.autoencoder else ()
        return frozenset((*self.unet.weights, *autoencoder))


def read_layout(files: CheckpointFiles, *, single: str | None = None) -> Layout:
    """The layout of a folder, or of the single weights file `single`. Raises ModelError if it is not a known one."""
    if single is not None:
        return _single_file(files, single)
    if "model_index.json" in files:
        return _pipeline(files)
    if "config.json" in files:
        return _bare(files)
    raise without_index(files)


def unet_folder(paths: Iterable[str]) -> str:
    """The folder of the denoiser. Raises ModelError where raw and averaged weights lie side by side.

    Diffusers loads `unet/` then, whatever else was scored: a verdict on one must not cover the other.
    """
    there = {path.split("/", 1)[0] for path in paths} & {RAW_FOLDER, EMA_FOLDER}
    if len(there) == 2:
        raise ModelError(
            f"the checkpoint holds two models: {RAW_FOLDER}/, which diffusers loads, and {EMA_FOLDER}/",
            expected="one, the one that is released",
            do="choose --weights raw or --weights ema; the verdict's digest leaves the other out",
        )
    return there.pop() if there else RAW_FOLDER


def _pipeline(files: CheckpointFiles) -> Layout:
    index = read_json(files, "model_index.json")
    pipeline = class_name(index, name="model_index.json", allowed=tuple(PIPELINES))
    known = PIPELINES[pipeline]
    classes = _components(index, known)
    unet = _network(files, unet_folder(files.files), known["unet"])
    vqvae = _network(files, "vqvae", (classes["vqvae"],)) if "vqvae" in known else None
    scheduler = _scheduler(files, "scheduler/scheduler_config.json", stated=classes["scheduler"])
    return Layout(
        pipeline=pipeline,
        unet=unet,
        scheduler=scheduler,
        autoencoder=vqvae,
        ema=unet.name == EMA_FOLDER or _has_ema_keys(read_json(files, f"{unet.name}/config.json")),
    )


def _components(index: Mapping[str, object], known: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Component -> class name, each checked against the literal table and never imported by name."""
    stated = {key: value for key, value in index.items() if not key.startswith("_")}
    for extra in sorted(stated.keys() - known.keys()):
        raise ModelError(
            f"model_index.json names the component {extra!a}", expected=", ".join(known), do="export without it"
        )
    return {name: _component_class(name, stated.get(name), allowed) for name, allowed in known.items()}


def _component_class(name: str, value: object, allowed: tuple[str, ...]) -> str:
    library, kind = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if library != "diffusers" or not isinstance(kind, str) or kind not in allowed:
        raise ModelError(
            f"model_index.json gives {value!a} for the component {name!r}"[:200],
            expected=f"[diffusers, {' or '.join(allowed)}]",
            do="save the pipeline with diffusers, complete and without code of its own",
        )
    return kind


def _network(files: CheckpointFiles, name: str, allowed: tuple[str, ...]) -> Component:
    path = f"{name}/config.json"
    if path not in files:
        raise ModelError(f"component {name!r} has no {path}", expected="a complete pipeline", do="save it again")
    config = network_config(read_json(files, path), name=path, allowed=allowed)
    weights, shards = find_weights(files, f"{name}/")
    return Component(name=name, config=config, weights=weights, shards=shards)


def _bare(files: CheckpointFiles) -> Layout:
    content = read_json(files, "config.json")
    config = network_config(content, name="config.json", allowed=(BARE,))
    weights, shards = find_weights(files, "")
    places = [path for path in ("scheduler_config.json", "scheduler/scheduler_config.json") if path in files]
    if len(places) != 1:
        raise ModelError(
            f"{len(places)} scheduler configurations belong to this network",
            expected="one: scheduler_config.json, beside config.json or in scheduler/",
            do="save the scheduler that it was trained with next to it",
        )
    return Layout(
        pipeline=BARE,
        unet=Component(name="unet", config=config, weights=weights, shards=shards),
        scheduler=_scheduler(files, places[0]),
        ema=_has_ema_keys(content),
    )


def _single_file(files: CheckpointFiles, path: str) -> Layout:
    """One weights file; its configurations are in its header, or beside it under the same stem."""
    metadata = _verified_metadata(files, path) if path.endswith(".safetensors") else {}
    stem = PurePosixPath(path).stem
    network = _embedded(files, metadata, key="unet_config", sibling=f"{stem}.config.json")
    schedule = _embedded(files, metadata, key="scheduler_config", sibling=f"{stem}.scheduler_config.json")
    config = network_config(network, name=f"{stem}: network", allowed=(BARE,))
    return Layout(
        pipeline=BARE,
        unet=Component(name="unet", config=config, weights=(path,)),
        scheduler=scheduler_config(schedule, f"{stem}: scheduler"),
        ema=_has_ema_keys(network),
    )


def _verified_metadata(files: CheckpointFiles, path: str) -> Mapping[str, str]:
    """From bytes whose sha256 is known, as the configuration that they hold decides what is scored."""
    data = files.read(path)
    return read_header(io.BytesIO(data), size=len(data), name=path).metadata


def _embedded(files: CheckpointFiles, metadata: Mapping[str, str], *, key: str, sibling: str) -> dict[str, object]:
    if (key in metadata) == (sibling in files):
        found = "both" if key in metadata else "neither"
        raise ModelError(
            f"the weights have {found} of metadata {key!r} and a file {sibling!r}",
            expected="exactly one of the two",
            do="give the configuration that diffusers saved, or check the pipeline's folder instead",
        )
    return parse_object(metadata[key], f"metadata {key}") if key in metadata else read_json(files, sibling)


def _scheduler(files: CheckpointFiles, path: str, *, stated: str | None = None) -> SchedulerConfig:
    if path not in files:
        raise ModelError(f"the component 'scheduler' has no {path}", expected="a complete pipeline", do="save it again")
    config = scheduler_config(read_json(files, path), path)
    if stated not in (None, config.scheduler):
        raise ModelError(f"model_index.json names {stated}, {path} {config.scheduler}", expected="one scheduler")
    return config


def _has_ema_keys(content: Mapping[str, object]) -> bool:
    return {"decay", "optimization_step"} <= content.keys() & EMA_KEYS
