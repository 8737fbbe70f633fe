"""Which training images the user calls sensitive: by a list of paths, or by a column of the table."""

from collections.abc import Sequence
from pathlib import Path

from invmm_gate.errors import ConfigError, ProbeSetError
from invmm_gate.gate.training_scan import Distinct, Scan
from invmm_gate.probes.training_data import TrainingData


def listed_rows(
    listing: Path | None, scan: Scan, training: Distinct, sources: Sequence[TrainingData]
) -> tuple[int, ...]:
    """Rows of the sensitive images, by name, exact copies once.

    Raises ProbeSetError for a listed path that is not in the training data, that could not be read or that is from
    after the training, with its line.
    """
    items = [scan.items[index] for index in scan.marked]
    names = _by_name(scan, sources)
    for line, name in _lines(listing) if listing else ():
        found = names.get(name) or names.get(_absolute(name))
        if not found:
            raise ProbeSetError(
                f"{listing}:{line}: {name!r} is not among the training images that were read",
                expected="a path as the training data states it, or one that leads there from here",
                do=_reason(scan, name),
            )
        items += [scan.items[index] for index in found]
    rows = {training.rows[item.pixels] for item in items}
    return tuple(sorted(rows, key=lambda row: (training.items[row].name, row)))


def _by_name(scan: Scan, sources: Sequence[TrainingData]) -> dict[str, list[int]]:
    """Items by their name in their source, which two sources may share, and by their absolute path."""
    names: dict[str, list[int]] = {}
    roots = [(source.place if source.place.is_dir() else source.place.parent).resolve() for source in sources]
    for index, item in enumerate(scan.items):
        for name in {item.name, str(roots[item.source] / item.name)}:
            names.setdefault(name, []).append(index)
    return names


def _lines(listing: Path) -> list[tuple[int, str]]:
    """(line, path) of each that is not blank and no comment."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"--sensitive {listing} cannot be read ({reason})", expected="a text file of paths"
        ) from error
    named = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in named if line and not line.startswith("#")]


def _absolute(name: str) -> str:
    try:
        return str(Path(name).resolve())
    except (OSError, ValueError, RuntimeError):
        return name


def _reason(scan: Scan, name: str) -> str:
    known = {left.name: left.reason for left in scan.left_out} | {
        later.name: "is from after the training" for later in scan.later
    }
    return f"it was found, but it {known[name]}" if name in known else "correct the list"
