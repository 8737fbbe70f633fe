"""Clusters of near-duplicates whose diameter is capped, and how many there are at each threshold of the sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from invmm_gate.curation.forest import NeighbourForest
from invmm_gate.curation.neighbours import Indices, Vectors

LINKAGE_LIMIT: Final = 4000
"""Members up to which complete linkage is used; its matrix of distances then takes 128 MB."""
_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Images of which no two are farther apart than the cap."""

    members: tuple[int, ...]
    """Rows, nearest to the medoid first; the medoid itself is the first."""
    multiplicity: int
    """Images, exact copies included."""
    radius: float
    """Distance of the farthest member from the medoid."""

    @property
    def medoid(self) -> int:
        """The member with the smallest sum of squared distances to all images of the cluster."""
        return self.members[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """The clusters that `find_clusters` found."""

    clusters: tuple[Cluster, ...]
    """Largest multiplicity first."""
    chained: int
    """DBSCAN clusters whose diameter was above the cap, so that they were split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """DBSCAN at one threshold, before the diameter is capped."""

    distance: float
    clusters: int
    images: int
    """Images in a cluster, exact copies included."""
    largest: int
    """Images of the largest cluster."""


def find_clusters(vectors: Vectors, labels: Indices, multiplicity: Indices, *, cap: float) -> Clustering:
    """DBSCAN's clusters, those with a larger diameter than `cap` split.

    The result depends on the order of the vectors in ties alone: bring them into an order of their own first.
    """
    clusters, chained = [], 0
    for members in _groups(labels):
        parts = _capped(vectors, members, cap)
        chained += len(parts) > 1
        clusters += [_cluster(vectors, part, multiplicity) for part in parts if multiplicity[part].sum() > 1]
    clusters.sort(key=lambda cluster: (-cluster.multiplicity, cluster.medoid))
    return Clustering(clusters=tuple(clusters), chained=chained)


def count_curve(forest: NeighbourForest, multiplicity: Indices) -> tuple[CurvePoint, ...]:
    """The number of DBSCAN clusters at every level of the forest."""
    return tuple(
        _point(forest.labels(level, multiplicity), multiplicity, distance)
        for level, distance in enumerate(forest.levels)
    )


def _point(labels: Indices, multiplicity: Indices, distance: float) -> CurvePoint:
    inside = labels >= 0
    sizes = np.bincount(labels[inside], weights=multiplicity[inside])
    return CurvePoint(
        distance=distance, clusters=len(sizes), images=int(sizes.sum()), largest=int(sizes.max(initial=0))
    )


def _groups(labels: Indices) -> Iterator[Indices]:
    """The rows of each label from 0, ascending."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _capped(vectors: Vectors, members: Indices, cap: float) -> list[Indices]:
    """Parts of which no two members are farther apart than `cap`."""
    if len(members) == 1:
        return [members]
    if len(members) > LINKAGE_LIMIT:
        return _balls(vectors, members, cap / 2)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    rows = vectors[members].astype(np.float64)
    distances = np.sqrt(_squares(rows, rows))
    distances = np.maximum(distances, distances.T)
    np.fill_diagonal(distances, 0)
    if distances.max() <= cap:
        return [members]
    tree = linkage(squareform(distances, checks=False), method="complete")
    return [members[part] for part in _groups(fcluster(tree, t=cap, criterion="distance").astype(np.int64))]


def _balls(vectors: Vectors, members: Indices, radius: float) -> list[Indices]:
    """Each member to the nearest of the leaders before it; one that none is within `radius` of leads a ball itself.

    Two members of a ball are at most twice the radius apart. Unlike complete linkage it needs no matrix of all pairs.
    """
    leaders = members[:1]
    assigned = np.empty(len(members), np.int64)
    for start in range(0, len(members), _BLOCK):
        rows = vectors[members[start : start + _BLOCK]].astype(np.float64)
        nearest, square = _nearest_leader(rows, vectors, leaders)
        for at in range(len(rows)):
            if square[at] > radius**2:
                leaders = np.append(leaders, members[start + at])
                own = _squares(rows, rows[at : at + 1])[:, 0]
                closer = own < square
                nearest[closer], square[closer] = len(leaders) - 1, own[closer]
        assigned[start : start + len(rows)] = nearest
    return [members[part] for part in _groups(assigned)]


def _nearest_leader(
    rows: NDArray[np.float64], vectors: Vectors, leaders: Indices
) -> tuple[Indices, NDArray[np.float64]]:
    nearest, square = np.zeros(len(rows), np.int64), np.full(len(rows), np.inf)
    for start in range(0, len(leaders), _BLOCK):
        squares = _squares(rows, vectors[leaders[start : start + _BLOCK]].astype(np.float64))
        best = squares.argmin(axis=1)
        found = squares[np.arange(len(rows)), best]
        closer = found < square
        nearest[closer], square[closer] = best[closer] + start, found[closer]
    return nearest, square


def _squares(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of all pairs."""
    from scipy.spatial.distance import cdist

    if rows.shape[1] * len(rows) * len(columns) < 10**7:
        direct: NDArray[np.float64] = cdist(rows, columns, "sqeuclidean")
        return direct
    product = rows @ columns.T
    norms = np.einsum("ij,ij->i", rows, rows)[:, None] + np.einsum("ij,ij->i", columns, columns)
    squares: NDArray[np.float64] = np.maximum(norms - 2 * product, 0)
    return squares


def _cluster(vectors: Vectors, members: Indices, multiplicity: Indices) -> Cluster:
    """The sum of squared distances to all images is smallest for the member nearest to their mean."""
    weights = multiplicity[members].astype(np.float64)
    mean = np.zeros(vectors.shape[1])
    for start in range(0, len(members), _BLOCK):
        part = slice(start, start + _BLOCK)
        mean += weights[part] @ vectors[members[part]].astype(np.float64)
    medoid = members[_distances_to(mean / weights.sum(), vectors, members).argmin()]
    distances = _distances_to(vectors[medoid].astype(np.float64), vectors, members)
    distances[members == medoid] = -1  # before another member with the very same vector
    order = np.lexsort((members, distances))
    return Cluster(
        members=tuple(members[order].tolist()), multiplicity=int(weights.sum()), radius=max(0.0, float(distances.max()))
    )


def _distances_to(point: NDArray[np.float64], vectors: Vectors, members: Indices) -> NDArray[np.float64]:
    distances = np.empty(len(members))
    for start in range(0, len(members), _BLOCK):
        difference = vectors[members[start : start + _BLOCK]] - point
        distances[start : start + _BLOCK] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return distances
