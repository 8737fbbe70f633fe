"""The rule `extraction_likelihood`: a certified probability that a generation is a copy of the probe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Annotated, Final, Literal, final

from pydantic import Field

from invmm_gate.core.likelihood_record import AskedKind, PromptKind, frequency
from invmm_gate.core.marks import LOWER, MISSING, NAME
from invmm_gate.core.records import Probe
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.evidence import Evidence, Selection, block, is_selected, undecided
from invmm_gate.policy.field_types import Whole
from invmm_gate.policy.likelihoods import ASKED_KINDS, BY, certified, copied_probes, counted_kinds, kinds_to_estimate
from invmm_gate.policy.rules.rule import RELEASE, Description, blind_spots


class ExtractionLikelihoodConfig(Selection):
    """Blocks a probe that is certified to come out of at least one in so many generations."""

    rule: Annotated[Literal["extraction_likelihood"], NAME]
    one_in: Annotated[Whole, Field(ge=2, le=10**300), LOWER]
    """Blocks where the lower bound of the likelihood is at or above one in this number of generations."""
    kinds: Annotated[tuple[AskedKind, ...], Field(min_length=1), MISSING] = ASKED_KINDS
    """Kinds of prompt that count: `none`, `caption`, `typed` (a search found it), `soft` (nobody can type it). Of a
    class-conditional model the probe's label counts as `caption`, another label as `typed`."""


DESCRIPTION: Final = Description(
    short="The probe is certified to come out of more generations than the policy allows",
    full="Draws around the noise that reproduces the image, or plain samples, give a lower bound of the probability "
    "that an ordinary generation is a copy of it. The bound is above the policy's limit.",
    help=RELEASE,
    severity="9.0",
    blocks="{probe} comes out of more generations than the policy allows",
    leaves_open="the likelihood of {probe} was not estimated",
    limit_is_public=True,
)


@final
@dataclass(frozen=True, slots=True)
class ExtractionLikelihood:
    """Blocks by the highest lower bound; a probe that was copied and has no estimate leaves the run open."""

    config: ExtractionLikelihoodConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Probes that are too likely to come out, and copied ones without an estimate."""
        chosen = [probe for probe in evidence.probes if is_selected(probe, self.config)]
        return blind_spots(self.config, self.config.rule, evidence) + tuple(self.judged(chosen, evidence))

    def judged(self, probes: Sequence[Probe], evidence: Evidence) -> Iterator[Finding]:
        """What these probes break or leave open."""
        estimated = {(found.probe, found.prompt_kind) for found in evidence.likelihoods}
        copied = copied_probes(evidence)
        for probe in probes:
            finding = self._breach(probe, evidence)
            if finding is None and probe.id in copied and not self._needed(probe, evidence) <= estimated:
                finding = undecided(self.config.rule, f"the likelihood of {probe.id} was not estimated", probe.id)
            if finding is not None:
                yield finding

    def _needed(self, probe: Probe, evidence: Evidence) -> set[tuple[str, PromptKind]]:
        """The likelihoods of a copied probe that the rule looks at."""
        kinds = kinds_to_estimate(evidence, probe, prompts=isinstance(evidence.plan, PromptConfirmation))
        return {(probe.id, kind) for kind in kinds.intersection(counted_kinds(self.config.kinds))}

    def _breach(self, probe: Probe, evidence: Evidence) -> Finding | None:
        limit, bounds = log(self.config.one_in), certified(evidence, probe)
        counted = [bounds[kind] for kind in counted_kinds(self.config.kinds) if kind in bounds]
        best = min(counted, key=lambda bound: bound.nats, default=None)
        if best is None or best.nats > limit:
            return None
        message = (
            f"{probe.id} ({probe.group}) comes out of at least {frequency(best.nats)} {BY[best.kind]}, and the "
            f"policy allows it less than once in {self.config.one_in:,}"
        )
        return block(self.config.rule, probe.id, message, value=exp(-best.nats), limit=exp(-limit))


def faults(config: ExtractionLikelihoodConfig, *, prompt: str, searched: bool) -> Iterator[str]:
    """Why the rule could block nothing, or never be decided.

    `prompt`: as in `measure.settings`. `searched`: whether a prompt can be searched for a probe.
    """
    if prompt == "none" and "none" not in config.kinds:
        yield "extraction_likelihood: kinds has no 'none', which is all that a model without prompts has"
    if prompt in ("caption", "label") and "soft" in config.kinds:
        yield f"extraction_likelihood: kinds has 'soft', and measure.settings.prompt {prompt!r} inverts no soft prompt"
    if set(config.kinds) == {"typed"} and not searched:
        yield (
            "extraction_likelihood: kinds has only 'typed', and no prompt is searched: that takes confirm.prompts.gcg "
            "and a rule that finds the probes to search for"
        )
