"""Every pair within the radius is found, and no other, whatever the blocks and the rounding of float32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.curation import neighbours
from invmm_gate.curation.neighbours import (
    FEW,
    block_pairs,
    candidate_pairs,
    centre_of,
    centred,
    close_pairs,
    make_shadows,
)
from tests.curation.vectors import naive_distances, with_copies


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 16)
    monkeypatch.setattr(neighbours, "COLUMNS", 40)


@pytest.mark.parametrize(("count", "width"), [(2, 3), (16, 8), (17, 64), (130, 33)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_pairs_equal_those_of_a_loop_in_float64(small_blocks, count, width, offset):
    vectors = with_copies(count, width) + np.float32(offset)
    true = naive_distances(vectors, vectors)
    for radius in (0.1, 0.5, 1.2, float(np.median(true)), 2.5):
        found = close_pairs(vectors, radius)
        rows, columns = np.nonzero(np.triu(true <= radius, k=1))
        assert found.rows.tolist() == rows.tolist()
        assert found.columns.tolist() == columns.tolist()
        np.testing.assert_allclose(found.distances, true[rows, columns], rtol=1e-12)


def test_queries_are_compared_with_every_vector(small_blocks):
    vectors, queries = with_copies(101, 20), with_copies(37, 20, seed=1)
    true = naive_distances(queries, vectors)
    found = close_pairs(vectors, 1.3, queries=queries)
    assert np.array_equal(np.stack([found.rows, found.columns]), np.stack(np.nonzero(true <= 1.3)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 50), st.floats(-3, 4))
def test_bounds_hold_the_true_distance_at_any_scale(seed, count, width, power):
    random = np.random.default_rng(seed)
    vectors = (random.standard_normal((count, width)) * 10**power).astype(np.float32)
    true = naive_distances(vectors, vectors)
    radius = float(np.quantile(true, 0.6))
    seen = np.zeros_like(true, bool)
    for part in candidate_pairs(vectors, radius):
        pairs = (part.rows, part.columns)
        seen[pairs] = True
        assert (part.low <= true[pairs]).all()
        assert (part.high >= true[pairs]).all()
    assert (seen | ~np.triu(true <= radius, k=1)).all()


def flat(count, rank, *, rest, seed=0):
    """Vectors of 300 numbers along few axes and a little off them, some of them copies.

    A copy that is a little longer has a shadow as far from its original's as it is itself.
    """
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, rank)) @ random.standard_normal((rank, 300))
    vectors += rest * random.standard_normal((count, 300))
    copies = count // 8
    vectors[:copies] = vectors[-copies:]
    vectors[copies : 2 * copies] = 1.02 * vectors[-2 * copies : -copies]
    return vectors.astype(np.float32)


@pytest.mark.parametrize("rank", [1, 4, 40])
@pytest.mark.parametrize("rest", [0.0, 1e-4, 3.0])
@pytest.mark.parametrize(("offset", "factor"), [(0.0, 1.0), (30.0, 1.0), (0.0, 1e-4), (1e3, 1e3)])
def test_shadows_lose_no_pair_and_add_none(small_blocks, rank, rest, offset, factor):
    vectors = (flat(150, rank, rest=rest) + np.float32(offset)) * np.float32(factor)
    true = naive_distances(vectors, vectors)
    above = np.sort(true[np.triu_indices(150, k=1)])
    for radius in (above[15], above[30], above[50], 0.9 * above[45]):
        found = close_pairs(vectors, float(radius))
        rows, columns = np.nonzero(np.triu(true <= radius * (1 + 1e-12), k=1))
        assert set(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) <= set(
            zip(rows.tolist(), columns.tolist(), strict=True)
        )
        rows, columns = np.nonzero(np.triu(true <= radius * (1 - 1e-12), k=1))
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) <= set(
            zip(found.rows.tolist(), found.columns.tolist(), strict=True)
        )


def test_a_shadow_is_never_farther_than_its_vector_and_few_are_close():
    vectors = flat(600, 30, rest=3.0)
    known = centred(vectors, centre_of(vectors))
    true = naive_distances(vectors, vectors)
    radius = 1.1 * float(np.sort(true[np.triu_indices(600, k=1)])[140])
    shadows = make_shadows(known, known, radius)
    assert shadows is not None
    whole = slice(0, 600)
    close = shadows.known.close(shadows.known, whole, whole, radius)
    assert (close.squares <= true**2 + close.margin).all()
    assert close.pairs.mean() < FEW + 1 / 600
    assert close.pairs[true <= radius].all()


def test_vectors_along_many_axes_or_mostly_close_have_no_shadows():
    for vectors, radius in ((with_copies(600, 300), 1.3), (flat(600, 5, rest=0.0), 1e9), (with_copies(600, 60), 0.1)):
        known = centred(vectors, centre_of(vectors))
        assert make_shadows(known, known, radius) is None


def test_progress_adds_up_to_what_was_announced(small_blocks):
    told: list[int] = []
    vectors = with_copies(101, 5)
    list(candidate_pairs(vectors, 1.0, told=told.append))
    assert sum(told) == block_pairs(101)
