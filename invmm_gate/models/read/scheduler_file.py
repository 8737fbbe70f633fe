"""The scheduler that diffusers makes of a checkpoint's file: of the class that model_index.json names."""

from collections.abc import Mapping
from dataclasses import dataclass

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.diffusers_config import class_name, scheduler_as_loaded, stated
from invmm_gate.models.read.scheduler_config import (
    OWN_LEVELS,
    WITHOUT_GENERATOR,
    AnyScheduler,
    FlowConfig,
    read_scheduler,
    schedulers_of,
)
from invmm_gate.models.read.weight_files import read_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The scheduler of a checkpoint."""

    config: AnyScheduler
    """As it is loaded."""
    content: Mapping[str, object]
    """As it stands in the file."""
    file: str
    notes: tuple[str, ...] = ()


def read_schedule(files: CheckpointFiles, path: str, pipeline: str, expected: str | None = None) -> Schedule:
    """The scheduler of class `expected`, if model_index.json names one, else of the file's own. Raises ModelError."""
    written = read_part(files, "scheduler", path)
    content = stated(written, path)
    allowed = schedulers_of(pipeline, expected)
    kind = class_name(content, name=path, allowed=allowed)
    expected = expected or kind
    notes = () if expected == kind else (_read_as(expected, content, path, allowed),)
    content = {**content, "_class_name": expected}
    config = read_scheduler(scheduler_as_loaded(pipeline, content, path), path, allowed=allowed)
    if isinstance(config, FlowConfig) and config.use_dynamic_shifting and pipeline not in OWN_LEVELS:
        raise ModelError(
            f"{path!r}: use_dynamic_shifting with {pipeline}",
            expected="one shift for all sizes, as this pipeline's published models have it",
            do="save the scheduler with the shift that the model is used with",
        )
    if pipeline == "DDPMPipeline" and expected in WITHOUT_GENERATOR:
        raise ModelError(
            f"DDPMPipeline cannot draw with {expected}: it hands a generator to each step, and this one takes none",
            expected="a scheduler with which the pipeline draws",
            do=f"save it with {_as_ddpm(config)}, which has the same noise schedule",
        )
    return Schedule(config=config, content=written, file=path, notes=notes)


def _read_as(expected: str, content: Mapping[str, object], path: str, allowed: tuple[str, ...]) -> str:
    """A note for a file of another class than `expected`, which diffusers takes. Raises ModelError unless both agree.

    They agree where noise schedule and prediction are the same; classes differ in what a file leaves to their defaults.
    """
    named = read_scheduler({**content, "_class_name": expected}, path, allowed=allowed)
    filed = read_scheduler(content, path, allowed=allowed)
    keys = [key for key, value in named.model_dump().items() if value != filed.model_dump()[key] and key != "scheduler"]
    if keys:
        raise ModelError(
            f"model_index.json names {expected}, {path} {filed.scheduler}: they differ in {', '.join(keys)}",
            expected="one scheduler, or two of the same noise schedule",
            do="save the pipeline with the scheduler that it was trained with",
        )
    return (
        f"model_index.json names {expected}, {path} {filed.scheduler}: read as the first, as diffusers does; the noise "
        "schedule is the same."
    )


def _as_ddpm(config: AnyScheduler) -> str:
    """The DDPMScheduler of this noise schedule; `from_config` would put its own defaults where a value is a default."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    given = {key: getattr(config, key, None) for key in keys}
    return f"DDPMScheduler({', '.join(f'{key}={value!r}' for key, value in given.items() if value is not None)})"
