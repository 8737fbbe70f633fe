"""The released pipeline, put together by diffusers from the parts that are scored: how users draw images."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.core.errors import MeasurementError, ModelError
from invmm_gate.core.protocols import Condition, DiffusionModel, label_side, text_side
from invmm_gate.diffusion.prediction import Rows, rows_at, rows_of
from invmm_gate.diffusion.sampling import Limits, limited, sample
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.adapters.label_loop import with_labels
from invmm_gate.models.adapters.network_calls import call_of
from invmm_gate.models.adapters.scheduler_steps import descend, steps_that_work, walk
from invmm_gate.models.networks import diffusers, hushed, of_diffusers
from invmm_gate.models.read.checkpoint_layout import BARE, Layout
from invmm_gate.models.read.scheduler_config import FLOW_SCHEDULERS, KLEIN, AnyScheduler, FlowSolverConfig

_OF_FLOW: Final = (
    "shift", "num_train_timesteps", "use_dynamic_shifting", "time_shift_type", "shift_terminal",
    "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
)  # fmt: skip
"""What a flow and its sampling levels depend on; of these the last four say how the shift grows with the image."""
_OF_SOLVER: Final = ("flow_shift", "num_train_timesteps", "use_flow_sigmas", "use_dynamic_shifting")
"""The same where DPM-Solver samples."""
_UNGUARDED: Final[dict[str, Any]] = {
    "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
}  # fmt: skip
_WITHOUT: Final[dict[str, dict[str, Any]]] = {
    "StableDiffusionPipeline": _UNGUARDED,
    "LatentConsistencyModelPipeline": {**_UNGUARDED, "image_encoder": None},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
    "StableDiffusion3Pipeline": {"text_encoder_3": None, "tokenizer_3": None},
    "FluxPipeline": {"image_encoder": None, "feature_extractor": None},
}
"""Parts that decide nothing about a drawing, or that a checkpoint may lack."""


def pipeline_class(layout: Layout) -> tuple[str, Any]:
    """Name and class of the pipeline that draws; a network without one is drawn by the pipeline of its scheduler."""
    name = layout.pipeline
    if name == BARE:
        name = "DDPMPipeline" if layout.scheduler.scheduler.startswith("DDPM") else "DDIMPipeline"
    return name, of_diffusers(name)  # one of a literal table


def released_pipeline(layout: Layout, networks: Mapping[str, nn.Module], tokenizers: Mapping[str, Any]) -> Any:
    """A diffusers pipeline around frozen networks and the checkpoint's own scheduler. Raises ModelError."""
    name, build = pipeline_class(layout)
    parts = {**_WITHOUT.get(name, {}), **networks, **tokenizers}
    if name == "StableDiffusionXLPipeline":
        parts["force_zeros_for_empty_prompt"] = layout.settings.get("force_zeros_for_empty_prompt", True)
    if name == KLEIN:
        parts["is_distilled"] = layout.settings["is_distilled"]
    try:
        with hushed():
            pipeline = build(scheduler=scheduler_of(layout), **parts)
    except Exception as error:  # diffusers raises many kinds for parts that do not fit together
        raise ModelError(
            f"diffusers cannot put {name} together: {str(error)[:200] or type(error).__name__}",
            expected="parts of one checkpoint",
        ) from error
    return with_labels(quiet(pipeline))


def scheduler_of(layout: Layout) -> Any:
    """The checkpoint's scheduler, as diffusers reads its configuration."""
    kind = layout.scheduler.scheduler  # one of a literal table
    return attrgetter(kind)(diffusers()).from_config(dict(layout.scheduler_content))


