"""The records of a comparison of two runs. No torch, and no caption, prompt or path in them."""

from dataclasses import dataclass
from typing import Final, Literal

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.likelihood_record import PromptKind
from invmm_gate.core.records import Group, Outcome, ReplicationShare
from invmm_gate.core.run_records import RunIdentity, RunInputs, differences, named_difference

COMPARISON_SCHEMA_VERSION: Final = 3

Change = Literal["worse", "better", "unchanged", "unknown"]
"""`worse`: more memorized, so a lower score or a higher rate. `unknown`: one side broke or cannot be placed."""
RateFate = Literal["worse", "better", "unchanged", "unknown", "not_compared"]
"""`unknown`: copies came out on one side, and the other side did not try this input. `not_compared`: nothing to say."""
LikelihoodFate = Literal["worse", "better", "unchanged", "unknown", "not_compared"]
"""`unknown`: nothing bounds one side from above, the bounds of one side contradict each other, the samplers differ, a
lower bound lies above the other side's estimate alone, or bounds that lie apart are of two guidance scales.
`not_compared`: no copies came out on either side, or none do any more, which score and rates weigh."""
FindingFate = Literal["new", "fixed", "worse", "better", "unchanged", "unknown"]
FailOn = Literal["new", "worse"]

TEST_SAMPLES: Final = "test_samples"
"""Name of the rate of the measure's own last test; the other rates are named after the way of confirming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreState:
    """The score of a probe in one run."""

    outcome: Outcome
    invmm: float | None
    invmm_above: float | None
    spread: tuple[float, float] | None
    """Smallest and largest finite score over the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreChange:
    """The two scores of a probe."""

    change: Change
    before: ScoreState | None
    """None where the probe was not measured."""
    after: ScoreState | None
    margin: float | None
    """The policy's margin of the rule `regression` for this probe; None where no policy names one."""
    within_spread: bool
    """Each score lies within the other's spread over the seeds. Decides where there is no margin."""
    reason: str
    """One clause with the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChange:
    """How often samples replicate the probe, by one kind of input. High = memorized."""

    name: str
    """`test_samples`, or the way of confirming. A search may have found another prompt in each run."""
    change: RateFate
    """`worse` or `better` only where the two intervals have no rate in common."""
    before: ReplicationShare | None
    """With the interval of the record, which holds for sampling that could stop early."""
    after: ReplicationShare | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodState:
    """The likelihood of a probe in one run, by one kind of prompt."""

    nats: float | None
    """-ln of the lower bound; None where nothing bounds it from below. Low = memorized."""
    lower: float
    """Lower bound, in [0, 1]."""
    estimate: float
    """Unbiased estimate, in [0, 1]."""
    upper: float
    """Upper bound, from the plain samples alone."""
    confidence: float
    """Of both bounds together, in (0, 1)."""
    guidance_scale: float | None
    """The scale at which it was sampled; None without a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodChange:
    """How likely a generation is a copy of the probe, by one kind of prompt. High = memorized."""

    kind: PromptKind
    """What the model was given. A search may have found another prompt in each run."""
    change: LikelihoodFate
    """`worse` or `better` only where the lower bound of one run lies above the upper bound of the other."""
    before: LikelihoodState | None
    """None where that run has no likelihood of this probe by this kind of prompt."""
    after: LikelihoodState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeChange:
    """One probe in both runs."""

    probe: str
    group: Group
    category: str
    change: Change
    """`worse` if the score, a rate or a likelihood is; else `unknown` if any part is; else `better` if any part is."""
    score: ScoreChange
    rates: tuple[RateChange, ...]
    likelihoods: tuple[LikelihoodChange, ...]
    """By kind of prompt: all that either run has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A finding on one side, without its message."""

    effect: Literal["block", "inconclusive"]
    value: float | None
    limit: float | None
    waived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingChange:
    """One rule on one probe, one group, or the whole run."""

    rule: str
    probe: str | None
    change: FindingFate
    before: Breach | None
    after: Breach | None
    group: Group | None = None
    """The group that it is about as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncompared:
    """A finding of the second run, not waived, that the first run says nothing about."""

    rule: str
    probe: str | None
    effect: Literal["block", "inconclusive"]
    value: float | None
    limit: float | None
    group: Group | None = None
    """The group that it is about as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Probes that only one run has, or that are not the same in both. All empty for equal probe sets."""

    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    """One id with another image, or, for text-to-image models, another caption."""

    @property
    def probes(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.gone, *self.added, *self.replaced))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs side by side. It is no verdict."""

    schema_version: int
    before: RunIdentity
    after: RunIdentity
    profile: str
    metric: str
    findings_compared: bool
    """False where the verdicts are not under one policy; `notes` says why."""
    counts: dict[str, dict[str, int]]
    """`probes` and `findings`: how many of each change."""
    notes: tuple[str, ...]
    left_out: LeftOut
    findings: tuple[FindingChange, ...]
    """Worst first."""
    uncompared: tuple[Uncompared, ...]
    """Whether these are new is unknown."""
    probes: tuple[ProbeChange, ...]
    """Worst first, then in the probe set's order."""


CONDITIONS: Final = ("family", "profile", "settings", "metric", "samplers")
"""The inputs of a run that must be equal before two scores compare."""


def refuse_other_conditions(before: RunInputs, after: RunInputs, *, runs: str) -> None:
    """Raise ConfigError that names what differs, if scores of runs with these inputs do not compare."""
    changed = differences(before, after)
    different = ", ".join(
        named_difference(name, getattr(before, name), getattr(after, name)) for name in CONDITIONS if name in changed
    )
    if different:
        raise ConfigError(
            f"{runs} differ in {different}",
            expected="two runs under one profile, settings, family and metric, as only such scores compare",
            do="measure one of them again",
        )
