"""Everything that is wrong with a checkpoint, told at once: who tidies a folder wants to do it once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

from invmm_gate.core.errors import GateError, ModelError

MOST_TOLD: Final = 20
"""Faults that one refusal tells."""


@final
class Refusals:
    """Faults of one checkpoint, in the order in which they were found."""

    def __init__(self) -> None:
        self.faults: list[GateError] = []

    def __bool__(self) -> bool:
        return bool(self.faults)

    def add(self, error: GateError) -> None:
        """Adds a fault, or all of an error with several. The same error again adds nothing."""
        self.faults += [fault for fault in error.faults or (error,) if fault not in self.faults]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps a ModelError that the body raises, and goes on."""
        try:
            yield
        except ModelError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raises what `error` gives, if there is a fault."""
        if self.faults:
            raise self.error()

    def error(self) -> GateError:
        """The fault itself where there is one, a ModelError with all of them where there are several."""
        if len(self.faults) == 1:
            return self.faults[0]
        more = f", the first {MOST_TOLD}" if len(self.faults) > MOST_TOLD else ""
        found = f"{len(self.faults)} things stand in the way of reading this checkpoint{more}"
        return ModelError(found, faults=self.faults[:MOST_TOLD])
