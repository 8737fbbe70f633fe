"""The rules that a policy can name. Nothing here decides the verdict."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final

from pydantic import Field

from invmm_gate.policy.rules import (
    below_controls,
    confirmed,
    extraction_likelihood,
    group_below_controls,
    invmm_below,
    regression,
)
from invmm_gate.policy.rules.below_controls import BelowControls, BelowControlsConfig
from invmm_gate.policy.rules.confirmed import Confirmed, ConfirmedConfig
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihood, ExtractionLikelihoodConfig
from invmm_gate.policy.rules.group_below_controls import GroupBelowControls, GroupBelowControlsConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelow, InvmmBelowConfig
from invmm_gate.policy.rules.regression import Regression, RegressionConfig
from invmm_gate.policy.rules.rule import Description, Rule

RuleConfig = Annotated[
    InvmmBelowConfig
    | ConfirmedConfig
    | ExtractionLikelihoodConfig
    | BelowControlsConfig
    | GroupBelowControlsConfig
    | RegressionConfig,
    Field(discriminator="rule"),
]
RULES: Final[Mapping[str, Callable[..., Rule]]] = {
    "invmm_below": InvmmBelow,
    "confirmed": Confirmed,
    "extraction_likelihood": ExtractionLikelihood,
    "below_controls": BelowControls,
    "group_below_controls": GroupBelowControls,
    "regression": Regression,
}
DESCRIPTIONS: Final[Mapping[str, Description]] = {
    "invmm_below": invmm_below.DESCRIPTION,
    "confirmed": confirmed.DESCRIPTION,
    "extraction_likelihood": extraction_likelihood.DESCRIPTION,
    "below_controls": below_controls.DESCRIPTION,
    "group_below_controls": group_below_controls.DESCRIPTION,
    "regression": regression.DESCRIPTION,
}


def rule_for(config: RuleConfig) -> Rule:
    """The rule that a policy entry asks for."""
    return RULES[config.rule](config)
