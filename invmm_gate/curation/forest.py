"""The near-duplicate graph, reduced while it is found to a spanning forest that has the same clusters.

With min_samples=2 a DBSCAN cluster is a connected component of the graph of all pairs within eps. A minimum spanning
forest has the components of the whole graph at every eps, and it never has more edges than images: a data set in which
every image is a near-duplicate of every other one costs no more memory than one without any.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from invmm_gate.curation.neighbours import Candidates, Indices, Told, Vectors, candidate_pairs, exact_distances

_PENDING: Final = 1_000_000
"""Edges that are gathered before the forest is made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourForest:
    """Edges of a minimum spanning forest, each with the first of the `levels` that it lies within."""

    size: int
    """Vectors."""
    levels: tuple[float, ...]
    """Distances, ascending."""
    rows: Indices
    columns: Indices
    level_of: Indices

    def labels(self, level: int, multiplicity: Indices) -> Indices:
        """DBSCAN (scikit-learn, min_samples=2) at one of the levels; -1 = no cluster.

        A vector that stands for several equal images counts as so many.
        """
        from sklearn.cluster import DBSCAN
        from sklearn.exceptions import EfficiencyWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EfficiencyWarning)  # it sorts the few entries of each row, as it must
            scan = DBSCAN(eps=level + 1, min_samples=2, metric="precomputed")
            labels: Indices = scan.fit(self._graph(), sample_weight=multiplicity).labels_
        return labels

    def _graph(self) -> Any:  # scipy's sparse arrays have no types
        """Symmetric, with level numbers from 1 for distances: a stored 0 would read as "no edge"."""
        return _sparse(
            np.concatenate([self.rows, self.columns]),
            np.concatenate([self.columns, self.rows]),
            np.concatenate([self.level_of, self.level_of]) + 1.0,
            self.size,
        )


def neighbour_forest(vectors: Vectors, levels: Sequence[float], *, told: Told | None = None) -> NeighbourForest:
    """The forest of all pairs within the largest level. `told` gets the number of pairs settled (`block_pairs`)."""
    growing = _Growing(vectors, np.asarray(sorted(levels)))
    for found in candidate_pairs(vectors, float(growing.levels[-1]), skip=growing.is_settled, told=told):
        growing.add(found)
    growing.compact()
    return NeighbourForest(
        size=len(vectors),
        levels=tuple(growing.levels.tolist()),
        rows=growing.edges[0],
        columns=growing.edges[1],
        level_of=growing.edges[2],
    )


class _Growing:
    """A forest under construction, and the components that it has at each level."""

    def __init__(self, vectors: Vectors, levels: NDArray[np.float64]) -> None:
        self.levels = levels
        self._vectors = vectors
        self.edges: tuple[Indices, Indices, Indices] = (_none(), _none(), _none())
        self._pending: list[tuple[Indices, Indices, Indices]] = []
        self._components = np.tile(np.arange(len(vectors), dtype=np.int32), (len(levels), 1))

    def is_settled(self, rows: slice, columns: slice) -> bool:
        """Whether all vectors of a block are connected at the first level already: no pair of it can add anything."""
        joined = self._components[0]
        return bool((joined[rows] == joined[rows.start]).all() and (joined[columns] == joined[rows.start]).all())

    def add(self, found: Candidates) -> None:
        """Keep the pairs that connect something at their level."""
        # A pair is dropped by its lower bound, if its ends are connected at that level already; only what is left is
        # worth an exact distance, and only where a level lies between its bounds.
        at_least = np.searchsorted(self.levels, found.low)
        chosen = at_least < len(self.levels)
        chosen[chosen] = self._adds(found.rows[chosen], found.columns[chosen], at_least[chosen])
        found, level = found.picked(chosen), at_least[chosen]
        unsure = np.searchsorted(self.levels, found.high) != level
        exact = exact_distances(self._vectors, self._vectors, rows=found.rows[unsure], columns=found.columns[unsure])
        level[unsure] = np.searchsorted(self.levels, exact)
        within = level < len(self.levels)
        self._pending.append((found.rows[within], found.columns[within], level[within]))
        if sum(len(part[0]) for part in self._pending) > _PENDING:
            self.compact()

    def _adds(self, rows: Indices, columns: Indices, level: Indices) -> NDArray[np.bool_]:
        adds: NDArray[np.bool_] = self._components[level, rows] != self._components[level, columns]
        return adds

    def compact(self) -> None:
        """Reduce all edges to a minimum spanning forest, and find its components at each level."""
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        rows, columns, level = (
            np.concatenate([kept, *(part[index] for part in self._pending)]) for index, kept in enumerate(self.edges)
        )
        self._pending.clear()
        size = len(self._vectors)
        tree = minimum_spanning_tree(_sparse(rows, columns, level + 1.0, size)).tocoo()
        self.edges = (
            tree.row.astype(np.int64),
            tree.col.astype(np.int64),
            np.rint(tree.data).astype(np.int64) - 1,
        )
        for number in range(len(self.levels)):
            within = self.edges[2] <= number
            graph = _sparse(self.edges[0][within], self.edges[1][within], np.ones(int(within.sum())), size)
            self._components[number] = connected_components(graph, directed=False)[1]


def _sparse(rows: Indices, columns: Indices, values: NDArray[np.float64], size: int) -> Any:
    from scipy.sparse import csr_array

    return csr_array((values, (rows, columns)), shape=(size, size))


def _none() -> Indices:
    return np.empty(0, np.int64)