def quiet(pipeline: Any) -> Any:
    """The pipeline without a progress bar of its own."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def limits_of(pipeline: Any) -> Limits:
    """What the pipeline's scheduler does to x_0_hat at each step; nothing where there is no pipeline.

    Diffusers also keeps in `config` what a file states and the class does not know: such a key limits nothing.
    """
    if pipeline is None:
        return Limits()
    config = pipeline.scheduler.config
    known = inspect.signature(type(pipeline.scheduler).__init__).parameters
    if "thresholding" in known and config.thresholding:
        return Limits(quantile=config.dynamic_thresholding_ratio, largest=config.sample_max_value)
    if "clip_sample" in known and config.clip_sample:
        return Limits(clip=config.get("clip_sample_range", 1.0))
    return Limits()


def refuse_other_process(scheduler: Any, config: AnyScheduler, schedule: VariancePreserving | FlowMatching) -> None:
    """Raises ModelError where the pipeline's scheduler is not the process that is measured."""
    if isinstance(schedule, VariancePreserving):
        theirs, ours = scheduler.alphas_cumprod.float(), schedule.alpha_bar.cpu()
        last = len(ours) - (1 if scheduler.config.get("rescale_betas_zero_snr") else 0)  # Euler lifts the last from 0
        same = theirs.shape == ours.shape and torch.equal(theirs[:last], ours[:last])
        same = same and scheduler.config.prediction_type == config.prediction_type
    else:
        keys = _OF_SOLVER if isinstance(config, FlowSolverConfig) else _OF_FLOW
        same = all(scheduler.config[key] == getattr(config, key) for key in keys)
    if not same:
        raise ModelError(
            f"{type(scheduler).__name__} in the released pipeline has another noise schedule or prediction type than "
            "the scheduler's configuration says",
            expected="what the network was trained with in both",
            do="save the pipeline again with diffusers",
        )


