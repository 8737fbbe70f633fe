"""The declaration beside an ONNX encoder: which weights it is of, and what its network takes."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, model_validator

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.regular import read_small
from invmm_gate.files.strict_model import StrictModel, parse
from invmm_gate.files.yaml_lines import MAX_BYTES, load_document

Triple = tuple[
    Annotated[float, Field(strict=True)], Annotated[float, Field(strict=True)], Annotated[float, Field(strict=True)]
]


class Declaration(StrictModel):
    """An encoder's transform and its weights' sha256. Nothing of the transform has a default."""

    name: Annotated[str, Field(strict=True, pattern=r"^(sscd|onnx)[A-Za-z0-9._-]{0,60}$")]
    """As a policy names the metric: a threshold of one encoder is never used for another."""
    sha256: Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]
    """Of the .onnx file."""
    size: Annotated[int, Field(strict=True, ge=8, le=1024)]
    """Side of the square that the network gets, in pixels."""
    smaller: Literal["enlarge", "keep"]
    """Images below `size`: brought to it, or given as a square of their own side."""
    resize: Literal["squash", "crop"]
    """`squash`: the whole image becomes a square. `crop`: its middle square."""
    interpolation: Literal["bilinear", "bicubic"]
    """Both with antialiasing."""
    layout: Literal["nchw", "nhwc"]
    """Order of the input's axes."""
    channels: Literal["rgb", "bgr"]
    """Order of the input's channels."""
    mean: Triple | None
    """Taken off pixels on [0, 1], by channel in the order of `channels`; null = nothing is taken off."""
    std: Triple | None
    """Pixels less `mean` are divided by it; null = by 1."""
    smallest_side: Annotated[int, Field(strict=True, ge=1, le=1024)]
    """Images with a side below it are too small for the encoder: the metric calls itself unfit."""
    output: Annotated[str, Field(strict=True)] | None = None
    """Name of the output with the features; needed where the network has several."""

    @model_validator(mode="after")
    def _divides(self) -> "Declaration":
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std has a number that is not above 0")
        return self

    def side(self, height: int, width: int) -> int:
        """Side of the square that an image of this size becomes."""
        own = max(height, width) if self.resize == "squash" else min(height, width)
        return self.size if self.smaller == "enlarge" else min(self.size, own)


_DECLARATION: Final = TypeAdapter(Declaration)


def load_declaration(path: Path) -> tuple[Declaration, str]:
    """The declaration (YAML or JSON), and its file's sha256. Raises ConfigError with FILE:LINE."""
    content = read_small(path, what="the declaration of the ONNX encoder beside it", limit=MAX_BYTES)
    return parse(_DECLARATION, load_document(path)), sha256(content).hexdigest()


def require_weights(content: bytes, declared: Declaration, *, weights: Path, declaration: Path) -> None:
    """Raise ConfigError unless the declaration is of these weights."""
    found = sha256(content).hexdigest()
    if found != declared.sha256:
        raise ConfigError(
            f"{weights} has sha256 {found}",
            expected=f"{declared.sha256}, as {declaration} says",
            do="fetch the file again, or declare this one",
        )
