"""The rule `group_below_controls`: a group that as a whole looks more memorized than the controls."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Final, Literal, final

from pydantic import Field

from invmm_gate.core.marks import LOWER, NAME
from invmm_gate.core.records import Group, Measurement, Probe
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.conformal import Key, exact
from invmm_gate.policy.evidence import Evidence, block, is_selected, key_of, names, undecided
from invmm_gate.policy.field_types import Number
from invmm_gate.policy.precedence import Look, fewest_below, holm, strongest_look
from invmm_gate.policy.rules.below_controls import AgainstControls
from invmm_gate.policy.rules.rule import EVIDENCE, Description, blind_spots


class GroupBelowControlsConfig(AgainstControls):
    """Blocks a group of probes that as a whole is more memorized than the controls.

    It sees what no probe shows alone: each group is one question, and all questions together err by `alpha` at most.
    """

    rule: Annotated[Literal["group_below_controls"], NAME]
    alpha: Annotated[Number, Field(ge=0.001, le=0.5), LOWER]
    """The chance that is accepted of blocking any group that is no more memorized than the controls (Holm)."""


DESCRIPTION: Final = Description(
    short="A group of probes as a whole is more memorized than images that the model cannot have seen",
    full="More probes of this group score below the controls than chance allows. Which of its images are memorized is "
    "not said by this finding.",
    help="Do not release the checkpoint as it is: retrain without these images or with them deduplicated. If the "
    f"controls are images of another kind, take some of the same kind and measure again. {EVIDENCE}",
    severity="7.0",
    blocks="the group {group} as a whole is more memorized than the controls",
    leaves_open="the group {group} could not be held against the controls as a whole",
    of_run="no group could be held against the controls as a whole",
    limit_is_public=True,
)
_NOTHING: Final[Key] = (float("inf"), 0.0)
"""The key of an image without a score that no sample replicates: it says nothing of memorization."""


@final
@dataclass(frozen=True, slots=True)
class GroupBelowControls:
    """Blocks groups that as a whole are more memorized than the controls."""

    config: GroupBelowControlsConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Groups that stand out, and groups with a probe that was not measured: these stay open.

        Images whose findings are all waived are left out: they are accepted one by one, each for a reason.
        """
        groups = images_of_groups(self.config, evidence.probes)
        controls = _keys(one_of_each(evidence.probes, "control"), evidence)
        tested = able(self.config, groups, len(controls))
        left = {group: [probe for probe in groups[group] if probe.id not in evidence.accepted] for group in tested}
        looks = {group: strongest_look(_keys(left[group], evidence), controls) for group in tested}
        p = dict(zip(looks, holm([look.p for look in looks.values()]), strict=True))
        return (
            *blind_spots(self.config, self.config.rule, evidence),
            *(() if tested else (self._too_few(len(controls)),)),
            *(finding for group in tested for finding in self._open(group, groups[group], evidence)),
            *(
                self._block(group, _said(look, len(left[group]), len(controls)), p[group])
                for group, look in looks.items()
                if p[group] <= exact(self.config.alpha)
            ),
        )

    def _block(self, group: Group, seen: str, p: Fraction) -> Finding:
        message = f"the group {group} as a whole is more memorized than the controls: {seen}, adjusted p {float(p):.4g}"
        limit = self.config.alpha
        return replace(block(self.config.rule, None, message, value=float(p), limit=limit), group=group)

    def _open(self, group: Group, probes: Sequence[Probe], evidence: Evidence) -> Iterator[Finding]:
        holes = [probe.id for probe in probes if not _says_something(evidence.measured.get(probe.id))]
        if holes:
            message = f"the group {group} cannot be held against the controls as a whole: no result of {names(holes)}"
            yield replace(undecided(self.config.rule, message), group=group)

    def _too_few(self, controls: int) -> Finding:
        message = f"no group has enough images to be flagged at alpha {self.config.alpha:g} beside {controls} controls"
        return undecided(self.config.rule, message)


def _said(look: Look, images: int, controls: int) -> str:
    whom = f"all but {look.past} of the {controls} controls" if look.past else f"all {controls} controls"
    return f"{look.below} of its {images} images lie below {whom}"


def one_of_each(probes: Sequence[Probe], group: Group) -> tuple[Probe, ...]:
    """One probe of each image and of each cluster of the group: the one that is listed first.

    Copies of a picture are no independent evidence, neither for a group nor among the controls.
    """
    kept, seen = [], set[tuple[str, str]]()
    for probe in probes:
        if probe.group == group:
            marks = {("image", probe.sha256), *([("cluster", probe.cluster)] if probe.cluster else [])}
            if not marks & seen:
                kept.append(probe)
            seen |= marks
    return tuple(kept)


def images_of_groups(config: GroupBelowControlsConfig, probes: Sequence[Probe]) -> dict[Group, tuple[Probe, ...]]:
    """By group that the rule looks at, in the policy's order: one probe of each image that it looks at."""
    chosen = tuple(probe for probe in probes if is_selected(probe, config))
    found = {group: one_of_each(chosen, group) for group in config.groups}
    return {group: images for group, images in found.items() if images}


def able(config: GroupBelowControlsConfig, groups: Mapping[Group, Sized], controls: int) -> tuple[Group, ...]:
    """The groups of so many images that could be flagged at all. One image beside 16 controls is no group."""
    return tuple(group for group, images in groups.items() if fewest_below(len(images), controls, config.alpha))


def needed(config: GroupBelowControlsConfig, probes: Sequence[Probe]) -> Iterator[tuple[Group, int, int | None]]:
    """(group, its images, how many of them below every control flag it, if no other group is flagged); None = never."""
    groups, controls = images_of_groups(config, probes), len(one_of_each(probes, "control"))
    tested = able(config, groups, controls)
    for group, images in groups.items():
        level = exact(config.alpha) / max(1, len(tested))
        yield group, len(images), fewest_below(len(images), controls, level) if group in tested else None


def _keys(probes: Sequence[Probe], evidence: Evidence) -> list[Key]:
    """An image that could not be measured is taken for one that is not memorized: a control's fault never helps."""
    found = (evidence.measured.get(probe.id) for probe in probes)
    return [_NOTHING if each is None else min(key_of(each), _NOTHING) for each in found]


def _says_something(found: Measurement | None) -> bool:
    return found is not None and not (found.invmm is None and found.share is None)
