"""What two runs must share for their scores to compare: learning rate, batch, tests and sampler all move a score."""

from collections.abc import Mapping
from typing import Final

from invmm_gate.core.errors import ConfigError

CONDITIONS: Final = ("family", "profile", "settings", "metric", "samplers")
"""Those of a run's inputs without which two scores do not compare."""

Inputs = Mapping[str, object]


def refuse_other_conditions(before: Inputs, after: Inputs, *, runs: str) -> None:
    """Raise ConfigError that names what differs, if scores of runs with these inputs do not compare."""
    names = [name for name in CONDITIONS if before.get(name) != after.get(name)]
    different = ", ".join(name + _parts(before.get(name), after.get(name)) for name in names)
    if different:
        raise ConfigError(
            f"{runs} differ in {different}",
            expected="two runs under one profile, settings, family and metric, as only such scores compare",
            do="measure one of them again",
        )


def _parts(before: object, after: object) -> str:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return ""
    names = before.keys() | after.keys()
    different = (str(name) for name in names if name not in before or name not in after or before[name] != after[name])
    return f" ({', '.join(sorted(different))})"
