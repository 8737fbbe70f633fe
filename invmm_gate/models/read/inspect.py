"""Find out what a checkpoint is, and refuse an unsafe one, before torch is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import GateError, ModelError
from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.models.read.allowed_files import WEIGHT_PICKLES
from invmm_gate.models.read.allowed_places import (
    PICKLED,
    refuse_strange_content,
    refuse_strange_left_out,
    refuse_unscored,
    unscored,
    without_place,
)
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, digest_of, hash_file, refuse_unsafe_name
from invmm_gate.models.read.checkpoint_layout import Layout, pipeline_name, read_layout
from invmm_gate.models.read.checkpoint_place import locate
from invmm_gate.models.read.components import EMA_SUFFIX, RAW_FOLDERS
from invmm_gate.models.read.few_steps import few_steps_notes
from invmm_gate.models.read.hashed_files import hash_files
from invmm_gate.models.read.parts_fit import check_fit
from invmm_gate.models.read.refusals import Refusals
from invmm_gate.models.read.weight_files import header_of, read_json, without_index

PREFIX: Final = "lora://"
OTHER_ADAPTERS: Final = {
    "DoRA": ("dora_scale", "lora_magnitude"),
    "LoHa": ("hada_w",),
    "LoKr": ("lokr_w",),
    "(IA)^3": ("ia3_l", ".on_input"),
    "OFT": ("oft_blocks", "oft_diag", "oft_r"),
}
"""Adapters of other kinds -> parts of their tensors' names (PEFT, LyCORIS)."""
LORA_PREFIXES: Final = ("unet", "transformer", "text_encoder", "lora_", "diffusion_model")
"""How a tensor's name begins for which diffusers' loader knows the network, in its own form or in kohya's."""
PIPELINES_WITH_LORA: Final = (
    "StableDiffusionPipeline", "LatentConsistencyModelPipeline", "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline", "FluxPipeline", "ZImagePipeline",
    "Flux2KleinPipeline", "QwenImagePipeline", "ChromaPipeline", "Lumina2Pipeline", "SanaPipeline",
    "AuraFlowPipeline",
)  # fmt: skip
"""The pipelines for which diffusers has a LoRA loader."""


def inspect_checkpoint(
    path: Path, *, allow_pickle: bool = False, weights: Weights | None = None, loras: Sequence[Path] = ()
) -> ModelManifest:
    """The manifest of a folder that diffusers saved, or of a single `.safetensors` file.

    `allow_pickle` lets in the `.bin` or `.ckpt` weights of a network, and nothing else; the manifest lists them.
    `weights` says which are released where a folder holds both; the others are left out of manifest and digest.
    `loras` are LoRA weights on top, `.safetensors` files in the order in which they are fused; they are hashed too.
    Raises ModelError, naming the file, for anything that is unsafe, unknown or incomplete.
    """
    root, paths, single = locate(path)
    if single is None and not {"model_index.json", "config.json"} & set(paths):
        raise without_index(paths)
    _refuse_other_pipeline(root, "model_index.json" if single is None else f"{path.stem}/model_index.json", paths)
    wrong = without_place(paths, single=single, allow_pickle=allow_pickle)
    if single in wrong:
        refuse_unscored(wrong, single=single)
    left_out = _left_out(paths, weights)
    # Pickles that --allow-pickle would let in stay: without them every network would be said to have no weights.
    dropped = {*left_out, *(name for name, kind in wrong.items() if kind != PICKLED)}
    files = hash_files(root, tuple(name for name in paths if name not in dropped), lora_places(loras))
    refusals = Refusals()
    layout = _read(files, single, wrong, refusals)
    _check(files, layout, weights, refusals)
    with refusals.kept():
        refuse_strange_left_out(left_out, files, layout)
    refusals.raise_any()
    return ModelManifest(
        path=str(path),
        name=path.resolve().name if single is None else path.stem,
        pipeline=layout.pipeline,
        files=tuple(files.files.values()),
        digest=digest_of(files.files.values()),
        adapters=tuple(str(lora) for lora in loras),
        not_loaded=layout.not_loaded,
        pickles=tuple(sorted(name for name in layout.claimed if name.endswith(WEIGHT_PICKLES))),
        weights="ema" if layout.ema else "raw",
        left_out=left_out,
        notes=(*layout.notes, *few_steps_notes(layout)),
        scheduler=layout.scheduler.scheduler,
        prediction_type=layout.scheduler.prediction_type,
    )


