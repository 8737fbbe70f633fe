"""Vectors with known near-duplicates."""

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def with_copies(count: int, width: int, *, seed: int = 0, noise: float = 0.05) -> NDArray[np.float32]:
    """Random unit vectors, a third of them noisy copies of a few."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, width))
    copies = count // 3
    vectors[:copies] = vectors[random.integers(copies, copies + 8, copies)]
    vectors[:copies] += noise * random.standard_normal((copies, width))
    return unit(vectors)


def naive_distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Every distance by a loop in float64."""
    wide = right.astype(np.float64)
    return np.stack([np.sqrt(((row.astype(np.float64) - wide) ** 2).sum(axis=1)) for row in left])
