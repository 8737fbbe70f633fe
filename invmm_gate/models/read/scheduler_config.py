"""The scheduler's configuration: the noise schedule and prediction type that the network was trained with.

How the scheduler samples (spacing, solver order) is accepted and not used here: the measure has a grid of its own, and
the released sampler is diffusers' own pipeline. Limits of x_0 are read (models/adapters/released_pipeline.py).
Whatever would change the process itself must keep the variance-preserving meaning.
"""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.diffusers_config import StrictConfig, class_name, stated, validated

Beta = Annotated[float, Field(gt=0, lt=1)]
MOST_SHIFT: Final = 100.0
Shift = Annotated[float, Field(gt=0, le=10)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]

SCHEDULERS: Final[tuple[str, ...]] = (
    "DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler", "PNDMScheduler",
    "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "LCMScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler", "TCDScheduler", "SASolverScheduler",
)  # fmt: skip
FLOW_SCHEDULERS: Final = ("FlowMatchEulerDiscreteScheduler",)
FLOW_SOLVERS: Final = ("DPMSolverMultistepScheduler",)
"""Schedulers of flow matching that take several of the network's estimates for one step."""
SANA: Final = "SanaPipeline"
KLEIN: Final = "Flux2KleinPipeline"
OWN_LEVELS: Final = frozenset(
    {"FluxPipeline", "ZImagePipeline", "QwenImagePipeline", "ChromaPipeline", "Lumina2Pipeline", KLEIN}
)
"""Pipelines that hand the scheduler their own levels, and the number of the image's tokens."""

SAMPLER_KEYS: Final = frozenset({
    "variance_type", "clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio",
    "sample_max_value", "timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps",
    "interpolation_type", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas",
    "sigma_min", "sigma_max", "final_sigmas_type", "solver_order", "algorithm_type", "solver_type",
    "lower_order_final", "euler_at_final", "lambda_min_clipped", "predict_x0", "disable_corrector", "flow_shift",
    "time_shift_type", "shift_terminal", "tensor_format", "original_inference_steps", "timestep_scaling",
    "predictor_order", "corrector_order", "noise_sampler_seed",
})  # fmt: skip
"""Known to diffusers, without effect on what the network was trained to predict."""

_ORDERS: Final = ("solver_order", "predictor_order", "corrector_order")
_HIGHEST_ORDER: Final = 10
"""A scheduler keeps so many outputs of the network; published ones keep 2 or 3."""
WIDEST_PICTURE: Final = 1.0
"""Largest value of a picture: narrower limits of x_0 flatten or saturate every picture that the model makes."""

_LATENT: Final[dict[str, object]] = {"beta_start": 0.00085, "beta_end": 0.012}
OWN_DEFAULTS: Final[dict[str, dict[str, object]]] = {
    "LCMScheduler": {**_LATENT, "beta_schedule": "scaled_linear"},
    "TCDScheduler": {**_LATENT, "beta_schedule": "scaled_linear"},
    "HeunDiscreteScheduler": _LATENT,
    "KDPM2DiscreteScheduler": _LATENT,
    "KDPM2AncestralDiscreteScheduler": _LATENT,
    "DPMSolverSDEScheduler": _LATENT,
}
"""Where a scheduler's defaults are not those of DDPMScheduler."""


WITHOUT_ZERO_SNR: Final = (
    "PNDMScheduler", "LMSDiscreteScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler",
    "SASolverScheduler",
)  # fmt: skip
"""Schedulers that do not know `rescale_betas_zero_snr`."""
WITHOUT_SAMPLE: Final = (
    "PNDMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
)  # fmt: skip
"""Schedulers that cannot draw with a network that predicts x_0 (`sample`)."""
WITHOUT_GENERATOR: Final = (
    "PNDMScheduler", "LMSDiscreteScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverSDEScheduler",
)  # fmt: skip
"""Schedulers whose step takes no generator: `DDPMPipeline`, which hands one to every step, cannot draw with them."""
_NEEDS: Final = {"DPMSolverSDEScheduler": "torchsde"}
"""Scheduler -> the package without which diffusers has no such class."""


