"""The records of a verdict: findings, waivers, the baseline, the scope, the decision. Nothing here imports torch."""

import datetime
from dataclasses import dataclass, field
from typing import Annotated, Literal

from invmm_gate.core.errors import BLOCK, INCONCLUSIVE, PASS
from invmm_gate.core.marks import PUBLIC, WHOLE
from invmm_gate.core.records import Group, Interval

Decision = Literal["pass", "block", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An owned, expiring exception for a probe, a rule, or a rule on a probe."""

    reason: str
    """Why the finding is accepted."""
    owner: Annotated[str, PUBLIC]
    """Who answers for it."""
    expires: Annotated[datetime.date, PUBLIC]
    """The last day on which it counts, UTC."""
    probe: str | None = None
    """Id of the only probe that it is for; None = any."""
    rule: Annotated[str | None, PUBLIC] = None
    """The only rule that it is for; None = any."""
    model: Annotated[str | None, PUBLIC] = None
    """Digest of the only model that it is for; None = any."""
    image: str | None = None
    """sha256 of the only image that it is for; None = whatever image the probe shows."""
    approved_by: Annotated[str | None, PUBLIC] = None
    """Id of the reviewer's key that signed it; None = nobody's that was trusted."""
    line: int = 0
    """Of waivers.yaml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One breach of one rule."""

    rule: Annotated[str, PUBLIC]
    """Name of the rule, or of the check that no policy can leave out."""
    effect: Annotated[Literal["block", "inconclusive"], PUBLIC]
    """What the finding makes of the verdict."""
    probe: str | None
    """Id of the probe; None where it is about a group or the whole run."""
    message: str
    """One sentence with the figures."""
    value: float | None = None
    """What was found, where it is one figure."""
    limit: float | None = None
    """What the value was held against."""
    waiver: Annotated[Waiver | None, PUBLIC] = None
    """The waiver that covers it; None = none does."""
    group: Annotated[Group | None, PUBLIC] = None
    """The group of probes that it is about as a whole; None where it is about a probe or the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverState:
    """A waiver, and whether it counted in a verdict, or why not."""

    waiver: Annotated[Waiver, PUBLIC]
    """As it was given."""
    state: Annotated[
        Literal["used", "unused", "expired", "unknown_probe", "other_model", "other_image", "unapproved"], PUBLIC
    ]
    """`used`, or why it covers nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """The run that was given as the baseline of the rule `regression`."""

    run_id: Annotated[str, PUBLIC]
    """Of the run."""
    fingerprint: Annotated[str, PUBLIC]
    """Of the run."""
    model_digest: Annotated[str, PUBLIC]
    """Of its checkpoint."""
    measurements_digest: Annotated[str, PUBLIC]
    """sha256 of its measurements.jsonl."""
    decision: Annotated[Decision | None, PUBLIC] = None
    """Its verdict when it was blessed; None, as the next three are empty, where a run folder was named by hand."""
    blessed_by: Annotated[str, PUBLIC] = ""
    """Who blessed it."""
    blessed_on: Annotated[str, PUBLIC] = ""
    """UTC, ISO 8601."""
    reason: str = ""
    """Why it was blessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What was tested. A verdict says nothing about a model that is used in another way."""

    image_size: Annotated[tuple[int, int], PUBLIC]
    """(height, width) of the samples, in pixels."""
    samplers: Annotated[tuple[str, ...], PUBLIC]
    """Names of the samplers that samples were drawn with."""
    sampler_steps: Annotated[int, PUBLIC]
    """Steps of the sampler in the measure; a policy says how many its confirmations take."""
    guidance_scales: Annotated[tuple[float, ...], PUBLIC]
    """Every scale that was tried, ascending; 1 alone for models without prompts."""
    seed: Annotated[int, PUBLIC]
    """The seed of all random streams."""
    seed_chosen: Annotated[bool, PUBLIC]
    """Whether it is another one than model, probe set and the verdict's policy give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractableShare:
    """The share of the training images that the search of a run finds, from images that were drawn at random.

    Of the distinct training images that the draw was made from: exact copies count once.
    """

    drawn: Annotated[int, PUBLIC]
    """Images of the group `sample`; probes of one cluster are one image."""
    found: Annotated[int, PUBLIC]
    """Those that were inverted, or copied by an input that a user could give."""
    unsearched: Annotated[int, PUBLIC]
    """Those that were not found, and not searched in full: without a measurement, or without a confirmation that the
    policy asks for. The bound counts them as found."""
    upper: Annotated[float, PUBLIC]
    """The upper confidence bound of the share, one-sided (Clopper-Pearson), in [0, 1]."""
    confidence: Annotated[float, PUBLIC]
    """Of the bound, in (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """The canaries that were planted equally often."""

    multiplicity: Annotated[int, PUBLIC]
    """How often each was planted in the training data."""
    found: Annotated[int, PUBLIC]
    """Those that were inverted, or copied by an input that a user could give."""
    planted: Annotated[int, PUBLIC]
    """Canaries of this multiplicity; probes of one cluster are one canary."""
    interval: Annotated[Interval, WHOLE]
    """Of the share that is found, two-sided (Clopper-Pearson)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a run could have found in its model, from the canaries of its probe set. Empty without any."""

    rungs: Annotated[tuple[Rung, ...], PUBLIC] = ()
    """By multiplicity, ascending."""
    found_from: Annotated[int | None, PUBLIC] = None
    """The smallest multiplicity from which on at least 95 % of such images are found, at a confidence of 95 %; None
    where the canaries do not show that of any."""
    unstated: Annotated[int, PUBLIC] = 0
    """Canaries of which nobody said how often they were planted."""
    unstated_found: Annotated[int, PUBLIC] = 0
    """Those of them that were found."""
    unsearched: Annotated[int, PUBLIC] = 0
    """Canaries that were not found, and not searched in full. They count as not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchBaseRate:
    """How often the prompt search brings out images that the model cannot have seen, from the controls."""

    controls: Annotated[int, PUBLIC]
    """Controls that it was made on."""
    found: Annotated[int, PUBLIC]
    """Those that a prompt brought out, be it only while the search went on."""
    upper: Annotated[float, PUBLIC]
    """The upper confidence bound of the rate, one-sided (Clopper-Pearson), in [0, 1]."""
    confidence: Annotated[float, PUBLIC]
    """Of the bound, in (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """verdict.json."""

    schema_version: Annotated[int, PUBLIC]
    """Of this file."""
    decision: Annotated[Decision, PUBLIC]
    """`pass`, `block` or `inconclusive`."""
    reasons: tuple[str, ...]
    """One sentence for each finding that decides, the weightiest first, and for each waiver that covers nothing."""
    findings: Annotated[tuple[Finding, ...], PUBLIC]
    """All of them, waived ones too."""
    waivers: Annotated[tuple[WaiverState, ...], PUBLIC]
    """Every waiver that was given, and what became of it."""
    policy: Annotated[str, PUBLIC]
    """Name of the policy."""
    policy_digest: Annotated[str, PUBLIC]
    """sha256 of the policy as it is understood."""
    model_digest: Annotated[str, PUBLIC]
    """Of the checkpoint."""
    probe_set_digest: Annotated[str, PUBLIC]
    """Of the probe set."""
    fingerprint: Annotated[str, PUBLIC]
    """Of the run."""
    judged_on: Annotated[datetime.date, PUBLIC]
    """UTC. Waivers count up to their day."""
    counts: Annotated[dict[str, int], PUBLIC]
    """Probes and controls per outcome; probes per strongest confirmation, controls not among them; findings."""
    records: Annotated[dict[str, str], PUBLIC] = field(default_factory=dict)
    """sha256 of each file that was judged, of run.json without its date, context and paths: of other records the
    verdict says nothing. Empty for records in no folder."""
    baseline: Annotated[BaselineRecord | None, PUBLIC] = None
    """None where none was given."""
    tested: Annotated[Scope, PUBLIC]
    """What was tested."""
    weaknesses: Annotated[tuple[str, ...], PUBLIC] = ()
    """One sentence for each setting in which the policy is weaker than the shipped `strict`."""
    extractable: Annotated[ExtractableShare | None, PUBLIC] = None
    """The bound that images drawn at random from the training data give; None without such images."""
    power: Annotated[Power, PUBLIC] = Power()
    """What the run could have found, from planted images."""
    base_rate: Annotated[SearchBaseRate | None, PUBLIC] = None
    """What the prompt search found of controls; None where it was made on none."""

    @property
    def exit_code(self) -> int:
        """0 pass, 10 block, 11 inconclusive."""
        return {"pass": PASS, "block": BLOCK, "inconclusive": INCONCLUSIVE}[self.decision]
