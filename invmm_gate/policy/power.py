"""What a policy's comparisons with the controls can see on one probe set: how many probes must stand out at once."""

from collections.abc import Iterator, Sequence

from invmm_gate.core.records import Probe
from invmm_gate.core.settings import InversionSettings
from invmm_gate.policy.conformal import controls_for_one, fewest_outliers
from invmm_gate.policy.evidence import is_selected
from invmm_gate.policy.rules.below_controls import BelowControlsConfig
from invmm_gate.policy.rules.group_below_controls import GroupBelowControlsConfig, needed
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.usable import family_size


def tests_of(settings: InversionSettings) -> int:
    """Sensitivity tests that one inversion makes at most: at the start, each `test_every` steps, at every scale."""
    looks = settings.steps // settings.test_every + settings.test_at_start
    return looks * len(settings.guidance_scales)


def luck(settings: InversionSettings, share: float) -> float:
    """The probability that noise of which this share of draws are copies passes one of these tests."""
    return 1 - (1 - share**settings.test_samples) ** tests_of(settings)


def blunt_rules(policy: Policy, probes: Sequence[Probe]) -> Iterator[str]:
    """Rules that flag no probe of this set unless many stand out at once, and the controls that it takes for one."""
    controls = len({probe.sha256 for probe in probes if probe.group == "control"})
    for rule in policy.rules:
        if isinstance(rule, BelowControlsConfig):
            looked_at = family_size([probe for probe in probes if is_selected(probe, rule)])
            fewest = fewest_outliers(looked_at, controls, rule.fdr)
            if fewest is not None and fewest > 1:
                yield (
                    f"below_controls: with {controls} controls and {looked_at} probes it fires only if at least "
                    f"{fewest} probes look more memorized than every control; it takes "
                    f"{controls_for_one(looked_at, rule.fdr)} controls to flag a single one"
                )


def group_power(policy: Policy, probes: Sequence[Probe]) -> Iterator[str]:
    """For each group that a rule holds against the controls as a whole: how many of its images must stand out."""
    for rule in policy.rules:
        if isinstance(rule, GroupBelowControlsConfig):
            for group, images, fewest in needed(rule, probes):
                name = f"group_below_controls: the group {group}"
                if fewest is None:
                    yield f"{name} has too few images ({images}) to be flagged beside these controls"
                else:
                    yield f"{name} is flagged if {fewest} of its {images} images look more memorized than every control"
