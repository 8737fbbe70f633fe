"""How diffusers reads a configuration: its keys and its bookkeeping, and what a pipeline changes as it loads it.

A gate that believes the file alone measures another model than users get. A key that neither diffusers knows nor
`BOOKKEEPING` is refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from invmm_gate.core.errors import ModelError

BOOKKEEPING: Final = frozenset(
    {"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_attn_implementation_autoset"}
)
"""Keys that diffusers and transformers write down and build no network from."""
_IGNORED: Final = "_use_default_values"
"""Lists the keys that diffusers takes from its own defaults, whatever the file says of them."""


class StrictConfig(BaseModel):
    """Unknown keys refused, no conversion of types, never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the diffusers class: what the file states; the rest is the library's default."""
        return self.model_dump(exclude_unset=True)


_Config = TypeVar("_Config", bound=StrictConfig)


def class_name(content: Mapping[str, object], *, name: str, allowed: tuple[str, ...]) -> str:
    """`_class_name`, which must be one of `allowed`; it is only ever looked up in a literal table."""
    kind = content.get("_class_name")
    if not isinstance(kind, str) or kind not in allowed:
        raise ModelError(
            f"{name!r} names the class {kind!a}"[:200], expected="one of " + ", ".join(allowed), do="check the path"
        )
    return kind


def stated(content: Mapping[str, object], name: str) -> dict[str, object]:
    """The keys that diffusers takes from a file: all but those that `_use_default_values` lists. Raises ModelError."""
    ignored = content.get(_IGNORED, [])
    if not isinstance(ignored, list) or not all(isinstance(key, str) and key[:1] != "_" for key in ignored):
        raise ModelError(
            f"{name!r}: {_IGNORED!r} is {ignored!a}"[:200], expected="a list of plain keys", do="remove it"
        )
    return {key: value for key, value in content.items() if key not in ignored and key != _IGNORED}


def without_bookkeeping(content: Mapping[str, object], name: str) -> dict[str, object]:
    """The keys that decide something. Raises ModelError for one with an underscore that is not in `BOOKKEEPING`."""
    hidden = sorted(key for key in content if key.startswith("_") and key not in BOOKKEEPING)
    if hidden:
        raise ModelError(
            f"{name!r}: {hidden[0]!a} is no key that this gate knows"[:200],
            expected="diffusers' keys, and of its bookkeeping " + ", ".join(sorted(BOOKKEEPING)),
            do="remove it",
        )
    return {key: value for key, value in content.items() if key not in BOOKKEEPING}


def validated(model: type[_Config], content: Mapping[str, object], name: str) -> _Config:
    """`content` as a `model`, without the libraries' bookkeeping. Raises ModelError naming file and key."""
    public = without_bookkeeping(content, name)
    try:
        return model.model_validate(public)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:80]
        said = first["msg"].removeprefix("Value error, ")[:200]
        raise ModelError(
            f"{name!r}: {f'{key!a}: ' if key else ''}{said}",
            expected="a configuration that diffusers knows, within the ranges of a real network",
            do="correct the file",
        ) from error


CLIPPED: Final = frozenset({
    "DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler", "LCMScheduler",
    "HeunDiscreteScheduler", "TCDScheduler",
})  # fmt: skip
"""Schedulers with the key `clip_sample`."""
WITHOUT_OFFSET: Final = frozenset({"DPMSolverSinglestepScheduler"})
"""Schedulers without the key `steps_offset`."""

_OLDEST: Final = (0, 9, 0)
_SAMPLE_SIZE: Final = 64
_VERSION: Final = re.compile(r"(\d{1,6}(?:\.\d{1,6}){0,3})(?:\.?(?:a|b|rc|dev|post)\d{0,6})*(?:\+[A-Za-z0-9.]{1,64})?")


def network_as_loaded(pipeline: str, kind: str, content: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The configuration of a network. `StableDiffusionPipeline` draws at 64 where a UNet from before 0.9 says less."""
    if pipeline != "StableDiffusionPipeline" or kind != "UNet2DConditionModel" or not _before_0_9(content, name):
        return content
    size = content.get("sample_size")
    small = isinstance(size, int) and not isinstance(size, bool) and size < _SAMPLE_SIZE
    return {**content, "sample_size": _SAMPLE_SIZE} if small else content


def scheduler_as_loaded(pipeline: str, content: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The configuration of the scheduler. Raises ModelError for a `clip_sample` that is neither true nor false.

    `DDIMPipeline` turns every scheduler into a DDIMScheduler, with its defaults for what the file does not state.
    `StableDiffusionPipeline` puts `clip_sample` false and `steps_offset` 1 into those that have these keys.
    """
    if not isinstance(content.get("clip_sample", False), bool):
        raise ModelError(
            f"{name!r}: 'clip_sample' is {content['clip_sample']!a}"[:200],
            expected="true or false: diffusers takes anything else for one here and for the other there",
            do="correct the file",
        )
    if pipeline == "DDIMPipeline":
        return {**content, "_class_name": "DDIMScheduler"}
    if pipeline != "StableDiffusionPipeline":
        return content
    kind = content.get("_class_name")
    clipping = {"clip_sample": False} if kind in CLIPPED else {}
    return {**content, **clipping, **({} if kind in WITHOUT_OFFSET else {"steps_offset": 1})}


def _before_0_9(content: Mapping[str, object], name: str) -> bool:
    """Whether the file says that it was written by diffusers below 0.9; development versions of 0.9 are not below."""
    stated = content.get("_diffusers_version")
    if stated is None:
        return False
    version = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    if version is None:
        raise ModelError(
            f"{name!r}: '_diffusers_version' is {stated!a}"[:200],
            expected="a version of diffusers, as 0.35.1: it decides at which size the pipeline draws",
            do="correct the file",
        )
    numbers = tuple(int(number) for number in version[1].split("."))
    return (*numbers, 0, 0)[:3] < _OLDEST