def _refuse_other_pipeline(root: Path, index: str, paths: tuple[str, ...]) -> None:
    """Of a pipeline that nobody can measure nothing else need be told. An index that cannot be read is told later."""
    if index in paths:
        files = hash_files(root, (index,), {})
        if not files.faults:
            pipeline_name(read_json(files, index))


def _read(files: CheckpointFiles, single: str | None, wrong: Mapping[str, str], refusals: Refusals) -> Layout:
    """The layout, and in `refusals` which files are at fault. Raises ModelError with all of it where there is none."""
    layout: Layout | None = None
    parts: tuple[GateError, ...] = ()
    try:
        layout = read_layout(files, single=single)
    except ModelError as error:
        parts = (error,)
    others = {} if layout is None else unscored(files, layout, single=single)
    with refusals.kept():
        refuse_unscored({**others, **wrong}, single=single)
    for fault in (*files.faults.values(), *parts):
        refusals.add(fault)
    if layout is None:
        raise refusals.error()
    return layout


def _check(files: CheckpointFiles, layout: Layout, weights: Weights | None, refusals: Refusals) -> None:
    """In `refusals`, what is wrong with the content of the files by their layout."""
    with refusals.kept():
        _refuse_other_weights(layout, weights)
    with refusals.kept():
        refuse_strange_content(files, layout)
    with refusals.kept():
        check_fit(files, layout)
    with refusals.kept():
        check_loras(files, layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """The files of a folder, by whether diffusers loads them."""

    files: CheckpointFiles
    """What is loaded, and what may lie beside it."""
    layout: Layout
    others: Mapping[str, str]
    """What nobody scores: path -> its kind."""


def sort_files(path: Path, *, allow_pickle: bool = False, weights: Weights | None = None) -> Sorted:
    """The files of a folder that may hold more than a checkpoint. Raises ModelError where no checkpoint is among them.

    What is scored is not checked any further: `inspect_checkpoint` does that where nothing else lies beside it.
    """
    root, paths, single = locate(path)
    if single is not None:
        raise ModelError(f"{str(path)!r} is a single file", expected="a folder", do="it can be checked as it is")
    if not {"model_index.json", "config.json"} & set(paths):
        raise without_index(paths)
    _refuse_other_pipeline(root, "model_index.json", paths)
    others = without_place(paths, single=None, allow_pickle=allow_pickle)
    others |= dict.fromkeys(_left_out(paths, weights), "weights that are not released")
    pickled = {name: kind for name, kind in others.items() if kind == PICKLED}
    files = hash_files(root, tuple(name for name in paths if name not in others or name in pickled), {})
    layout = read_layout(files)
    _refuse_other_weights(layout, weights)
    refuse_unscored({name: kind for name, kind in pickled.items() if name in layout.claimed}, single=None)
    return Sorted(files=files, layout=layout, others=others | unscored(files, layout, single=None))


def layout_of(manifest: ModelManifest) -> tuple[CheckpointFiles, Layout]:
    """The inspected files and their layout, read again with every byte checked against the manifest."""
    root, _, single = locate(Path(manifest.path))
    places = lora_places([Path(lora) for lora in manifest.adapters])
    files = CheckpointFiles(root, {file.path: file for file in manifest.files}, places)
    return files, replace(read_layout(files, single=single), asked_size=manifest.asked_size)


def single_file(manifest: ModelManifest) -> str | None:
    """The weights file that the checkpoint is, below its folder; None for a folder."""
    return locate(Path(manifest.path))[2]


def checkpoint_files(path: Path) -> tuple[str, ...]:
    """All files of the checkpoint at `path`, by their paths below its folder. Raises ModelError, as for unsafe names.

    Files of weights that are not released are among them.
    """
    return locate(path)[1]


def changed_files(manifest: ModelManifest) -> tuple[str, ...]:
    """Files that were changed, added or removed since the inspection; empty if the checkpoint is still the same."""
    root, paths, _ = locate(Path(manifest.path))
    now = {path: hash_file(root, path)[0] for path in paths if path not in manifest.left_out}
    for name, place in lora_places([Path(lora) for lora in manifest.adapters]).items():
        now[name] = replace(hash_file(place.parent, place.name)[0], path=name)
    before = {file.path: file for file in manifest.files}
    return tuple(sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path)))


