"""Overrides of the measure's settings in a policy: the fields of InversionSettings, with types and ranges."""

from typing import Annotated, Literal

from pydantic import Field

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import InversionSettings
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.numbers import Number, Whole

Count = Annotated[Whole, Field(ge=1, le=100_000)]
Samples = Annotated[Whole, Field(ge=1, le=10_000)]
NotNegative = Annotated[Number, Field(ge=0)]


class SettingsOverrides(StrictModel):
    """What a policy changes in its profile. A field that is not given keeps the profile's value."""

    steps: Count = 1
    batch_size: Samples = 1
    learning_rate: Annotated[Number, Field(gt=0, le=10)] = 0.1
    test_every: Count = 1
    weight_step: NotNegative = 0.0
    plateau_tolerance: NotNegative = 0.0
    plateau_sign: Literal["improvement", "paper"] = "improvement"
    control_loss: Literal["denoise", "total"] = "denoise"
    loss_window: Count = 1
    initial_weight: NotNegative = 1.0
    weight_rule: Literal["adaptive", "fixed"] = "adaptive"
    test_samples: Samples = 8
    sampler_steps: Annotated[Whole, Field(ge=1, le=1_000)] = 50
    guidance_scales: Annotated[tuple[Annotated[Number, Field(ge=0, le=100)], ...], Field(min_length=1)] = (1.0,)
    test_at_start: Annotated[bool, Field(strict=True)] = False
    confirmation_samples: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    mirror: Annotated[bool, Field(strict=True)] = False
    seeds: Annotated[Whole, Field(ge=1, le=100)] = 1
    stop_above: NotNegative | None = None
    stop_margin: NotNegative = 0.5
    stop_tests: Count = 2
    stop_after: Annotated[Whole, Field(ge=0, le=100_000)] = 100
    posterior: Literal["mode", "sample"] = "mode"
    prompt: Literal["none", "caption", "joint", "prompt_only"] = "none"
    prompt_tokens: Annotated[Whole, Field(ge=1, le=1_000)] = 75
    temperature: Annotated[Number, Field(gt=0, le=100)] = 2.0
    hard_tests: Annotated[bool, Field(strict=True)] = False
    test_prompts: Literal["shared", "per_sample"] = "shared"
    vocabulary: Literal["all", "typeable"] = "all"
    soft_encoders: Literal["first", "clip"] = "first"
    other_prompt: Literal["caption", "empty"] = "caption"
    long_captions: Literal["refuse", "truncate"] = "refuse"
    objective: Literal["x_0", "epsilon"] = "x_0"

    def given(self) -> dict[str, object]:
        """The fields that the policy names, with their values."""
        return self.model_dump(exclude_unset=True)


def check(settings: InversionSettings, *, lowest_stop: float | None) -> None:
    """Refuse settings that contradict one another. `lowest_stop`: the bound that the policy's rules need to decide."""
    if settings.steps % settings.test_every:
        raise ConfigError(
            f"measure.settings: steps {settings.steps} is not a multiple of test_every {settings.test_every}",
            do="change steps or test_every, so that the last step is tested",
        )
    stop = settings.stop_above
    if stop is not None and lowest_stop is not None and stop < lowest_stop:
        raise ConfigError(
            f"measure.settings.stop_above {stop:g} cannot decide the rule invmm_below",
            expected=f"at least {lowest_stop!r} (its threshold and the guard band)",
            do="leave stop_above out: it is then set from the rules",
        )
