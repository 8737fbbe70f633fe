"""A clean copy of a checkpoint: the files that diffusers would load, as they are, to be checked and released."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.files.regular import explained
from invmm_gate.models.read.allowed_places import TEXTS, is_harmless
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, changed
from invmm_gate.models.read.components import EMA_SUFFIX, RAW_FOLDERS
from invmm_gate.models.read.inspect import Sorted, inspect_checkpoint, sort_files

_CHUNK: Final = 1 << 22
NOT_LOADED: Final = "not loaded by diffusers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What went into the copy, and what did not."""

    manifest: ModelManifest
    """Of the copy, as `check` will see it."""
    moved: str
    """What lies elsewhere than in the source; empty for nothing."""
    left_behind: Mapping[str, str]
    """File of the source -> its kind."""


def export_model(source: Path, target: Path, *, allow_pickle: bool = False, weights: Weights | None = None) -> Exported:
    """Copy a folder's checkpoint into the new folder `target`; averaged weights go where diffusers looks for weights.

    Raises ModelError where the source holds no checkpoint that can be checked, and leaves no folder behind then;
    ConfigError for a target that is there or lies inside of the source; RunFolderError where it cannot be written.
    """
    _refuse_target(source, target)
    found = sort_files(source, allow_pickle=allow_pickle, weights=weights)
    kept = tuple(path for path in found.files.files if _goes_along(path, found))
    try:
        folder = Path(tempfile.mkdtemp(dir=_existing(target), prefix=f".{target.name}."))
        try:
            for path in kept:
                _copy(found.files, path, folder / _place(path))
            _copy_modes(source, folder, kept)
            manifest = inspect_checkpoint(folder, allow_pickle=allow_pickle)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise explained(error, target, option="OUT") from error
    passed = {path: NOT_LOADED for path in found.files.files if path not in kept}
    averaged = [path for path in kept if _place(path) != path]
    moved = f"the averaged weights of {averaged[0].partition('/')[0]}/ are its weights" if averaged else ""
    return Exported(manifest=manifest, moved=moved, left_behind=dict(sorted({**found.others, **passed}.items())))


def _refuse_target(source: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{str(target)!r} is there", expected="a new folder", do="give another, or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{str(target)!r} lies inside of the checkpoint", expected="another place for the copy")


def _copy_modes(source: Path, folder: Path, kept: Sequence[str]) -> None:
    """Who may read the source may read the copy, which is to be released. Folders last: some take no more files."""
    for path in kept:
        shutil.copymode(source / path, folder / _place(path))
    for path in sorted(kept, reverse=True):
        shutil.copymode((source / path).parent, (folder / _place(path)).parent)


def _existing(target: Path) -> Path:
    """The nearest folder above the target that is there."""
    return next(parent for parent in target.absolute().parents if parent.is_dir())


def _goes_along(path: str, found: Sorted) -> bool:
    """What diffusers loads, and the texts of the model card: a licence goes where the weights go."""
    text = bool(TEXTS.fullmatch(path.lower())) and not path.startswith(".git")
    return path not in found.others and (text or not is_harmless(path))


def _place(path: str) -> str:
    """The averaged weights of `unet_ema/` are those of `unet/` in a folder without others."""
    for name in RAW_FOLDERS:
        if path.startswith(f"{name}{EMA_SUFFIX}/"):
            return name + path.removeprefix(f"{name}{EMA_SUFFIX}")
    return path


def _copy(files: CheckpointFiles, path: str, target: Path) -> None:
    """The bytes that were looked at, or a ModelError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with files.open(path) as stream, target.open("xb") as copy:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != files.files[path].sha256:
        raise changed(path)
