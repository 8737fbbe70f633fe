"""Progress that the stages report. The command line draws it; nothing depends on it."""

from typing import Protocol


class Progress(Protocol):
    """An observer of a run."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage of `total` equal parts begins, `done` of which were finished by an earlier run."""
        ...

    def advance(self, parts: int, *, in_flight: int = 0) -> None:
        """So many parts of the current stage are done; an estimate, which the end of a stage corrects.

        `in_flight`: probes that are worked on at the same time, where there are several.
        """
        ...

    def end(self) -> None:
        """The current stage is over."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """Tells nobody."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Nothing to show."""

    def advance(self, parts: int, *, in_flight: int = 0) -> None:
        """Nothing to show."""

    def end(self) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""
