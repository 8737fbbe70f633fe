"""The files of a checkpoint, hashed, each with what is wrong with its content."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.core.records import ModelFile
from invmm_gate.files.git_lfs import is_lfs_pointer
from invmm_gate.models.read.allowed_files import (
    WEIGHT_PICKLES,
    lfs_pointers,
    magic,
    refuse_content,
    refused_pickle,
)
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, hash_file
from invmm_gate.models.read.weight_files import header_of, read_json

_MAX_BYTES: Final = 50_000_000
"""The size of a picture, a text or another file that is read whole."""


def hash_files(root: Path, paths: tuple[str, ...], loras: Mapping[str, Path]) -> CheckpointFiles:
    """The files with their sha256, and the fault of each that does not hold what its name says."""
    found: dict[str, ModelFile] = {}
    faults: dict[str, ModelError] = {}
    files, pointers = CheckpointFiles(root, found, loras, faults), []
    for path in (*paths, *loras):
        file, head = hash_file(*files.place(path))
        found[path] = replace(file, path=path)
        if is_lfs_pointer(head):
            pointers.append(path)
            continue
        try:
            _check_content(files, path, head)
        except ModelError as error:
            faults[path] = error
    return replace(files, faults=faults | dict.fromkeys(pointers, lfs_pointers(pointers)))


def _check_content(files: CheckpointFiles, path: str, head: bytes) -> None:
    if path.endswith(".safetensors"):
        _check_safetensors(files, path, head)
    elif not path.endswith(WEIGHT_PICKLES):
        refuse_content(path, _whole(files, path))
    if path.endswith(".json"):
        read_json(files, path)


def _whole(files: CheckpointFiles, path: str) -> bytes:
    if files.files[path].size > _MAX_BYTES:
        raise ModelError(
            f"{path!r} is larger than {_MAX_BYTES:,} bytes", expected="a text or a picture", do="remove it"
        )
    return files.read(path)


def _check_safetensors(files: CheckpointFiles, path: str, head: bytes) -> None:
    """A sound file is never taken for a pickle: a header of 640 bytes begins with a pickle's first two bytes."""
    try:
        header_of(files, path)
    except ModelError as error:
        kind = magic(head)
        raise (refused_pickle(path, f"{kind} under a .safetensors name") if kind else error) from error
