"""Find out what a checkpoint is, and refuse an unsafe one, before torch is imported."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from invmm_gate.errors import ModelError
from invmm_gate.models.allowed import WEIGHT_PICKLES, magic, refuse_content, refuse_name, refused_pickle
from invmm_gate.models.components import EMA_SUFFIX, RAW_FOLDERS
from invmm_gate.models.digest import digest_of
from invmm_gate.models.files import CheckpointFiles, hash_file, list_files, refuse_unsafe_name, unreadable
from invmm_gate.models.fit import check_fit
from invmm_gate.models.layout import Layout, read_layout
from invmm_gate.models.lora_files import check_loras, lora_places
from invmm_gate.models.unloaded import refuse_strange_content, refuse_strange_left_out
from invmm_gate.models.weight_files import header_of, read_json
from invmm_gate.records import ModelFile, ModelManifest, Weights

_VARIANTS: Final = (".fp16.", ".fp32.", ".bf16.", ".non_ema.", ".ema.", ".int8.")
_ADAPTERS: Final = ("adapter", "lora", "textual_inversion", "learned_embeds")


def inspect_checkpoint(
    path: Path, *, allow_pickle: bool = False, weights: Weights | None = None, loras: Sequence[Path] = ()
) -> ModelManifest:
    """The manifest of a folder that diffusers saved, or of a single `.safetensors` file.

    `allow_pickle` lets in the `.bin` or `.ckpt` weights of a network, and nothing else; the manifest lists them.
    `weights` says which are released where a folder holds both; the others are left out of manifest and digest.
    `loras` are LoRA weights on top, `.safetensors` files in the order in which they are fused; they are hashed too.
    Raises ModelError, naming the file, for anything that is unsafe, unknown or incomplete.
    """
    root, paths, single = _locate(path)
    for name in paths:
        refuse_name(name, allow_pickle=allow_pickle)
    left_out = _left_out(paths, weights)
    files = _hashed(root, tuple(name for name in paths if name not in left_out), lora_places(loras))
    layout = read_layout(files, single=single)
    _refuse_other_weights(layout, weights)
    _refuse_unscored(files, layout)
    refuse_strange_content(files, layout)
    refuse_strange_left_out(left_out, files, layout)
    _refuse_other_pipelines(files, single)
    check_fit(files, layout)
    check_loras(files, layout)
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
        scheduler=layout.scheduler.scheduler,
        prediction_type=layout.scheduler.prediction_type,
    )


def layout_of(manifest: ModelManifest) -> tuple[CheckpointFiles, Layout]:
    """The inspected files and their layout, read again with every byte checked against the manifest."""
    root, _, single = _locate(Path(manifest.path))
    places = lora_places([Path(lora) for lora in manifest.adapters])
    files = CheckpointFiles(root, {file.path: file for file in manifest.files}, places)
    return files, read_layout(files, single=single)


def single_file(manifest: ModelManifest) -> str | None:
    """The weights file that the checkpoint is, below its folder; None for a folder."""
    return _locate(Path(manifest.path))[2]


def checkpoint_files(path: Path) -> tuple[str, ...]:
    """All files of the checkpoint at `path`, by their paths below its folder. Raises ModelError, as for unsafe names.

    Those of weights that are not released are among them.
    """
    return _locate(path)[1]


def changed_files(manifest: ModelManifest) -> tuple[str, ...]:
    """Files that were changed, added or removed since the inspection; empty if the checkpoint is still the same."""
    root, paths, _ = _locate(Path(manifest.path))
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


def _locate(path: Path) -> tuple[Path, tuple[str, ...], str | None]:
    """The folder, its files, and the weights file where `path` is one. A link given as the path itself is followed."""
    if _is_folder(path):
        root = path.resolve()
        return root, list_files(root), None
    if path.suffix not in (".safetensors", *WEIGHT_PICKLES):
        refuse_name(path.name, allow_pickle=False)
        raise ModelError(f"{str(path)!r} is no weights file", expected="a checkpoint's folder or .safetensors file")
    refuse_unsafe_name(path.name)
    folder = path.parent.resolve()
    return folder, tuple(sorted((path.name, *_siblings(folder, path.stem)))), path.name


def _siblings(folder: Path, stem: str) -> tuple[str, ...]:
    """What belongs to a single file by its name: a network's configurations, or a pipeline's in a folder."""
    if os.path.lexists(folder / stem / "model_index.json"):
        return tuple(f"{stem}/{name}" for name in list_files(folder / stem))
    names = (f"{stem}.config.json", f"{stem}.scheduler_config.json")
    return tuple(name for name in names if os.path.lexists(folder / name))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError as error:
        raise ModelError(
            f"{str(path)!r} does not exist", expected="a checkpoint's folder or .safetensors file"
        ) from error
    except OSError as error:
        raise unreadable(str(path), error) from error
    except ValueError as error:
        raise ModelError(f"{str(path)!a} is no path: {error}", expected="a checkpoint's folder") from error


def _hashed(root: Path, paths: tuple[str, ...], loras: Mapping[str, Path]) -> CheckpointFiles:
    found: dict[str, ModelFile] = {}
    files = CheckpointFiles(root, found, loras)
    for path in (*paths, *loras):
        file, head = hash_file(*files.place(path))
        found[path] = replace(file, path=path)
        if path.endswith(".safetensors"):
            _check_safetensors(files, path, head)
        elif not path.endswith(WEIGHT_PICKLES):
            refuse_content(path, head)
        if path.endswith(".json"):
            read_json(files, path)
    return files


def _check_safetensors(files: CheckpointFiles, path: str, head: bytes) -> None:
    """A sound file is never taken for a pickle: a header of 640 bytes begins with a pickle's first two bytes."""
    try:
        header_of(files, path)
    except ModelError as error:
        kind = magic(head)
        raise (refused_pickle(path, f"{kind} under a .safetensors name") if kind else error) from error


def _refuse_unscored(files: CheckpointFiles, layout: Layout) -> None:
    """Whatever else could be loaded in place of, or on top of, the weights that are scored."""
    checked = (path for path in files.files if path not in files.elsewhere and not _is_unused(path, layout))
    for path in checked:
        name = "." + path.rsplit("/", 1)[-1].lower()
        weights = path.lower().endswith((".safetensors", *WEIGHT_PICKLES)) and path not in layout.claimed
        if name.endswith("adapter_config.json") or (weights and any(word in name for word in _ADAPTERS)):
            raise _unscored(path, "belongs to an adapter, which would not be scored")
        if weights and any(variant in name for variant in _VARIANTS):
            raise _unscored(path, "is a variant that would not be scored")
        if weights:
            raise _unscored(path, "holds weights that would not be scored")


def _refuse_other_pipelines(files: CheckpointFiles, single: str | None) -> None:
    """A pipeline within the pipeline, which diffusers loads where it is pointed to the inner folder."""
    own = "model_index.json" if single is None else f"{PurePosixPath(single).stem}/model_index.json"
    for path in files.files:
        if path != own and path.rsplit("/", 1)[-1].lower() == "model_index.json":
            raise _unscored(path, "is the index of another pipeline, which would not be scored")


def _is_unused(path: str, layout: Layout) -> bool:
    """Whether a file belongs to a component that ships with the checkpoint and is never loaded."""
    return any(path == name or path.startswith(f"{name}/") for name in layout.not_loaded)


def _unscored(path: str, what: str) -> ModelError:
    return ModelError(
        f"{path!r} {what}",
        expected="exactly the weights that will be released",
        do="remove it, or check it as a checkpoint of its own",
    )
