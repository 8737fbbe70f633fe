"""What results.sarif says of each rule, for a reader who knows the code-scanning page and not this gate."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleText:
    """A rule as `tool.driver.rules` describes it."""

    short: str
    full: str
    help: str
    severity: str
    """0.1 to 10, as code scanning reads it: from 9 critical, from 7 high, from 4 medium."""


_OPEN: Final = "5.0"
"""Severity of what leaves a run without a verdict: it says nothing of the model."""
_REPORT: Final = "The evidence is in report.html of the run."
_RELEASE: Final = (
    "Do not release the checkpoint as it is: retrain without the image or with it deduplicated, or waive the finding "
    f"with an owner, a reason and an expiry date. {_REPORT}"
)

RULES: Final[dict[str, RuleText]] = {
    "confirmed": RuleText(
        short="An input that a user can give reproduces the probe",
        full="A prompt, or plain sampling, made the model reproduce an image of the probe set more frequently than "
        "the policy allows.",
        help=_RELEASE,
        severity="9.0",
    ),
    "invmm_below": RuleText(
        short="The probe is memorized: its InvMM is at or below the policy's threshold",
        full="InvMM is how far noise must be bent away from its usual distribution until every draw regenerates the "
        "image. The score of this probe is at or below the threshold of the policy.",
        help=_RELEASE,
        severity="8.0",
    ),
    "below_controls": RuleText(
        short="The probe is an outlier against images that the model cannot have seen",
        full="The score of this probe is lower than those of the controls allow, at the false discovery rate of the "
        "policy.",
        help=_RELEASE,
        severity="7.0",
    ),
    "regression": RuleText(
        short="The probe is more memorized than in the last approved run",
        full="The score of this probe fell by more than the margin of the policy against the blessed baseline.",
        help=f"{_RELEASE} To accept the new scores, bless this run as the baseline.",
        severity="7.0",
    ),
    "coverage": RuleText(
        short="Not enough was measured for a verdict",
        full="Probes are missing or broke, or there are fewer probes or controls than the policy asks for.",
        help=f"Give the same command again: it goes on where it stopped. {_REPORT}",
        severity=_OPEN,
    ),
    "controls": RuleText(
        short="A control looks as if the model had been trained on it",
        full="A control is an image that the model cannot have seen. This one inverts, is copied by a sample, or lies "
        "far nearer to a sample than the others: held against it, a memorized probe looks ordinary.",
        help=f"Take it out of the controls, or make it a probe, and measure again. {_REPORT}",
        severity=_OPEN,
    ),
    "self_check": RuleText(
        short="The gate could not show that it works on this model",
        full="Before the probes, the gate must find memorization where there is some, and the model must denoise "
        "sensibly. Without that, a broken measure looks like a safe model.",
        help=f"Look at the self-check's detail before trusting any score of this run. {_REPORT}",
        severity=_OPEN,
    ),
    "records": RuleText(
        short="Records of the run cannot be trusted",
        full="Counts that do not add up, numbers that are not finite, or records of probes that are not in the set.",
        help=f"Measure again into another run folder. {_REPORT}",
        severity=_OPEN,
    ),
    "metric": RuleText(
        short="The copy metric is not the one that the policy asks for",
        full="The run used a copy metric or a threshold that the policy does not list, or one that is unfit here.",
        help=f"Measure again under this policy. {_REPORT}",
        severity=_OPEN,
    ),
    "settings": RuleText(
        short="The run was measured otherwise than the policy asks",
        full="Settings of the measure, or the means of confirmation, are weaker than or different from the policy's.",
        help=f"Measure again under this policy. {_REPORT}",
        severity=_OPEN,
    ),
}
OTHER: Final = RuleText(
    short="A rule of the policy is broken",
    full="A rule that this version of the report has no description of.",
    help=_REPORT,
    severity=_OPEN,
)
