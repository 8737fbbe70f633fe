"""All pairs of vectors within a distance, by brute force in blocks: exact, in bounded memory.

A block's squared distances come from one matrix product in float32. Its rounding error is bounded, so that every pair
gets a lower and an upper bound of its distance; only pairs that a threshold falls between are computed in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(row, feature)."""
Indices = NDArray[np.int64]

ROWS: Final = 1024
COLUMNS: Final = 4096
"""A block of both is 16 MiB, which a processor's last cache holds."""
_UNIT: Final = 2.0**-24
"""Unit roundoff of float32."""
_EXACT_NUMBERS: Final = 4_000_000
"""Numbers that one step of `exact_distances` holds."""

Told = Callable[[int], None]
Skip = Callable[[slice, slice], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Pairs that may lie within the radius; all that do are among them."""

    rows: Indices
    columns: Indices
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """Bounds of the true distance."""

    def picked(self, chosen: NDArray[np.bool_]) -> "Candidates":
        """Those of a mask."""
        return Candidates(
            rows=self.rows[chosen], columns=self.columns[chosen], low=self.low[chosen], high=self.high[chosen]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs within the radius, by row, then column."""

    rows: Indices
    columns: Indices
    distances: NDArray[np.float64]


def candidate_pairs(
    vectors: Vectors,
    radius: float,
    *,
    queries: Vectors | None = None,
    skip: Skip | None = None,
    told: Told | None = None,
) -> Iterator[Candidates]:
    """Pairs (row of `queries`, row of `vectors`), block by block; without queries each pair (i, j) with i < j once.

    `skip` may decline a block before it is computed. `told` gets the number of pairs that a block settled.
    """
    centre = _mean(vectors)
    norms = _squared_norms(vectors, centre)
    asked, asked_norms = (vectors, norms) if queries is None else (queries, _squared_norms(queries, centre))
    # Rounding of a product of width n is at most n units of |x||y| <= (|x|^2 + |y|^2) / 2 (Higham, eq. 3.5); the rest
    # covers the sums, the norms and the centring.
    error = (vectors.shape[1] + 32) * _UNIT
    for row in range(0, len(asked), ROWS):
        rows = slice(row, min(row + ROWS, len(asked)))
        block = -2 * (asked[rows] - centre)
        for column in range(row if queries is None else 0, len(vectors), COLUMNS):
            columns = slice(column, min(column + COLUMNS, len(vectors)))
            if skip is None or not skip(rows, columns):
                squares = block @ (vectors[columns] - centre).T
                squares += asked_norms[rows, None].astype(np.float32)
                squares += norms[None, columns].astype(np.float32)
                margin = error * (asked_norms[rows].max() + norms[columns].max())
                close = squares <= radius**2 + margin
                if queries is None and column < rows.stop:
                    close &= np.arange(row, rows.stop)[:, None] < np.arange(column, columns.stop)
                found = np.nonzero(close)
                if len(found[0]):
                    yield _bounded(squares[found], found, starts=(row, column), margin=margin)
            if told is not None:
                told((rows.stop - row) * (columns.stop - column))


def block_pairs(count: int) -> int:
    """The pairs that a run over `count` vectors without queries tells `told` of."""
    starts = range(0, count, ROWS)
    return sum((min(start + ROWS, count) - start) * (count - start) for start in starts)


def close_pairs(vectors: Vectors, radius: float, *, queries: Vectors | None = None) -> Pairs:
    """Every pair at most `radius` apart, by distances in float64. For few pairs: all of them are held."""
    found = list(candidate_pairs(vectors, radius, queries=queries))
    rows = np.concatenate([part.rows for part in found]) if found else np.empty(0, np.int64)
    columns = np.concatenate([part.columns for part in found]) if found else np.empty(0, np.int64)
    distances = exact_distances(vectors if queries is None else queries, vectors, rows=rows, columns=columns)
    order = np.lexsort((columns, rows))
    order = order[distances[order] <= radius]
    return Pairs(rows=rows[order], columns=columns[order], distances=distances[order])


def exact_distances(queries: Vectors, vectors: Vectors, *, rows: Indices, columns: Indices) -> NDArray[np.float64]:
    """The distance of each pair from its float64 differences."""
    distances = np.empty(len(rows))
    step = max(_EXACT_NUMBERS // max(vectors.shape[1], 1), 1)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = queries[rows[part]].astype(np.float64) - vectors[columns[part]]
        distances[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return distances


def _bounded(
    squares: NDArray[np.float32], found: tuple[Indices, ...], *, starts: tuple[int, int], margin: float
) -> Candidates:
    exact = squares.astype(np.float64)
    return Candidates(
        rows=found[0] + starts[0],
        columns=found[1] + starts[1],
        low=np.sqrt(np.maximum(exact - margin, 0)),
        high=np.sqrt(np.maximum(exact, 0) + margin),
    )


def _mean(vectors: Vectors) -> NDArray[np.float32]:
    """Distances do not depend on the centre; their rounding error does."""
    mean: NDArray[np.float64] = vectors.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def _squared_norms(vectors: Vectors, centre: NDArray[np.float32]) -> NDArray[np.float64]:
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), ROWS):
        part = (vectors[start : start + ROWS] - centre).astype(np.float64)
        norms[start : start + ROWS] = np.einsum("ij,ij->i", part, part)
    return norms
