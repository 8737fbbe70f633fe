"""Which images become probes: the user's sensitive ones, and the medoids of the largest clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.records import Group
from invmm_gate.curation.clusters import Cluster
from invmm_gate.curation.training_data import located
from invmm_gate.curation.training_entries import TrainingData
from invmm_gate.curation.training_scan import VALUES, Distinct, Item, Scan
from invmm_gate.files.regular import read_small

_BYTES: Final = 256_000_000
"""Of the list; some millions of paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One image that is to become a probe."""

    row: int
    group: Group
    cluster: str
    """Name of its cluster; empty for an image without near-duplicates."""
    multiplicity: int
    """Images of that cluster, or exact copies of this one."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A cluster that no probe was taken of, and why."""

    cluster: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """What a probe set could take from the training data, and what was passed over."""

    sensitive: tuple[Proposal, ...]
    duplicated: tuple[Proposal, ...]
    skipped: tuple[Skipped, ...]


def cluster_name(rank: int) -> str:
    """The name of the cluster of this rank, the largest being 1. It says nothing of what the cluster shows."""
    return f"duplicates-{rank:05d}"


def propose(
    clusters: Sequence[Cluster],
    *,
    sensitive: Sequence[int],
    multiplicity: Sequence[int],
    duplicated: int,
    unfit: Callable[[int], str],
) -> Proposals:
    """Every sensitive row, and the medoids of the `duplicated` largest clusters that a probe can be made of.

    `unfit` says why a row cannot be a probe, or nothing. A cluster whose medoid is a sensitive probe already is
    represented by that one.
    """
    names = {row: rank for rank, cluster in enumerate(clusters) for row in cluster.members}
    listed = tuple(_sensitive(row, names.get(row), clusters, multiplicity) for row in sensitive)
    known = set(sensitive)
    chosen: list[Proposal] = []
    skipped: list[Skipped] = []
    for rank, cluster in enumerate(clusters):
        if len(chosen) == duplicated:
            break
        name = cluster_name(rank + 1)
        reason = "is a sensitive probe already" if cluster.medoid in known else unfit(cluster.medoid)
        if reason:
            skipped.append(Skipped(cluster=name, row=cluster.medoid, reason=reason))
        else:
            chosen.append(
                Proposal(
                    row=cluster.medoid,
                    group="duplicated",
                    cluster=name,
                    multiplicity=cluster.multiplicity,
                    reason=f"medoid of {cluster.multiplicity} near-duplicates",
                )
            )
    return Proposals(sensitive=listed, duplicated=tuple(chosen), skipped=tuple(skipped))


def sensitive_items(
    options: BuildOptions, scan: Scan, training: Distinct, sources: Sequence[TrainingData]
) -> dict[int, Item]:
    """Row -> the very image that was named, by name; of several with the same pixels the first by name.

    Raises ProbeSetError for a listed path that is not in the training data, that could not be read or that is from
    after the training, with its line; and for a column that marks nothing.
    """
    if options.sensitive_column and not scan.marked:
        raise ProbeSetError(
            f"--sensitive-column {options.sensitive_column!r} marks none of {len(scan.items)} training images,"
            f" whose cells say {_shown(scan.values)}",
            expected="at least one sensitive image where a column is asked for",
            do="correct the column or its value, or leave the option out",
        )
    items = [scan.items[index] for index in (*scan.marked, *_listed(options.sensitive, scan, sources))]
    named: dict[int, Item] = {}
    for item in sorted(items, key=lambda item: (item.name, item.sha256, item.source, item.position)):
        named.setdefault(training.rows[item.pixels], item)
    return named


def _sensitive(row: int, rank: int | None, clusters: Sequence[Cluster], multiplicity: Sequence[int]) -> Proposal:
    return Proposal(
        row=row,
        group="sensitive",
        cluster="" if rank is None else cluster_name(rank + 1),
        multiplicity=int(multiplicity[row]) if rank is None else clusters[rank].multiplicity,
        reason="listed as sensitive",
    )


def _shown(values: Sequence[str]) -> str:
    first = ", ".join(repr(value[:40]) for value in values[:VALUES])
    return f"{first} and more" if len(values) > VALUES else first


def _listed(listing: Path | None, scan: Scan, sources: Sequence[TrainingData]) -> list[int]:
    if listing is None:
        return []
    names, indices = _by_name(scan, sources), []
    for line, name in _lines(listing):
        found = names.get(name) or names.get(_absolute(name)) or names.get(name.replace("\\", "/"))
        if not found:
            raise ProbeSetError(
                f"{listing}:{line}: {name!r} is not among the training images that were read",
                expected="a path as the training data states it, or one that leads there from here",
                do=_reason(scan, name),
            )
        indices += found
    return indices


def _by_name(scan: Scan, sources: Sequence[TrainingData]) -> dict[str, list[int]]:
    """Items by their name in their source, which two sources may share, and by the file that it leads to."""
    names: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        indices = [index for index, item in enumerate(scan.items) if item.source == number]
        stated = [scan.items[index].name for index in indices]
        for index, name, path in zip(indices, stated, located(source, stated), strict=True):
            for known in {name, path} - {""}:
                names.setdefault(known, []).append(index)
    return names


def _lines(listing: Path) -> list[tuple[int, str]]:
    """(line, path) of each that is not blank and no comment."""
    try:
        lines = read_small(listing, what="a text file of paths", limit=_BYTES).decode("utf-8-sig").splitlines()
    except (ConfigError, UnicodeDecodeError) as error:
        found = error.found if isinstance(error, ConfigError) else f"{str(listing)!r} is not UTF-8"
        raise ConfigError(f"--sensitive: {found}", expected="a text file of paths") from error
    named = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    listed = [(number, line) for number, line in named if line and not line.startswith("#")]
    if not listed:
        raise ConfigError(f"--sensitive {listing} names no image", expected="one path on each line")
    return listed


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
