"""What two runs must share for their scores to compare: learning rate, batch, tests and sampler all move a score."""

from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.run_records import RunInputs, differences, named_difference

CONDITIONS: Final = ("family", "profile", "settings", "metric", "samplers")
"""Those of a run's inputs without which two scores do not compare."""


def refuse_other_conditions(before: RunInputs, after: RunInputs, *, runs: str) -> None:
    """Raise ConfigError that names what differs, if scores of runs with these inputs do not compare."""
    changed = differences(before, after)
    different = ", ".join(
        named_difference(name, getattr(before, name), getattr(after, name)) for name in CONDITIONS if name in changed
    )
    if different:
        raise ConfigError(
            f"{runs} differ in {different}",
            expected="two runs under one profile, settings, family and metric, as only such scores compare",
            do="measure one of them again",
        )
