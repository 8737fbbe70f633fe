"""The shipped policies for three probes: with so few, single outliers and counts are easy to tell."""

from invmm_gate.core.run_records import RunData
from invmm_gate.policy.schema import Policy, load_policy
from tests.policy import policy_builders
from tests.policy.policy_builders import CONTROLS, policy_with


def _fewer(name: str) -> Policy:
    shipped = load_policy(name)
    coverage = shipped.coverage.model_dump(exclude_unset=True) | {"min_probes": 1}
    # One image is no group: with three probes in three groups that rule could never fire, and would say so.
    rules = [rule.model_dump(exclude_unset=True) for rule in shipped.rules if rule.rule != "group_below_controls"]
    return policy_with(shipped, coverage=coverage, rules=rules)


STRICT, STANDARD, PERMISSIVE = map(_fewer, ("strict", "standard", "permissive"))


def clean_run(policy: Policy = STRICT, *, controls: int = len(CONTROLS)) -> RunData:
    """Three probes and the controls: nothing inverted, nothing sampled."""
    return policy_builders.clean_run(policy, controls=controls, more=())


def text_run(policy: Policy = STRICT) -> RunData:
    """The same of a text-to-image model."""
    return policy_builders.text_run(policy, more=())
