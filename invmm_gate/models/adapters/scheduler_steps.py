"""The steps of a checkpoint's own scheduler as its pipeline takes them, from any x_T and under any condition."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.diffusion.prediction import Rows

Predict = Callable[[Rows, Tensor, slice], Float[Tensor, "row predicted height width"]]
"""(x_t, time of each row, which of all rows they are) to the network's own prediction, with a learned variance."""

LABEL_LOOP: Final = "SchedulerLoopWithLabels"
"""What draws where no pipeline of diffusers does; see label_loop.py."""
_SCALES_NOISE: Final = frozenset({
    "StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline", "LDMPipeline", LABEL_LOOP,
    "PixArtAlphaPipeline", "PixArtSigmaPipeline",
})  # fmt: skip
"""Pipelines that multiply the first noise by the scheduler's `init_noise_sigma`; the others draw as it is."""
_SCALES_INPUT: Final = frozenset({
    "StableDiffusionPipeline", "StableDiffusionXLPipeline", "LDMPipeline", "DiTPipeline", LABEL_LOOP,
    "PixArtAlphaPipeline", "PixArtSigmaPipeline",
})  # fmt: skip
"""Pipelines that have the scheduler scale what the network sees (`scale_model_input`)."""
_X_0_IN_ONE_STEP: Final = "PixArtAlphaPipeline"
"""It takes x_0_hat of its one step; schedulers that do not tell it cannot be used so."""
_ONE_NOISE_FOR_ALL: Final = frozenset({"DPMSolverSDEScheduler"})
"""Schedulers that take no generator and draw one noise for all rows together, from the global stream."""
_USUAL_STEPS: Final = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 500, 1000)
"""Of which one is advised; one step alone says little of a scheduler."""


def descend(pipeline: Any, predict: Predict, noise: Rows, streams: Sequence[torch.Generator], *, steps: int) -> Rows:
    """x_0 reached from x_T = `noise` in so many steps. What the scheduler draws comes from the stream of each row.

    Raises ValueError for steps that the scheduler refuses.
    """
    if type(pipeline.scheduler).__name__ not in _ONE_NOISE_FOR_ALL:
        return _descend(pipeline, partial(_of_rows, predict, slice(None)), noise, list(streams), steps=steps)
    rows = []
    for place, stream in enumerate(streams):
        row = slice(place, place + 1)
        with torch.random.fork_rng(devices=[noise.device] if noise.device.type == "cuda" else []):
            torch.manual_seed(stream.initial_seed())
            rows.append(_descend(pipeline, partial(_of_rows, predict, row), noise[row], [stream], steps=steps))
    return torch.cat(rows)


def walk(pipeline: Any, *, steps: int) -> None:
    """All steps of the scheduler without a network, on one pixel. Raises whatever the scheduler raises.

    A scheduler may take a number of steps and break at one of them: `steps_offset` can lead beyond the timesteps, and
    a step of no length can divide zero by zero. Raises ValueError for NaN and infinity.
    """

    def nothing(x_t: Rows, time: Tensor, rows: slice) -> Tensor:
        del time, rows
        return x_t.new_zeros(len(x_t), 2, 1, 1)  # with a learned variance

    reached = descend(pipeline, nothing, torch.zeros(1, 1, 1, 1), [torch.Generator()], steps=steps)
    if not bool(reached.isfinite().all() and torch.as_tensor(pipeline.scheduler.timesteps).isfinite().all()):
        raise ValueError("NaN or infinity, whatever the network predicts")


def steps_that_work(pipeline: Any, *, near: int) -> int | None:
    """The usual number of steps nearest to `near`, as a ratio, that the scheduler takes; None where it takes none."""
    nearest = sorted(_USUAL_STEPS, key=lambda steps: abs(math.log(steps / near)))
    return next((steps for steps in nearest if _works(pipeline, steps)), None)


def _works(pipeline: Any, steps: int) -> bool:
    try:
        walk(pipeline, steps=steps)
    except Exception:  # diffusers raises many kinds
        return False
    return True


def _of_rows(predict: Predict, rows: slice, x_t: Rows, time: Tensor) -> Tensor:
    return predict(x_t, time, rows)


def _descend(
    pipeline: Any,
    predict: Callable[[Rows, Tensor], Tensor],
    noise: Rows,
    streams: list[torch.Generator],
    *,
    steps: int,
) -> Rows:
    scheduler, name = pipeline.scheduler, type(pipeline).__name__
    scheduler.set_timesteps(steps, device=noise.device)
    given = _given_to_each_step(pipeline, streams)
    x_t = noise * scheduler.init_noise_sigma if name in _SCALES_NOISE else noise
    wanted = 1 if name == _X_0_IN_ONE_STEP and steps == 1 else 0
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(x_t, timestep) if name in _SCALES_INPUT else x_t
        prediction = _taken(scheduler, predict(seen, timestep.expand(len(x_t))), x_t)
        x_t = scheduler.step(prediction, timestep, x_t, return_dict=False, **given)[wanted]
    return x_t


def _taken(scheduler: Any, prediction: Tensor, x_t: Rows) -> Tensor:
    """What the scheduler takes of a prediction: a learned variance only where it knows of one."""
    learned = str(getattr(scheduler.config, "variance_type", "")).startswith("learned")
    return prediction if learned else prediction[:, : x_t.shape[1]]


def _given_to_each_step(pipeline: Any, streams: list[torch.Generator]) -> dict[str, Any]:
    """`generator`, and `eta` of 0 where the pipeline has that argument: without it, some schedulers' own is more."""
    taken = inspect.signature(pipeline.scheduler.step).parameters
    known = inspect.signature(type(pipeline).__call__).parameters
    given: dict[str, Any] = {"generator": streams} if "generator" in taken else {}
    return given | ({"eta": 0.0} if "eta" in taken and "eta" in known else {})
