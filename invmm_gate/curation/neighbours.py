"""All pairs of vectors within a distance, by brute force in blocks: exact, in bounded memory.

A block's squared distances come from one matrix product in float32. Its rounding error is bounded, so that every pair
gets a lower and an upper bound of its distance; only pairs that a threshold falls between are computed in float64.
Where the vectors vary along few axes, their shadows on those decide first which pairs are worth a distance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from invmm_gate.curation.shadows import FEW, Centred, Close, Shadows, centre_of, centred, make_shadows

Vectors = NDArray[np.float32]
"""(row, feature)."""
Indices = NDArray[np.int64]

ROWS: Final = 1024
COLUMNS: Final = 4096
"""A block of both is 16 MiB, which a processor's last cache holds."""
_EXACT: Final = 2.0**-40
"""Relative error of a distance in float64, generously."""
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
        """The candidates of a mask."""
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
    known = centred(vectors, centre_of(vectors))
    asked = known if queries is None else centred(queries, known.centre)
    shadows = make_shadows(asked, known, radius) if len(asked.rows) > ROWS else None
    for rows, columns in _blocks(len(asked.rows), len(vectors), upper=queries is None):
        if skip is None or not skip(rows, columns):
            found = _few(shadows, asked, known, block=(rows, columns), radius=radius) if shadows else None
            found = found or _bounded(asked.close(known, rows, columns, radius), rows, columns, upper=asked is known)
            if len(found.rows):
                yield found
        if told is not None:
            told((rows.stop - rows.start) * (columns.stop - columns.start))


def _blocks(asked: int, known: int, *, upper: bool) -> Iterator[tuple[slice, slice]]:
    for row in range(0, asked, ROWS):
        for column in range(row if upper else 0, known, COLUMNS):
            yield slice(row, min(row + ROWS, asked)), slice(column, min(column + COLUMNS, known))


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


def _few(
    shadows: Shadows, asked: Centred, known: Centred, *, block: tuple[slice, slice], radius: float
) -> Candidates | None:
    """The pairs of a block by their distances in float64, where few shadows are close; None where many are."""
    close = shadows.asked.close(shadows.known, *block, radius)
    if np.count_nonzero(close.pairs) > FEW * close.pairs.size:
        return None
    found = _bounded(close, *block, upper=asked is known)
    distances = exact_distances(asked.rows, known.rows, rows=found.rows, columns=found.columns)
    rounding = distances * _EXACT
    exact = Candidates(rows=found.rows, columns=found.columns, low=distances - rounding, high=distances + rounding)
    return exact.picked(exact.low <= radius)


def _bounded(close: Close, rows: slice, columns: slice, *, upper: bool) -> Candidates:
    """The close pairs of a block; above the diagonal only, where both sides are the same."""
    pairs = close.pairs
    if upper and columns.start < rows.stop:
        pairs = pairs & (np.arange(rows.start, rows.stop)[:, None] < np.arange(columns.start, columns.stop))
    found = np.nonzero(pairs)
    squares = close.squares[found].astype(np.float64)
    return Candidates(
        rows=found[0] + rows.start,
        columns=found[1] + columns.start,
        low=np.sqrt(np.maximum(squares - close.margin, 0)),
        high=np.sqrt(np.maximum(squares, 0) + close.margin),
    )
