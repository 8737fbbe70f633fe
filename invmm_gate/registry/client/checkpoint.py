"""Which of a version's files are its checkpoint, and that nothing else lies there: who loads it gets all of them."""

from pathlib import Path
from typing import Final

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.models.read.checkpoint_files import list_files
from invmm_gate.models.read.inspect import checkpoint_files

CHECKPOINT: Final = "checkpoint"
"""The folder of a logged model that holds the checkpoint and nothing else."""

_DESCRIPTION: Final = "MLmodel"
_TOLD: Final = 3
"""How many of the files beside are named."""


def checkpoint_in(files: Path) -> Path:
    """The checkpoint among all files of a version: their folder `checkpoint` if there is one, else all of them.

    A single weights file, with what belongs to it by name, is itself the checkpoint. Raises ModelError if a file lies
    there that is no part of the checkpoint: it would be judged by some of what a consumer of the version loads. The
    attestation may lie beside it, and an MLmodel without flavors.
    """
    names = list_files(files)
    checkpoint = _checkpoint(files, names)
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    own = {(root / name).relative_to(files).as_posix() for name in checkpoint_files(checkpoint)}
    beside = [name for name in names if name not in own and not _may_lie_beside(files, name)]
    if beside:
        raise ModelError(
            f"{len(beside)} files that are not attested lie beside the checkpoint,"
            f" {', '.join(ascii(name) for name in beside[:_TOLD])} among them",
            expected=f"the checkpoint and {ATTESTATION} alone, as whoever loads the version gets all of its files",
            do="register the checkpoint by itself: `invmm-gate register`",
        )
    return checkpoint


def _checkpoint(files: Path, names: tuple[str, ...]) -> Path:
    prefix = f"{CHECKPOINT}/"
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    root, within = (files / CHECKPOINT, inner) if inner else (files, names)
    weights = [name for name in within if name.endswith(".safetensors") and "/" not in name]
    is_folder = "model_index.json" in within or "config.json" in within
    return root / weights[0] if len(weights) == 1 and not is_folder else root


def _may_lie_beside(files: Path, name: str) -> bool:
    return name == ATTESTATION or (name == _DESCRIPTION and _describes_nothing(files / name))


def _describes_nothing(description: Path) -> bool:
    """Whether MLflow loads nothing by its description of a model: a flavor could name other weights, even a hub's."""
    try:
        found = load_document(description).data
    except ConfigError:
        return False
    return isinstance(found, dict) and found.get("flavors") == {}
