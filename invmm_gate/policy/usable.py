"""Whether a policy can be decided at all, and does what its author thinks: known before measuring."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Probe
from invmm_gate.core.settings import PROFILES, TOLD, Family, InversionSettings, Told, told
from invmm_gate.policy.conformal import fewest_outliers
from invmm_gate.policy.evidence import Selection, is_selected, names
from invmm_gate.policy.field_types import GUARD_BAND
from invmm_gate.policy.rules import confirmed, extraction_likelihood, invmm_below
from invmm_gate.policy.rules.below_controls import BelowControlsConfig, cannot_fire
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihoodConfig
from invmm_gate.policy.rules.group_below_controls import GroupBelowControlsConfig, needed
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.rules.known import RuleConfig
from invmm_gate.policy.rules.regression import RegressionConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.weaknesses import measure_weaknesses


def rule_faults(policy: Policy, *, family: str | None = None, dimensions: int | None = None) -> Iterator[str]:
    """Rules of the policy that could find nothing, whatever is measured.

    `family`: the only one that is of interest. `dimensions`: of the latent, where a model is at hand.
    """
    finders = any(not isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    for rule in policy.rules:
        if isinstance(rule, InvmmBelowConfig):
            if policy.measure.settings.given().get("prompt") != "prompt_only":  # every score is 0 there
                yield from invmm_below.faults(rule, _settings(policy, family), dimensions=dimensions)
        elif isinstance(rule, ExtractionLikelihoodConfig):
            yield from _likelihood_faults(rule, policy, family)
        elif isinstance(rule, ConfirmedConfig):
            yield from confirmed.faults(rule, policy.confirm.plain_sampling)
            for name, choice in (
                ("plain_sampling", policy.confirm.plain_sampling),
                ("prompts", policy.confirm.prompts),
            ):
                if choice is not None and choice.probes == "flagged" and not finders:
                    yield f"confirm.{name}: probes is 'flagged', and no other rule ever flags one: nothing is confirmed"


def _likelihood_faults(rule: ExtractionLikelihoodConfig, policy: Policy, family: str | None) -> Iterator[str]:
    """Without a family only what holds for all: a policy may be meant for some of them."""
    searched = _searches_prompts(policy)
    found = [
        tuple(extraction_likelihood.faults(rule, prompt=settings.prompt, searched=searched))
        for settings in _settings(policy, family)
    ]
    yield from (text for text in dict.fromkeys(chain(*found)) if all(text in each for each in found))


def _searches_prompts(policy: Policy) -> bool:
    """Whether a prompt is searched for any probe: the search is made for those that another rule finds."""
    return (
        policy.confirm.prompts is not None
        and policy.confirm.prompts.gcg is not None
        and any(_finds_without_search(rule) for rule in policy.rules)
    )


def _finds_without_search(rule: RuleConfig) -> bool:
    if isinstance(rule, ExtractionLikelihoodConfig):
        return set(rule.kinds) != {"typed"}
    return not isinstance(rule, ConfirmedConfig)


def prompt_faults(policy: Policy, probes: Sequence[Probe], *, family: str) -> Iterator[str]:
    """Rules that look at a likelihood under kinds of prompt of which a run of this family tries none with a probe."""
    kinds = {told(settings.prompt) for settings in _settings(policy, family)}
    if kinds <= {"nothing"}:
        return
    by_search = {"typed"} if _searches_prompts(policy) else set[str]()
    if kinds == {"label"}:
        yield from _label_faults(policy, by_search)
        return
    by_search |= {"soft"}
    for rule in policy.rules:
        if isinstance(rule, ExtractionLikelihoodConfig):
            chosen = [probe for probe in probes if probe.is_target and is_selected(probe, rule)]
            tried = {probe.id: by_search | {"caption" if probe.caption else "none"} for probe in chosen}
            if blind := [name for name in tried if tried[name].isdisjoint(rule.kinds)]:
                yield (
                    f"extraction_likelihood: kinds has neither 'caption' for probes with one nor 'none' for those "
                    f"without, and so says nothing of {names(blind)}"
                )


def _label_faults(policy: Policy, by_search: Set[str]) -> Iterator[str]:
    """The same for class-conditional models, whose labels count as captions do."""
    for rule in policy.rules:
        if isinstance(rule, ExtractionLikelihoodConfig) and {"caption", *by_search}.isdisjoint(rule.kinds):
            yield "extraction_likelihood: kinds has no 'caption', by which a class-conditional model's labels count"


def probe_faults(policy: Policy, probes: Sequence[Probe]) -> Iterator[str]:
    """Rules that look at none of these probes, and fewer probes or controls than the policy asks for."""
    categories = {probe.category for probe in probes}
    images = {probe.sha256 for probe in probes if probe.is_target}
    controls = {probe.sha256 for probe in probes if probe.group == "control"}
    for rule in policy.rules:
        if isinstance(rule, Selection):
            if not any(is_selected(probe, rule) for probe in probes):
                yield f"{rule.rule} looks at no probe of the set: none is in its {_asked(rule)}; {_given(probes)}"
            elif unknown := set(rule.categories) - categories:
                yield f"{rule.rule}: no probe of the set has the category {names(unknown)}"
        yield from _control_faults(rule, probes, len(controls))
    for kind, count, least in (
        ("probes", len(images), policy.coverage.min_probes),
        ("controls", len(controls), policy.coverage.min_controls),
    ):
        if count < least:
            yield f"coverage: the probe set has {count} {kind}, the policy asks for at least {least}"


def _control_faults(rule: RuleConfig, probes: Sequence[Probe], controls: int) -> Iterator[str]:
    """Why a rule against the controls can flag nothing here."""
    if isinstance(rule, BelowControlsConfig) and fewest_outliers(1, controls, rule.fdr) is None:
        yield cannot_fire(rule, controls, "in the probe set")
    if isinstance(rule, GroupBelowControlsConfig) and not any(few for _, _, few in needed(rule, probes)):
        yield f"group_below_controls: cannot fire: no group has enough images beside {controls} controls"


def _asked(rule: Selection) -> str:
    categories = f" and categories ({names(rule.categories)})" if rule.categories else ""
    return f"groups ({names(rule.groups)})" + categories


def _given(probes: Sequence[Probe]) -> str:
    categories = {probe.category for probe in probes if probe.category}
    ladder = "canary with a multiplicity, which no rule judges"
    groups = {probe.group if probe.is_target or probe.group == "control" else ladder for probe in probes}
    return f"the set has the groups {names(groups)}" + (
        f" and the categories {names(categories)}" if categories else ""
    )


_CONFIRMED_BY: Final[Mapping[Told, tuple[str, str]]] = {
    "nothing": ("plain_sampling", "a model without prompts"),
    "label": ("prompts", TOLD["label"]),
    "prompt": ("prompts", "a model with prompts"),
}
"""What a model is told -> the part of `confirm` that says how it is confirmed, and for which models that is."""


def model_faults(policy: Policy, *, family: Family, image_size: tuple[int, int]) -> Iterator[str]:
    """What the policy lacks for models of a family that make images of (height, width) pixels."""
    try:
        settings = policy.resolve_settings(family)
        policy.metric_for(*image_size)
    except ConfigError as error:
        yield str(error)
        return
    kind = told(PROFILES["gate"][family].prompt)
    if told(settings.prompt) != kind:
        yield (
            f"measure.settings.prompt is {settings.prompt!r} for {TOLD[kind]}: leave it out, as each family has its own"
        )
    key, model = _CONFIRMED_BY[kind]
    sampling = (rule.rule for rule in policy.rules if isinstance(rule, ConfirmedConfig | ExtractionLikelihoodConfig))
    for name in dict.fromkeys(sampling if getattr(policy.confirm, key) is None else ()):
        yield f"rule {name!r} needs confirm.{key} for {model}, as the shipped policies have it"


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


def lint(policy: Policy) -> tuple[str, ...]:
    """One sentence for each rule that cannot fire and each setting that weakens the measure; empty if there is none.

    What else of a policy is weaker than `strict` may be meant so: `weaknesses` lists it. What the policy cannot do on
    a probe set, `probe_faults` says, and what it does not see there, `blunt_rules` (policy/power.py).
    """
    return (
        *rule_faults(policy),
        *(text for rule in policy.rules for text in _rule_notes(rule, policy)),
        *_metric_notes(policy),
        *_settings_notes(policy),
        *_confirm_notes(policy),
    )


def family_size(probes: Iterable[Probe]) -> int:
    """Probes that `below_controls` counts together: the random draw is apart, and taken where there is nothing else."""
    drawn = Counter(probe.group == "sample" for probe in probes if probe.is_target)
    return drawn[False] or drawn[True]


def _rule_notes(rule: RuleConfig, policy: Policy) -> Iterator[str]:
    least = policy.coverage.min_controls
    if isinstance(rule, BelowControlsConfig) and fewest_outliers(1, least, rule.fdr) is None:
        yield cannot_fire(rule, least, "in coverage.min_controls")
    elif isinstance(rule, GroupBelowControlsConfig) and least == 0:
        yield "group_below_controls: cannot fire without controls (coverage.min_controls is 0)"
    elif isinstance(rule, RegressionConfig) and rule.margin <= GUARD_BAND:
        yield f"regression: a margin of {rule.margin:g} lies within the measure's tolerance; unchanged scores may block"


def _metric_notes(policy: Policy) -> Iterator[str]:
    reach: float = 0
    for place, choice in enumerate(policy.metric, start=1):
        limit = float("inf") if choice.up_to is None else choice.up_to
        if limit <= reach:
            yield f"metric: entry {place} ({choice.name}) is never used: an entry before it covers its sizes"
        reach = max(reach, limit)
    if reach < float("inf"):
        yield f"metric: images larger than {reach:g} pixels have no metric"


def _settings_notes(policy: Policy) -> Iterator[str]:
    families: dict[str, list[str]] = {}
    for family in PROFILES[policy.measure.profile]:
        try:
            policy.resolve_settings(family)
        except ConfigError as error:
            families.setdefault(str(error), []).append(family)
    yield from (f"family {', '.join(names)}: {text}" for text, names in families.items())
    yield from measure_weaknesses(policy)


def _confirm_notes(policy: Policy) -> Iterator[str]:
    confirm, judged = policy.confirm, any(isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    if (confirm.plain_sampling or confirm.prompts) and not judged:
        yield "confirm: probes are confirmed, but no rule 'confirmed' judges the outcome"
    finders = any(not isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    if confirm.prompts is not None and confirm.prompts.gcg is not None and not finders:
        yield "confirm.prompts.gcg: searches for probes that another rule found, and there is none"
    yield from _search_notes(policy)
    if confirm.prompts is not None and max(confirm.prompts.guidance_scales) < 1:
        yield "confirm.prompts: every guidance scale is below 1, so no prompt is followed in full"


def _search_notes(policy: Policy) -> Iterator[str]:
    search, least = policy.confirm.prompts and policy.confirm.prompts.gcg, policy.coverage.min_controls
    if search and search.controls > least:
        yield (
            f"confirm.prompts.gcg: the search is made on {search.controls} controls, and coverage.min_controls is "
            f"{least}: a run with fewer than {search.controls} stays open once a prompt is searched"
        )
