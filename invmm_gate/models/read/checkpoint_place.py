"""Where a checkpoint lies: its folder, its files by name, and the weights file where it is a single one."""

import os
import stat
from pathlib import Path

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import WEIGHT_PICKLES, kind_of
from invmm_gate.models.read.checkpoint_files import list_files, refuse_unsafe_name, unreadable


def locate(path: Path) -> tuple[Path, tuple[str, ...], str | None]:
    """The folder, its files, and the weights file where `path` is one. A link given as the path itself is followed."""
    if _is_folder(path):
        root = path.resolve()
        return root, list_files(root), None
    if path.suffix not in (".safetensors", *WEIGHT_PICKLES):
        raise ModelError(
            f"{str(path)!r} is no weights file ({kind_of(path.name)})",
            expected="a checkpoint's folder or .safetensors file",
        )
    refuse_unsafe_name(path.name)
    folder = path.parent.resolve()
    return folder, tuple(sorted((path.name, *_siblings(folder, path.stem)))), path.name


def _siblings(folder: Path, stem: str) -> tuple[str, ...]:
    """The files that belong to a single file by its name: a network's configurations, or a pipeline's in a folder."""
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