class SchedulerConfig(StrictConfig):
    """alpha_bar and prediction type; defaults are those of diffusers' DDPMScheduler."""

    scheduler: str
    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: (
        Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=10_000, strict=False)] | None
    ) = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    rescale_betas_zero_snr: bool = False
    use_flow_sigmas: Literal[False] = False
    use_dynamic_shifting: Literal[False] = False
    timestep_type: Literal["discrete"] = "discrete"
    timestep_values: None = None
    timesteps: int | None = None
    """A key of the first versions of diffusers; later versions keep it in the file and ignore it."""
    solver_p: None = None
    tau_func: None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "SchedulerConfig":
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"{len(self.trained_betas)} trained_betas for {self.num_train_timesteps} timesteps")
        if self.timesteps not in (None, self.num_train_timesteps):
            raise ValueError(f"{self.timesteps} timesteps beside {self.num_train_timesteps} num_train_timesteps")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError("rescale_betas_zero_snr leaves no signal at the last timestep, where epsilon says nothing")
        if self.prediction_type == "sample" and self.scheduler in WITHOUT_SAMPLE:
            raise ValueError(f"{self.scheduler} cannot draw with a network that predicts the sample")
        if self.beta_schedule == "sigmoid" and not self.scheduler.startswith("DDPM"):
            raise ValueError(f"{self.scheduler} has no sigmoid schedule")
        if self.rescale_betas_zero_snr and self.scheduler in WITHOUT_ZERO_SNR:
            raise ValueError(f"{self.scheduler} ignores rescale_betas_zero_snr, so that it samples by another schedule")
        return self


class FlowConfig(StrictConfig):
    """Flow matching, `FlowMatchEulerDiscreteScheduler`: with one shift, or with one that grows with the image."""

    scheduler: str
    num_train_timesteps: Annotated[int, Field(ge=2, le=10_000)] = 1000
    shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    use_dynamic_shifting: bool = False
    base_shift: Shift | None = 0.5
    max_shift: Shift | None = 1.15
    base_image_seq_len: Tokens | None = 256
    max_image_seq_len: Tokens | None = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The last sampling level, to which the others are stretched."""
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: Literal[False] = False

    @property
    def prediction_type(self) -> Literal["velocity"]:
        """The network predicts eps - x_0."""
        return "velocity"

    @model_validator(mode="after")
    def _knows_its_shift(self) -> "FlowConfig":
        stated = (self.base_shift, self.max_shift, self.base_image_seq_len, self.max_image_seq_len)
        if self.use_dynamic_shifting and (None in stated or self.base_image_seq_len == self.max_image_seq_len):
            raise ValueError("use_dynamic_shifting needs base_shift, max_shift and two numbers of tokens that differ")
        return self

    def shift_of_klein(self, tokens: int, steps: int) -> float:
        """The shift of Flux2KleinPipeline, which depends on the steps too: a line between 10 and 200 of them.

        Source: `compute_empirical_mu` in diffusers' Flux2KleinPipeline, with its own numbers.
        """
        many = 0.00016927 * tokens + 0.45666666
        few = 8.73809524e-05 * tokens + 1.89833333
        mu = many if tokens > 4300 else many + (many - few) * (steps - 200) / 190
        return self._shift(mu) if self.use_dynamic_shifting else self.shift

    def shift_at(self, tokens: int) -> float:
        """The shift for an image of so many tokens: the stated one, or one on the line through both stated points.

        The line gives the logarithm of the shift where `time_shift_type` is exponential. Source: diffusers'
        FluxPipeline and FlowMatchEulerDiscreteScheduler.
        """
        if not self.use_dynamic_shifting:
            return self.shift
        low, high = float(self.base_shift or 0), float(self.max_shift or 0)
        fewest, most = int(self.base_image_seq_len or 0), int(self.max_image_seq_len or 0)
        return self._shift(low + (high - low) * (tokens - fewest) / (most - fewest))

    def _shift(self, mu: float) -> float:
        """Raises ModelError for a shift that leaves no noise schedule."""
        shift = math.exp(min(mu, 100.0)) if self.time_shift_type == "exponential" else mu
        if not 0 < shift <= MOST_SHIFT:
            raise ModelError(
                f"the scheduler shifts the noise by {shift:.3g} at this size of image",
                expected=f"a shift above 0 and up to {MOST_SHIFT:g}",
                do="correct base_shift, max_shift and their numbers of tokens in scheduler_config.json",
            )
        return shift


class FlowSolverConfig(StrictConfig):
    """Flow matching through `DPMSolverMultistepScheduler`, with one shift."""

    scheduler: str
    num_train_timesteps: Annotated[int, Field(ge=2, le=10_000)] = 1000
    flow_shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    predicts: Annotated[Literal["flow_prediction"], Field(alias="prediction_type")]
    use_flow_sigmas: Literal[True]
    use_dynamic_shifting: Literal[False] = False
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    use_lu_lambdas: Literal[False] | None = False
    rescale_betas_zero_snr: Literal[False] = False
    variance_type: None = None
    trained_betas: None = None
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """The betas are of no schedule; with `final_sigmas_type: sigma_min` the sampler ends at the first of them."""

    @property
    def prediction_type(self) -> Literal["velocity"]:
        """The network predicts eps - x_0."""
        return "velocity"


AnyScheduler = SchedulerConfig | FlowConfig | FlowSolverConfig


def schedulers_of(pipeline: str, expected: str | None) -> tuple[str, ...]:
    """Which classes may stand in the file of a scheduler that model_index.json names."""
    if pipeline == SANA:
        return FLOW_SOLVERS
    return FLOW_SCHEDULERS if expected in FLOW_SCHEDULERS else SCHEDULERS


def read_scheduler(content: Mapping[str, object], name: str, *, allowed: tuple[str, ...] = SCHEDULERS) -> AnyScheduler:
    """The scheduler configuration that file `name` holds. Raises ModelError naming file and key."""
    kind = class_name(content, name=name, allowed=allowed)
    content = stated(content, name)
    if kind in FLOW_SCHEDULERS:
        return validated(FlowConfig, {**content, "scheduler": kind}, name)
    for key in sorted(content.keys() & SAMPLER_KEYS):
        if isinstance(content[key], dict):
            raise ModelError(f"{name!r}: {key!a} is an object", expected="a plain value", do="correct the file")
    _refuse_narrow_limits(content, name)
    _refuse_high_orders(content, name)
    if allowed == FLOW_SOLVERS:
        idle = SAMPLER_KEYS - {field.alias or key for key, field in FlowSolverConfig.model_fields.items()}
        core = {key: value for key, value in content.items() if key not in idle}
        return validated(FlowSolverConfig, {**core, "scheduler": kind}, name)
    _refuse_without_package(kind, name)
    content = _without_predict_epsilon(content, name)
    if "scheduler" in content:
        raise ModelError(f"{name!r}: 'scheduler' is no key of {kind}", expected="diffusers' keys", do="remove it")
    core = {key: value for key, value in content.items() if key not in SAMPLER_KEYS}
    return validated(SchedulerConfig, {**OWN_DEFAULTS.get(kind, {}), **core, "scheduler": kind}, name)


def _without_predict_epsilon(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Without the key of diffusers below 0.9, which later versions ignore: where it says more, they draw otherwise."""
    if content.get("predict_epsilon", True) is True and content.get("prediction_type", "epsilon") == "epsilon":
        return {key: value for key, value in content.items() if key != "predict_epsilon"}
    if "predict_epsilon" in content:
        raise ModelError(
            f"{name!r}: predict_epsilon is {content['predict_epsilon']!a}, which diffusers has ignored since 0.9"[:200],
            expected="prediction_type: with predict_epsilon false, the network predicts the sample",
            do='put prediction_type in its place, as "sample" or "epsilon"',
        )
    return content


