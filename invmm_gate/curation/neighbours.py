"""All pairs of vectors within a distance, by brute force in blocks: exact, in bounded memory.

A block's squared distances come from one matrix product in float32. Its rounding error is bounded, so that every pair
gets a lower and an upper bound of its distance; only pairs that a threshold falls between are computed in float64.
Where the vectors vary along few axes, their shadows on those decide first which pairs are worth a distance.

A shadow is the coordinates of a vector on the main axes of a sample, and the length of the rest. With x = x_a + x_r,
|x - y|^2 = |x_a - y_a|^2 + |x_r - y_r|^2 >= |x_a - y_a|^2 + (|x_r| - |y_r|)^2, so no close pair is missed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

AXES: Final = 64
FEW: Final = 1 / 256
"""Share of close shadows up to which single distances cost less than a matrix product."""
_SAMPLE: Final = 512
_STEP: Final = 1024
_UNIT: Final = 2.0**-24
"""Unit roundoff of float32."""
ROWS: Final = 1024
COLUMNS: Final = 4096
"""A block of both is 16 MiB, which a processor's last cache holds."""
_EXACT: Final = 2.0**-40
"""Relative error of a distance in float64, generously."""
_EXACT_NUMBERS: Final = 4_000_000
"""Numbers that one step of `exact_distances` holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Centred:
    """Vectors, and what is taken off them before they are multiplied: rounding grows with their length."""

    rows: NDArray[np.float32]
    centre: NDArray[np.float32]
    norms: NDArray[np.float64]
    """Squared, centred."""

    def part(self, chosen: slice) -> NDArray[np.float32]:
        """Some rows, centred."""
        return self.rows[chosen] - self.centre

    def close(self, other: "Centred", rows: slice, columns: slice, radius: float) -> "Close":
        """The pairs of a block that may lie within the radius, by one matrix product in float32."""
        squares = (-2 * self.part(rows)) @ other.part(columns).T
        squares += self.norms[rows, None].astype(np.float32)
        squares += other.norms[None, columns].astype(np.float32)
        # Rounding of a product of width n is at most n units of |x||y| <= (|x|^2 + |y|^2) / 2 (Higham, eq. 3.5); the
        # rest covers the sums, the norms, the centring and the rounding of shadows.
        margin = (self.rows.shape[1] + 64) * _UNIT * float(self.norms[rows].max() + other.norms[columns].max())
        return Close(squares=squares, margin=margin, pairs=squares <= radius**2 + margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """A block of pairs."""

    squares: NDArray[np.float32]
    margin: float
    """Largest error of a square."""
    pairs: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadows:
    """The shadows of both sides of a search."""

    asked: Centred
    known: Centred


def centre_of(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances do not depend on the centre; their rounding error does."""
    mean: NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def centred(rows: NDArray[np.float32], centre: NDArray[np.float32]) -> Centred:
    """The rows with the lengths that they have about a centre."""
    norms = np.empty(len(rows))
    for start in range(0, len(rows), _STEP):
        part = (rows[start : start + _STEP] - centre).astype(np.float64)
        norms[start : start + _STEP] = np.einsum("ij,ij->i", part, part)
    return Centred(rows=rows, centre=centre, norms=norms)


def make_shadows(asked: Centred, known: Centred, radius: float) -> Shadows | None:
    """None where they would decide little: vectors that are narrow, or that vary along many axes."""
    width = known.rows.shape[1]
    if width < 4 * AXES:
        return None
    sample = known.rows[:: -(-len(known.rows) // _SAMPLE)]
    axes = np.linalg.svd((sample - known.centre).astype(np.float64), full_matrices=False)[2][:AXES]
    seen = _shadow(centred(sample, known.centre), axes)
    whole = slice(0, len(sample))
    if seen.close(seen, whole, whole, radius).pairs.mean() > FEW + 1 / len(sample):  # each is close to itself
        return None
    shadow = _shadow(known, axes)
    return Shadows(asked=shadow if asked is known else _shadow(asked, axes), known=shadow)


def _shadow(vectors: Centred, axes: NDArray[np.float64]) -> Centred:
    rows = np.empty((len(vectors.rows), len(axes) + 1), np.float32)
    for start in range(0, len(rows), _STEP):
        chosen = slice(start, start + _STEP)
        seen = vectors.part(chosen).astype(np.float64) @ axes.T
        rest = np.maximum(vectors.norms[chosen] - np.einsum("ij,ij->i", seen, seen), 0)
        rows[chosen] = np.concatenate([seen, np.sqrt(rest)[:, None]], axis=1)
    centre = np.zeros(rows.shape[1], np.float32)
    return Centred(rows=rows, centre=centre, norms=vectors.norms)


Vectors = NDArray[np.float32]
"""(row, feature)."""
Indices = NDArray[np.int64]


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
