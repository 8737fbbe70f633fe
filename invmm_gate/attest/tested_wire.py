"""The tested scope in signed bytes. Signed bytes hold integers alone, so guidance scales are texts."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from invmm_gate.attest.field_types import Line
from invmm_gate.core.records import Scope

Scale = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,17})?$")]
"""A guidance scale, as `7.5`."""
Pixels = Annotated[int, Field(ge=1)]


class Wire(BaseModel):
    """One object of a statement; fields of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


class ScopeWire(Wire):
    """`Scope` with scales as texts."""

    image_size: tuple[Pixels, Pixels]
    samplers: Annotated[tuple[Line, ...], Field(min_length=1)]
    sampler_steps: Annotated[int, Field(ge=1)]
    guidance_scales: Annotated[tuple[Scale, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    seed_chosen: bool

    def record(self) -> Scope:
        """The same as a record."""
        return Scope(**dict(self) | {"guidance_scales": tuple(map(float, self.guidance_scales))})


def scope_plain(tested: Scope) -> dict[str, object]:
    """The scope as it is signed."""
    said = {to_camel(name): getattr(tested, name) for name in ScopeWire.model_fields}
    return said | {"guidanceScales": [repr(float(scale)) for scale in tested.guidance_scales]}
