"""Shadows of vectors in few dimensions, which are never farther apart than the vectors: most pairs need no more.

A shadow is the vector's coordinates on the main axes of a sample, and the length of the rest. With x = x_a + x_r,
|x - y|^2 = |x_a - y_a|^2 + |x_r - y_r|^2 >= |x_a - y_a|^2 + (|x_r| - |y_r|)^2, so no close pair is missed.
"""

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
