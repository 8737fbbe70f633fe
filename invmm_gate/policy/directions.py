"""In which direction each setting of a policy weakens the gate. A field without an entry here fails a test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from invmm_gate.core.settings import InversionSettings
from invmm_gate.policy.confirm_schema import ConfirmChoice, GcgSearch, PlainSampling, PromptConfirmation
from invmm_gate.policy.schema import (
    BelowControlsConfig,
    ConfirmedConfig,
    Coverage,
    InvmmBelowConfig,
    MeasureChoice,
    MetricChoice,
    Policy,
    RegressionConfig,
)


@dataclass(frozen=True, slots=True)
class Direction:
    """When a value is weaker than another one, and why."""

    weaker: Callable[[Any, Any], bool]
    """(value, the value to compare with) -> whether the first one is weaker."""
    why: str


def _number(value: float | None) -> float:
    """A limit that is not set is infinite: no stop, no bound on a search, no share that suffices."""
    return float("inf") if value is None else value


def ranked(*values: object) -> Direction:
    """Strictest value first."""
    return Direction(lambda ours, theirs: values.index(ours) > values.index(theirs), "weaker")


def apart(reason: str) -> Direction:
    """Never weaker by itself, for this reason."""
    return Direction(lambda _, __: False, reason)


LOWER: Final = Direction(lambda ours, theirs: _number(ours) < _number(theirs), "lower is weaker")
HIGHER: Final = Direction(lambda ours, theirs: _number(ours) > _number(theirs), "higher is weaker")
OTHER: Final = Direction(lambda ours, theirs: ours != theirs, "strict's thresholds hold for its own value only")
MISSING: Final = Direction(lambda ours, theirs: not set(theirs) <= set(ours), "what is missing is not tried")
"""Of a set: all that the other one holds must be in it."""
_PART: Final = apart("a part with fields of its own; where it is missing, that is said")
_NAME: Final = apart("a name")
_SELECTION: Final = apart("compared group by group: whether a rule looks at every probe that strict's looks at")

DIRECTIONS: Final[Mapping[type, Mapping[str, Direction]]] = {
    Policy: {
        "name": _NAME,
        "version": _NAME,
        "measure": _PART,
        "metric": apart("compared for every image size"),
        "confirm": _PART,
        "rules": apart("compared rule by rule; a rule that strict has not only adds findings"),
        "coverage": _PART,
        "waivers": ranked("approved", "owned"),
    },
    MeasureChoice: {"profile": OTHER, "settings": apart("compared as resolved for each model family")},
    MetricChoice: {
        "name": OTHER,
        "threshold": apart("the direction is the metric's"),
        "up_to": apart("compared for every image size"),
        "sha256": apart("pins the metric's weights; strict pins none"),
    },
    ConfirmChoice: {"plain_sampling": _PART, "prompts": _PART},
    PlainSampling: {"trials": LOWER, "sampler_steps": OTHER, "confidence": OTHER, "probes": ranked("all", "flagged")},
    PromptConfirmation: {
        "trials": LOWER,
        "sampler_steps": OTHER,
        "confidence": OTHER,
        "guidance_scales": MISSING,
        "probes": ranked("all", "flagged"),
        "gcg": _PART,
    },
    GcgSearch: {
        "tokens": LOWER,
        "steps": LOWER,
        "candidates": LOWER,
        "top_k": OTHER,
        "noises": LOWER,
        "max_evaluations": LOWER,
    },
    InvmmBelowConfig: {
        "rule": _NAME,
        "groups": _SELECTION,
        "categories": _SELECTION,
        "threshold": LOWER,
        "share": HIGHER,
    },
    ConfirmedConfig: {"rule": _NAME, "rate_limit": HIGHER},
    BelowControlsConfig: {"rule": _NAME, "groups": _SELECTION, "categories": _SELECTION, "fdr": LOWER},
    RegressionConfig: {"rule": _NAME, "groups": _SELECTION, "categories": _SELECTION, "margin": HIGHER},
    Coverage: {
        "min_probes": LOWER,
        "min_controls": LOWER,
        "max_errors": apart("only 0 is valid"),
        "probe_set": apart("pins the probe set; strict pins none"),
    },
    InversionSettings: {
        "steps": LOWER,
        "batch_size": OTHER,
        "learning_rate": OTHER,
        "test_every": OTHER,
        "weight_step": OTHER,
        "plateau_tolerance": OTHER,
        "plateau_sign": OTHER,
        "control_loss": OTHER,
        "loss_window": OTHER,
        "initial_weight": OTHER,
        "weight_rule": OTHER,
        # More samples make a test harder to pass, so that fewer probes invert; fewer let the controls invert too.
        "test_samples": OTHER,
        "sampler_steps": OTHER,
        "guidance_scales": MISSING,
        "prompt": OTHER,
        "prompt_tokens": LOWER,
        "temperature": OTHER,
        "hard_tests": OTHER,
        "test_prompts": OTHER,
        "vocabulary": OTHER,
        "soft_encoders": OTHER,
        "other_prompt": OTHER,
        "long_captions": ranked("refuse", "truncate"),
        "objective": OTHER,
        "test_at_start": ranked(True, False),
        # All of them must replicate, so more of them make an inversion harder to confirm.
        "confirmation_samples": HIGHER,
        "mirror": ranked(True, False),
        # The score is the median of the seeds: an image that one seed in three inverts is found by one seed, or none.
        "seeds": OTHER,
        "stop_above": LOWER,
        "stop_margin": LOWER,
        "stop_tests": LOWER,
        "stop_after": LOWER,
        "posterior": OTHER,
    },
}
"""Model -> field -> direction."""
