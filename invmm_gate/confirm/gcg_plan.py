"""Settings of the prompt search, as data."""

from dataclasses import dataclass
from typing import Final

from invmm_gate.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GcgPlan:
    """Settings of the search; where the paper names one, the default is the paper's."""

    tokens: int = 20
    """Tokens of the prompt, at most what the tokenizer takes."""
    steps: int = 500
    candidates: int = 128
    """Prompts per step."""
    top_k: int = 256
    """Tokens that a position may change to: those with the lowest gradient."""
    noises: int = 16
    """Draws of timestep and noise that the prompts of a step share."""
    first_noises: int = 4
    """Draws after which only `first_noises / noises` of the candidates go on; = `noises` for no halving."""
    merges: int = 8
    """Prompts of a step that join its best changes; 0 = none."""
    guidance_scales: tuple[float, ...] = (1.0, 7.0)
    """Of the samples: a prompt is tried at each of them in order, up to the first copy. The loss is that of the
    conditional estimate, as at scale 1: a scale of 7 can hide an image that the prompt itself brings out, and costs two
    forwards where 1 costs one."""
    sampler_steps: int = 50
    look_steps: int = 10
    """Sampler steps of the first, cheap look at a prompt whose loss is a record."""
    look_every: int = 10
    """Steps after which a prompt is sampled in full, whatever its loss and the cheap look say."""
    stop_samples: int = 8
    """Samples of a full look; any copy among them sends the prompt to the fresh seeds."""
    trials: int = 64
    """Fresh seeds for the prompt that is reported."""
    confidence: float = 0.95
    max_evaluations: int | None = None
    """Network forwards, those of the fresh seeds included: no step begins that could go beyond. None = no limit."""
    rows: int = 32
    """Rows of a call of the network."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that do not make a search."""
        counts = {name: value for name in _AT_LEAST_ONE if (value := getattr(self, name)) < 1}
        if counts:
            name, value = next(iter(counts.items()))
            raise ConfigError(f"gcg: {name} is {value}", expected="at least 1")
        if not self.guidance_scales:
            raise ConfigError("gcg: guidance_scales is empty", expected="at least one scale")
        if self.first_noises > self.noises:
            raise ConfigError(
                f"gcg: first_noises is {self.first_noises}", expected=f"at most noises, which is {self.noises}"
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Draws after each stage of the halving."""
        return (self.noises,) if self.first_noises == self.noises else (self.first_noises, self.noises)


_AT_LEAST_ONE: Final = (
    *("tokens", "steps", "candidates", "top_k", "noises", "first_noises"),
    *("sampler_steps", "look_steps", "look_every", "stop_samples", "trials", "rows"),
)
