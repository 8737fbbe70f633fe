"""Which registered models the gate stands at, and what of a message about them is believed."""

import re
from dataclasses import dataclass
from typing import Final

from invmm_gate.registry.client.names import is_registry_name, is_release

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


def is_version(text: object) -> bool:
    """Whether it can be the number of a version, written as MLflow writes it."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The models whose versions are gated: those named, or all but the release models where none is named."""

    names: tuple[str, ...] = ()
    release: str | None = None
    """The model that what passes is promoted to, where it is not `<name>-release`."""

    def gates(self, name: str) -> bool:
        """Whether the versions of this model are gated. What the gate itself writes is a release, not a candidate."""
        if not is_registry_name(name):
            return False
        return name in self.names if self.names else not self.is_release(name)

    def is_release(self, name: str) -> bool:
        """Whether only the gate should write versions of this model."""
        return is_release(name, self.release)
