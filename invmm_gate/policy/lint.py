"""`policy lint`: settings that are allowed and do not do what their author thinks."""

from collections.abc import Iterator

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import PROFILES
from invmm_gate.policy.conformal import fewest_outliers
from invmm_gate.policy.numbers import GUARD_BAND
from invmm_gate.policy.rules.below_controls import BelowControlsConfig, cannot_fire
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.known import RuleConfig
from invmm_gate.policy.rules.regression import RegressionConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.usable import rule_faults
from invmm_gate.policy.weaknesses import measure_weaknesses


def lint(policy: Policy, *, controls: int | None = None, probes: int | None = None) -> tuple[str, ...]:
    """One sentence for each rule that cannot fire and each setting that weakens the measure; empty if there is none.

    What else of a policy is weaker than `strict` may be meant so: `weaknesses` lists it.

    `controls` and `probes` are the counts of a probe set (probes without controls); without them the policy's own
    minimum is assumed. What the policy cannot do on that very set, `probe_faults` says.
    """
    return (
        *rule_faults(policy),
        *(text for rule in policy.rules for text in _rule_notes(rule, policy, controls, probes)),
        *_metric_notes(policy),
        *_settings_notes(policy),
        *_confirm_notes(policy),
    )


def _rule_notes(rule: RuleConfig, policy: Policy, controls: int | None, probes: int | None) -> Iterator[str]:
    if isinstance(rule, BelowControlsConfig):
        yield from _control_notes(rule, policy, controls, probes)
    elif isinstance(rule, RegressionConfig) and rule.margin <= GUARD_BAND:
        yield f"regression: a margin of {rule.margin:g} lies within the measure's tolerance; unchanged scores may block"


def _control_notes(
    rule: BelowControlsConfig, policy: Policy, controls: int | None, probes: int | None
) -> Iterator[str]:
    least = policy.coverage.min_controls
    if fewest_outliers(1, least, rule.fdr) is None:
        yield cannot_fire(rule, least, "in coverage.min_controls")
    count = least if controls is None else controls
    fewest = None if probes is None else fewest_outliers(probes, count, rule.fdr)
    if fewest is not None and fewest > 1:
        yield (
            f"below_controls: with {count} controls and {probes} probes it fires only if at least {fewest} probes "
            "look more memorized than every control; add controls to see fewer"
        )


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
    if confirm.prompts is not None and max(confirm.prompts.guidance_scales) < 1:
        yield "confirm.prompts: every guidance scale is below 1, so no prompt is followed in full"