class Adapter(DiffusionModel, Protocol):
    """A model around a network of diffusers."""

    def predict(
        self, x_t: Rows, time: Tensor, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Float[Tensor, "row predicted height width"]:
        """The network's own prediction, guided; with the variance, where the network learned that too."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineSampler:
    """Draws as `pipeline(...)` does for a user: its scheduler, spacing and limits of x_0, its encoding of prompts."""

    pipeline: Any
    model: Adapter
    """The adapter around the same modules: it knows the size of an image and what a step costs."""
    denoiser: nn.Module

    @property
    def name(self) -> str:
        """Pipeline, scheduler, spacing and limits of x_0."""
        scheduler = self.pipeline.scheduler
        spaced = not scheduler.config.get("use_flow_sigmas")  # levels of a flow are spaced evenly, whatever is stated
        spacing = scheduler.config.get("timestep_spacing") if spaced else None
        parts = [type(self.pipeline).__name__, type(scheduler).__name__, f"{spacing} spacing" if spacing else ""]
        return ", ".join([*filter(None, parts), str(limits_of(self.pipeline))])

    def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
        """Network forwards that one image takes: some schedulers evaluate the network more than once a step.

        Below scale 1 pipelines draw the conditional estimate. Raises ModelError for steps that the scheduler refuses or
        breaks at.
        """
        scheduler, each = self.pipeline.scheduler, self.model.forwards(max(guidance_scale, 1.0))
        if type(scheduler).__name__ in FLOW_SCHEDULERS:  # some want to be told the size of the image too
            if steps == 1 and scheduler.config.shift_terminal:
                raise _undrawn(scheduler, steps, "its only level would be stretched to shift_terminal", works=2)
            return steps * each
        try:
            with hushed():  # some say that this pipeline calls them otherwise than others do
                walk(self.pipeline, steps=steps)
        except Exception as error:  # diffusers raises many kinds: an index beyond the timesteps, a division by zero
            said = str(error)[:200] or type(error).__name__
            raise _undrawn(scheduler, steps, said, works=steps_that_work(self.pipeline, near=steps)) from error
        return len(scheduler.timesteps) * each

    def images(
        self,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        prompt: str | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row 3 image_height image_width"]:
        """One image in [-1, 1] for each random stream. Raises MeasurementError for NaN or infinity.

        A pipeline that gives its scheduler no generator (LDMPipeline) draws from a global stream, seeded by the first.
        """
        with hushed(), torch.random.fork_rng(devices=_devices(self.pipeline)), _watched(self.denoiser) as finite:
            torch.manual_seed(streams[0].initial_seed())
            images = self._drawn(list(streams), steps=steps, prompt=prompt, guidance_scale=guidance_scale)
        if not all(bool(each) for each in (*finite, images.isfinite().all())):
            raise MeasurementError(
                f"{self.name} gave NaN or infinity", expected="finite values", do="check the checkpoint's weights"
            )
        return images

    def x_0(
        self,
        noise: Rows,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Rows:
        """x_0 reached from x_T = `noise` by the checkpoint's scheduler as the pipeline runs it.

        The levels and steps of Euler's scheduler of flow matching are those of the measure's grid. Below scale 1 the
        conditional estimate is taken, as pipelines do.
        """
        scale = guidance_scale if self.model.prompts is None else max(guidance_scale, 1.0)
        if type(self.pipeline.scheduler).__name__ in FLOW_SCHEDULERS:
            return sample(self.model, noise, steps=steps, condition=condition, guidance_scale=scale)

        def predict(x_t: Rows, time: Tensor, rows: slice) -> Tensor:
            given = condition if condition is None or rows_of(condition) == 1 else rows_at(condition, rows)
            return self.model.predict(x_t, time, condition=given, guidance_scale=scale)

        with torch.no_grad(), hushed():
            return descend(self.pipeline, predict, noise, streams, steps=steps)

    def _drawn(
        self, streams: list[torch.Generator], *, steps: int, prompt: str | None, guidance_scale: float
    ) -> Float[Tensor, "row 3 image_height image_width"]:
        given: dict[str, Any] = {"num_inference_steps": steps, "generator": streams, "output_type": "np"}
        labels = label_side(self.model)
        if labels is not None:
            chosen = labels.encode([prompt or ""] * len(streams)).tensors["label"].tolist()
            given |= {"class_labels": chosen, "guidance_scale": max(guidance_scale, 1.0)}
        elif text_side(self.model) is not None:
            height, width = self.model.image_size
            given |= {"prompt": [prompt or ""] * len(streams)}
            given |= call_of(self.denoiser).told(max(guidance_scale, 1.0), len(streams))
            given |= {"height": height, "width": width}
        else:
            given["batch_size"] = len(streams)
        drawn = torch.from_numpy(self.pipeline(**given).images).to(self.pipeline.device)
        return (drawn.permute(0, 3, 1, 2) * 2 - 1).expand(-1, 3, -1, -1).contiguous()


def _undrawn(scheduler: Any, steps: int, why: str, *, works: int | None) -> ModelError:
    """The error for steps in which a scheduler cannot draw; `works` is a number of steps in which it can."""
    return ModelError(
        f"{type(scheduler).__name__} of the released pipeline cannot draw in {steps} steps: {why}",
        expected="steps that it takes" if works else "a scheduler that draws in some number of steps",
        do=f"set sampler_steps to {works} in the policy" if works else "correct scheduler_config.json",
    )


class Released:
    """What each adapter has of the pipeline around its network."""

    __slots__ = ()
    network: Any
    pipeline: Any

    @property
    def released(self) -> PipelineSampler | None:
        """How a user of the checkpoint draws images; None without its pipeline."""
        if self.pipeline is None:
            return None
        return PipelineSampler(pipeline=self.pipeline, model=cast("Adapter", self), denoiser=self.network)

    def limited(self, x_0_hat: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row channel height width"]:
        """x_0_hat within the bounds that the checkpoint's own scheduler keeps it in."""
        return limited(x_0_hat, limits_of(self.pipeline))


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """Whether each output of a network was finite: clamped images do not show infinity."""
    finite: list[Tensor] = []

    def note(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        predicted = output[0] if isinstance(output, tuple) else output.sample
        rows = predicted if isinstance(predicted, list) else [predicted]
        finite.extend(row.isfinite().all() for row in rows)

    handle = network.register_forward_hook(note)
    try:
        yield finite
    finally:
        handle.remove()


def _devices(pipeline: Any) -> list[torch.device]:
    """Whose global random streams a pipeline may draw from, beside the CPU's."""
    return [pipeline.device] if pipeline.device.type == "cuda" else []
