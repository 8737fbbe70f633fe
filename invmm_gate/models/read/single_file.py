"""The configurations that belong to a single weights file of one network."""

import io
from collections.abc import Mapping

from invmm_gate.core.errors import ModelError
from invmm_gate.files.strict_json import parse_object
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.safetensors_header import read_header
from invmm_gate.models.read.weight_files import read_json


def verified_metadata(files: CheckpointFiles, path: str) -> Mapping[str, str]:
    """From bytes whose sha256 is known, as the configuration that they hold decides what is scored."""
    if not path.endswith(".safetensors"):
        return {}
    data = files.read(path)
    return read_header(io.BytesIO(data), size=len(data), name=path).metadata


def embedded_config(
    files: CheckpointFiles, metadata: Mapping[str, str], *, key: str, sibling: str
) -> dict[str, object]:
    """The configuration that is in the header or beside the file. Raises ModelError unless it is in one of them."""
    if (key in metadata) == (sibling in files):
        found = "both" if key in metadata else "neither"
        raise ModelError(
            f"the weights have {found} of metadata {key!r} and a file {sibling!r}",
            expected="exactly one of the two",
            do="give the configuration that diffusers saved, or check the pipeline's folder instead",
        )
    return parse_object(metadata[key], f"metadata {key}") if key in metadata else read_json(files, sibling)