def _left_out(paths: tuple[str, ...], weights: Weights | None) -> tuple[str, ...]:
    """The files of the weights that are not released, by the user's own word; none where there is only one kind."""
    for name in RAW_FOLDERS:
        kinds = [tuple(path for path in paths if path.startswith(f"{name}{suffix}/")) for suffix in ("", EMA_SUFFIX)]
        if weights is not None and all(kinds):
            return kinds[1] if weights == "raw" else kinds[0]
    return ()


def _refuse_other_weights(layout: Layout, weights: Weights | None) -> None:
    if weights not in (None, "ema" if layout.ema else "raw"):
        raise ModelError(
            f"the checkpoint holds no {weights} weights",
            expected="the weights that --weights names",
            do=f"leave out --weights {weights}, or give the folder that holds them",
        )


def lora_places(loras: Sequence[Path]) -> dict[str, Path]:
    """Name in the manifest -> file. Raises ModelError for anything but a .safetensors file."""
    places: dict[str, Path] = {}
    for number, path in enumerate(loras, start=1):
        refuse_unsafe_name(str(path))
        if path.suffix != ".safetensors" or path.is_dir():
            raise ModelError(
                f"LoRA {str(path)!a} is no .safetensors file",
                expected="the file that save_lora_weights wrote, as pytorch_lora_weights.safetensors",
                do="give the file itself; pickles are never read",
            )
        places[f"{PREFIX}{number}/{path.name}"] = path.resolve()
    return places


def check_loras(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for a LoRA that no loader can put on this pipeline, or that holds no LoRA at all."""
    if files.elsewhere and layout.pipeline not in PIPELINES_WITH_LORA:
        raise ModelError(f"a LoRA on top of a {layout.pipeline}", expected="one of " + ", ".join(PIPELINES_WITH_LORA))
    for name in files.elsewhere:
        keys = header_of(files, name).tensors
        if not keys:
            raise _no_lora(name, "no tensors")
        for kind, marks in OTHER_ADAPTERS.items():
            if any(mark in key for key in keys for mark in marks):
                raise _no_lora(name, f"{kind} weights, of which diffusers' loader drops a part or all")
        if strange := sorted(key for key in keys if not _is_lora(key)):
            raise _no_lora(name, f"the tensor {strange[0]!a}, which is no LoRA weight")
        if not any(key.startswith(LORA_PREFIXES) for key in keys):
            raise _no_lora(
                name,
                f"the tensor {sorted(keys)[0]!a}, and no name begins with that of a network: load_lora_weights puts "
                "such a file nowhere (save_attn_procs wrote it, or a trainer of another kind)",
            )


def _no_lora(name: str, held: str) -> ModelError:
    return ModelError(
        f"{name!a} holds {held}"[:400],
        expected="plain LoRA weights, for networks by their names",
        do="export the adapter with save_lora_weights, or merge it and check the merged checkpoint",
    )


def _is_lora(key: str) -> bool:
    """Down, up and alpha of a module."""
    return "lora" in key or key.endswith(".alpha")
