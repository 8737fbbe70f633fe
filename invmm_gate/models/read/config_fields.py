"""Ranges of the numbers in configurations of networks."""

from typing import Annotated, Final, Literal

from pydantic import Field

Channels = Annotated[int, Field(ge=1, le=8192)]
Side = Annotated[int, Field(ge=1, le=1024)]
Size = Side | Annotated[tuple[Side, Side], Field(strict=False)]
Positive = Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)]
Layers = Annotated[int, Field(ge=1, le=16)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Heads = Annotated[int, Field(ge=1, le=1024)]
LEVELS: Final = Field(min_length=1, max_length=10, strict=False)
SHORT: Final = Field(max_length=64, strict=False)
Blocks = Annotated[tuple[Channels, ...], LEVELS]
Activation = Literal["swish", "silu", "mish", "gelu", "relu"]
Classes = Annotated[int, Field(ge=1, le=1_000_000)]
