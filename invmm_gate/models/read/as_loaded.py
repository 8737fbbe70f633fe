"""What a pipeline class of diffusers makes of a checkpoint's configurations when it is loaded.

A gate that believes the file alone measures another model than users get.
"""

import re
from collections.abc import Mapping
from typing import Final

from invmm_gate.core.errors import ModelError

CLIPPED: Final = frozenset(
    {"DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler", "LCMScheduler"}
)
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