def _refuse_without_package(kind: str, name: str) -> None:
    package = _NEEDS.get(kind)
    if package is not None and find_spec(package) is None:
        raise ModelError(
            f"{name!r} names {kind}, with which diffusers draws through {package}, which is not installed",
            expected=f"{package} beside diffusers",
            do="pip install 'invmm-gate[sde]', or save the pipeline with another scheduler, if it is released so",
        )


def _refuse_high_orders(content: Mapping[str, object], name: str) -> None:
    """Diffusers makes room for as many outputs as the file says, whatever it says."""
    for key in _ORDERS:
        order = content.get(key, 1)
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= _HIGHEST_ORDER:
            raise ModelError(
                f"{name!r}: {key} is {order!a}"[:200], expected=f"1 to {_HIGHEST_ORDER}", do="correct the file"
            )


def _refuse_narrow_limits(content: Mapping[str, object], name: str) -> None:
    """Limits of x_0 that cut into pictures: users see each copy at once, and the copy metric sees another picture."""
    for key in ("clip_sample_range", "sample_max_value"):
        limit = content.get(key, WIDEST_PICTURE)
        if not (isinstance(limit, int | float) and limit >= WIDEST_PICTURE):
            raise ModelError(
                f"{name!r}: {key} is {limit!a}"[:200],
                expected="1 or more, as pictures reach from -1 to 1",
                do="correct the file",
            )
