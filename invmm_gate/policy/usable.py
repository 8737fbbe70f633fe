"""Whether a policy can be decided at all on a probe set and a kind of model: known before anything is measured."""

from collections.abc import Iterator, Sequence

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Probe
from invmm_gate.core.settings import PROFILES, Family, InversionSettings
from invmm_gate.policy.conformal import fewest_outliers
from invmm_gate.policy.evidence import Selection, is_selected, names
from invmm_gate.policy.rules import confirmed, invmm_below
from invmm_gate.policy.rules.below_controls import BelowControlsConfig, cannot_fire
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.rules.regression import RegressionConfig
from invmm_gate.policy.schema import Policy


def rule_faults(policy: Policy, *, family: str | None = None) -> Iterator[str]:
    """Rules of the policy that could find nothing, whatever is measured. `family`: the only one that is of interest."""
    finders = any(not isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    for rule in policy.rules:
        if isinstance(rule, InvmmBelowConfig):
            if policy.measure.settings.given().get("prompt") != "prompt_only":  # every score is 0 there
                yield from invmm_below.faults(rule, _settings(policy, family))
        elif isinstance(rule, ConfirmedConfig):
            yield from confirmed.faults(rule, policy.confirm.plain_sampling)
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


def _settings(policy: Policy, family: str | None) -> Iterator[InversionSettings]:
    for name in PROFILES[policy.measure.profile] if family is None else (family,):
        try:
            yield policy.resolve_settings(name)
        except ConfigError:
            continue  # said where the family is looked at
