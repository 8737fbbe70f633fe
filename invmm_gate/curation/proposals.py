"""Which images become probes: the user's sensitive ones, and the medoids of the largest clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from invmm_gate.core.records import Group
from invmm_gate.curation.clusters import Cluster


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


def _sensitive(row: int, rank: int | None, clusters: Sequence[Cluster], multiplicity: Sequence[int]) -> Proposal:
    return Proposal(
        row=row,
        group="sensitive",
        cluster="" if rank is None else cluster_name(rank + 1),
        multiplicity=int(multiplicity[row]) if rank is None else clusters[rank].multiplicity,
        reason="listed as sensitive",
    )
