"""Intrinsic dimension of a set of vectors by maximum likelihood (Levina and Bickel, 2004)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from invmm_gate.curation.neighbours import Vectors, exact_distances

NEIGHBOURS: Final = (10, 20, 40)
QUERIES: Final = 2000
"""Vectors at which the dimension is estimated; their neighbours are looked for among all."""
_LEAST: Final = 2.0**-23
"""ln(T_k / T_j) below which two distances are equal: the vectors themselves are rounded to float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """Estimates with one number of neighbours."""

    neighbours: int
    harmonic: float
    """Harmonic mean over the points of (k - 1) / sum ln(T_k / T_j): the maximum-likelihood estimate of the set."""
    unbiased: float
    """Arithmetic mean of (k - 2) / sum ln(T_k / T_j), which is unbiased at each point where the density is constant.

    Averaged harmonically, that form would be low by (k - 2) / (k - 1).
    """
    points: int
    """Points that the estimates rest on: those with an equal neighbour or with equally far ones have none."""


def intrinsic_dimension(
    vectors: Vectors, *, neighbours: tuple[int, ...] = NEIGHBOURS, queries: int = QUERIES, seed: int = 0
) -> tuple[Dimension, ...]:
    """One estimate for each number of neighbours that the set is large enough for, if any point has one.

    Points with an equal vector are left out: remove duplicates first.
    """
    possible = [count for count in neighbours if count < len(vectors)]
    if not possible:
        return ()
    drawn = np.random.default_rng(seed).permutation(len(vectors))[:queries]
    distances = neighbour_distances(vectors, np.sort(drawn), max(possible))
    estimates = (_estimate(distances[:, :count]) for count in possible)
    return tuple(estimate for estimate in estimates if estimate)


def neighbour_distances(vectors: Vectors, queries: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Distances in float64 of each query to its `count` nearest other vectors, ascending."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(vectors)
    found = search.kneighbors(vectors[queries], return_distance=False)
    own = found == queries[:, None]
    own[~own.any(axis=1), -1] = True  # so many others at distance 0 that the query itself is not among the nearest
    others = found[~own].reshape(len(queries), count)
    distances = exact_distances(vectors, vectors, rows=np.repeat(queries, count), columns=others.ravel())
    return np.sort(distances.reshape(others.shape), axis=1)


def levina_bickel(distances: Float[NDArray[np.float64], "point neighbour"]) -> NDArray[np.float64]:
    """sum_j ln(T_k / T_j) of each point, over its neighbours j < k; k is the last. Equation 8 of the paper."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sums: NDArray[np.float64] = np.log(distances[:, -1:] / distances[:, :-1]).sum(axis=1)
    return sums


def _estimate(distances: NDArray[np.float64]) -> Dimension | None:
    count, sums = distances.shape[1], levina_bickel(distances)
    sums = sums[np.isfinite(sums) & (sums > (count - 1) * _LEAST)]
    if not len(sums):
        return None
    return Dimension(
        neighbours=count,
        harmonic=(count - 1) / float(sums.mean()),
        unbiased=float(((count - 2) / sums).mean()),
        points=len(sums),
    )
