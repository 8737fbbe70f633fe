"""Which probes a rule looks at."""

from typing import Annotated, Final

from pydantic import Field

from invmm_gate.core.directions import SELECTION
from invmm_gate.core.records import Group, Probe
from invmm_gate.files.strict_model import StrictModel

JUDGED_GROUPS: Final[tuple[Group, ...]] = ("sensitive", "duplicated", "canary")
"""The groups that a rule looks at unless it names others: all but the controls."""

Text = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


class Selection(StrictModel):
    """Which probes a rule looks at; no categories = all."""

    groups: Annotated[tuple[Group, ...], Field(min_length=1), SELECTION] = JUDGED_GROUPS
    categories: Annotated[tuple[Text, ...], SELECTION] = ()


def is_selected(probe: Probe, choice: Selection) -> bool:
    """Whether a rule looks at this probe; no categories = all."""
    return probe.group in choice.groups and (not choice.categories or probe.category in choice.categories)
