"""What a checkpoint's files are for: which network, which weights, which noise schedule. No torch, no diffusers.

The same function reads the layout at inspection and again at loading, each time from bytes whose sha256 is known.
"""

import io
from collections.abc import Mapping
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
    replaced: tuple[str, ...] = ()
    """Raw weights that lie beside the EMA weights which are scored in their place."""

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
        return frozenset((*self.unet.weights, *autoencoder, *self.replaced))


def read_layout(files: CheckpointFiles, *, single: str | None = None) -> Layout:
    """The layout of a folder, or of the single weights file `single`. Raises ModelError if it is not a known one."""
    if single is not None:
        return _single_file(files, single)
    if "model_index.json" in files:
        return _pipeline(files)
    if "config.json" in files:
        return _bare(files)
    raise without_index(files)


def _pipeline(files: CheckpointFiles) -> Layout:
    index = read_json(files, "model_index.json")
    pipeline = class_name(index, name="model_index.json", allowed=tuple(PIPELINES))
    known = PIPELINES[pipeline]
    classes = _components(index, known)
    unet = _network(files, "unet", known["unet"])
    ema = _ema(files, unet)
    vqvae = _network(files, "vqvae", (classes["vqvae"],)) if "vqvae" in known else None
    scheduler = _scheduler(files, "scheduler/scheduler_config.json", stated=classes["scheduler"])
    return Layout(
        pipeline=pipeline,
        unet=ema or unet,
        scheduler=scheduler,
        autoencoder=vqvae,
        ema=ema is not None or _has_ema_keys(read_json(files, "unet/config.json")),
        replaced=unet.weights if ema else (),
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


def _ema(files: CheckpointFiles, unet: Component) -> Component | None:
    """The EMA copy that diffusers' training scripts keep in `unet_ema/`, of the same network."""
    if not any(path.startswith("unet_ema/") for path in files.files):
        return None
    ema = _network(files, "unet_ema", (BARE,))
    if ema.config != unet.config:
        raise ModelError(
            "unet_ema/config.json describes another network than unet/config.json",
            expected="one network, once raw and once averaged",
            do="remove the folder that does not belong to this checkpoint",
        )
    return ema


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
