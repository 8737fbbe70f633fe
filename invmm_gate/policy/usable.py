"""Whether a policy can be decided at all on a probe set and a kind of model: known before anything is measured."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.intervals import clopper_pearson
from invmm_gate.core.records import Probe
from invmm_gate.core.settings import PROFILES, Family, InversionSettings
from invmm_gate.policy.conformal import fewest_outliers
from invmm_gate.policy.evidence import is_selected, names
from invmm_gate.policy.schema import (
    BelowControlsConfig,
    ConfirmedConfig,
    InvmmBelowConfig,
    Policy,
    RegressionConfig,
    Selection,
)

_SMALLEST_SCORE: Final = 2.0**-23
"""Spacing of float32 at 1: the measure cannot tell a score below it from 0."""
_FAR_ENOUGH: Final = 0.05
"""The threshold of `strict`: a higher one may lie beyond what the search reaches, as it only blocks more."""
_ADAM_STEP: Final = (1 - 0.9) / math.sqrt(1 - 0.999)
"""Learning rates that a parameter moves at most in one step of Adam with its default betas. Source: arXiv:1412.6980."""


def rule_faults(policy: Policy, *, family: str | None = None) -> Iterator[str]:
    """Rules of the policy that could find nothing, whatever is measured. `family`: the only one that is of interest."""
    finders = any(not isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    for rule in policy.rules:
        if isinstance(rule, InvmmBelowConfig):
            yield from _threshold_faults(rule, policy, family)
        elif isinstance(rule, ConfirmedConfig):
            yield from _rate_faults(rule, policy)
            for name, choice in (
                ("plain_sampling", policy.confirm.plain_sampling),
                ("prompts", policy.confirm.prompts),
            ):
                if choice is not None and choice.probes == "flagged" and not finders:
                    yield f"confirm.{name}: probes is 'flagged', and no other rule ever flags one: nothing is confirmed"


def probe_faults(policy: Policy, probes: Sequence[Probe]) -> Iterator[str]:
    """Rules that look at none of these probes, and fewer probes or controls than the policy asks for."""
    categories = {probe.category for probe in probes}
    images = {probe.sha256 for probe in probes if probe.group != "control"}
    controls = {probe.sha256 for probe in probes if probe.group == "control"}
    for rule in policy.rules:
        if isinstance(rule, Selection):
            if not any(is_selected(probe, rule) for probe in probes):
                yield f"{rule.rule} looks at no probe of the set: none is in its {_asked(rule)}; {_given(probes)}"
            elif unknown := set(rule.categories) - categories:
                yield f"{rule.rule}: no probe of the set has the category {names(unknown)}"
        if isinstance(rule, BelowControlsConfig) and fewest_outliers(1, len(controls), rule.fdr) is None:
            yield cannot_fire(rule, len(controls), "in the probe set")
    for kind, count, least in (
        ("probes", len(images), policy.coverage.min_probes),
        ("controls", len(controls), policy.coverage.min_controls),
    ):
        if count < least:
            yield f"coverage: the probe set has {count} {kind}, the policy asks for at least {least}"


def _asked(rule: Selection) -> str:
    categories = f" and categories ({names(rule.categories)})" if rule.categories else ""
    return f"groups ({names(rule.groups)})" + categories


def _given(probes: Sequence[Probe]) -> str:
    categories = {probe.category for probe in probes if probe.category}
    return f"the set has the groups {names({probe.group for probe in probes})}" + (
        f" and the categories {names(categories)}" if categories else ""
    )


def model_faults(policy: Policy, *, family: Family, image_size: tuple[int, int]) -> Iterator[str]:
    """What the policy lacks for models of a family that make images of (height, width) pixels."""
    try:
        settings = policy.resolve_settings(family)
        policy.metric_for(*image_size)
    except ConfigError as error:
        yield str(error)
        return
    text_to_image = PROFILES["gate"][family].prompt != "none"
    if (settings.prompt != "none") != text_to_image:
        kind = "a text-to-image model" if text_to_image else "an unconditional model"
        yield f"measure.settings.prompt is {settings.prompt!r} for {kind}: leave it out, as each family has its own"
    key, kind = ("prompts", "with") if text_to_image else ("plain_sampling", "without")
    confirms = any(isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    if confirms and getattr(policy.confirm, key) is None:
        yield f"rule 'confirmed' needs confirm.{key} for a model {kind} prompts, as the shipped policies have it"


def baseline_faults(policy: Policy) -> Iterator[str]:
    """The rule `regression`, where no baseline is named."""
    if any(isinstance(rule, RegressionConfig) for rule in policy.rules):
        yield (
            "rule 'regression' needs --baseline; for a first one, `measure`, `confirm`, `judge` and "
            "`bless --even-if-blocked`"
        )


def cannot_fire(rule: BelowControlsConfig, controls: int, where: str) -> str:
    """The sentence for too few controls."""
    return (
        f"below_controls: cannot fire with {controls} controls ({where}): the smallest p-value is 1/{controls + 1}, "
        f"above the FDR {rule.fdr:g}"
    )


def _threshold_faults(rule: InvmmBelowConfig, policy: Policy, family: str | None) -> Iterator[str]:
    if policy.measure.settings.given().get("prompt") == "prompt_only":
        return  # every score is 0 there
    if rule.threshold < _SMALLEST_SCORE:
        yield f"invmm_below: a threshold of {rule.threshold:g} blocks only a score of exactly 0"
    reached = [_farthest(settings) for settings in _settings(policy, family)]
    needed = min(rule.threshold, _FAR_ENOUGH)
    if reached and max(reached) < needed:
        yield (
            f"invmm_below: steps and learning_rate reach a normality of at most {max(reached):.3g}, so the search ends "
            f"before {needed:g}"
        )


def _settings(policy: Policy, family: str | None) -> Iterator[InversionSettings]:
    for name in PROFILES[policy.measure.profile] if family is None else (family,):
        try:
            yield policy.resolve_settings(name)
        except ConfigError:
            continue  # said where the family is looked at


def _farthest(settings: InversionSettings) -> float:
    """A bound on the normality of any noise distribution that the search can reach, in nats per dimension."""
    moved = min(settings.steps * settings.learning_rate * _ADAM_STEP, 100.0)
    return 0.5 * (moved * moved + math.exp(moved) - moved - 1)


def _rate_faults(rule: ConfirmedConfig, policy: Policy) -> Iterator[str]:
    plan = policy.confirm.plain_sampling
    if plan is not None:
        best = clopper_pearson(plan.trials, plan.trials, confidence=plan.confidence).low
        if best <= rule.rate_limit:
            yield (
                f"confirmed: plain sampling cannot fire: {plan.trials} hits of {plan.trials} have a lower bound of "
                f"{best:.4g}, not above the rate limit {rule.rate_limit:g}"
            )
