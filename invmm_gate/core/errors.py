"""Every failure the gate reports on purpose: one root class, and each class carries its exit code."""

from collections.abc import Sequence
from typing import ClassVar, Final

PASS: Final = 0
INTERNAL_ERROR: Final = 1
BAD_INPUT: Final = 2
BLOCK: Final = 10
INCONCLUSIVE: Final = 11
INTERRUPTED: Final = 130


class GateError(Exception):
    """A failure with a one-line message: what was found, what was expected, what to do next.

    `str(error)` is the line shown to the user; `exit_code` is what the process ends with. `faults` are several such
    failures told at once, each with its own remedy.
    """

    exit_code: ClassVar[int] = INTERNAL_ERROR

    def __init__(self, found: str, *, expected: str = "", do: str = "", faults: "Sequence[GateError]" = ()) -> None:
        self.found, self.expected, self.do, self.faults = found, expected, do, tuple(faults)
        parts = [found, f"expected {expected}" if expected else "", do]
        line = "; ".join(" ".join(part.split()) for part in parts if part)
        super().__init__(": ".join([line, *([" ".join(self._numbered)] if faults else [])]))

    @property
    def lines(self) -> tuple[str, ...]:
        """The message for a screen: a line for each fault where there are several."""
        return (f"{self.found}:", *(f"  {line}" for line in self._numbered)) if self.faults else (str(self),)

    @property
    def _numbered(self) -> tuple[str, ...]:
        return tuple(f"{number}. {fault}" for number, fault in enumerate(self.faults, start=1))


class ConfigError(GateError):
    """A policy, waiver file or option that cannot be used."""

    exit_code = BAD_INPUT


class ProbeSetError(GateError):
    """A probe set that fails validation, or a probe image that cannot be used."""

    exit_code = BAD_INPUT


class ModelError(GateError):
    """A checkpoint that is unsafe, incomplete or of an unknown kind."""

    exit_code = BAD_INPUT


class RunFolderError(GateError):
    """A run folder that is locked, not writable, or belongs to other inputs."""

    exit_code = BAD_INPUT


class MeasurementError(GateError):
    """A measurement that could not be finished: the run is inconclusive."""

    exit_code = INCONCLUSIVE


class PublishError(GateError):
    """A finished run that could not be sent or written where it should go."""

    exit_code = INCONCLUSIVE


class RegistryError(GateError):
    """A model registry that does not answer, or answers what cannot be: nothing is promoted."""

    exit_code = INCONCLUSIVE


class VerificationError(GateError):
    """An attestation that does not hold for the model, policy or time it is asked about."""

    exit_code = BLOCK
