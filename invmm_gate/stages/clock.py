"""Whether the clock that dates come from was set while a stage ran."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.records import SelfCheck

LARGEST_JUMP: Final = 300.0
"""Seconds. A clock that is only slewed moves by far less; one that was set could revive a waiver or an attestation."""


def _since_boot() -> float:
    """Linux and macOS have a clock that nobody sets and that goes on while the machine sleeps, by different names."""
    names = ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW")
    clock: int | None = next((getattr(time, name) for name in names if hasattr(time, name)), None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Two clocks, in seconds. What one is ahead of the other changes only where somebody sets the first."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = _since_boot

    def ahead(self) -> float:
        """Seconds from the steady clock to the wall clock."""
        return self.wall() - self.steady()

    def watch(self) -> "Watch":
        """Begin to watch."""
        return Watch(clocks=self, ahead=self.ahead())


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The clocks as they stood when a stage began, in this process: another one's cannot be compared after a boot."""

    clocks: Clocks
    ahead: float

    def check(self, name: str) -> SelfCheck:
        """The self-check of this name: no date of a stage whose clock was set can be trusted."""
        jump = self.clocks.ahead() - self.ahead
        if abs(jump) <= LARGEST_JUMP:
            return SelfCheck(name=name, passed=True, detail="the clock was not set during the run")
        side = "ahead" if jump > 0 else "back"
        return SelfCheck(
            name=name,
            passed=False,
            detail=f"the clock was set {side} by {abs(jump):.0f} s during the run, and no date of it can be trusted; "
            "set the clock right and measure again: give another --out, or move this run folder away",
            value=round(jump, 3),
            limit=LARGEST_JUMP,
        )


SYSTEM_CLOCKS: Final = Clocks()
