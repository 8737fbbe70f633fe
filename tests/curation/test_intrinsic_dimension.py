"""The maximum-likelihood estimate against its formula, and against data of known dimension."""

import numpy as np
import pytest

from invmm_gate.curation.intrinsic_dimension import intrinsic_dimension
from tests.curation.vectors import naive_distances


def turned(points, seed=0):
    """Points in a space of 40 dimensions, which changes no distance."""
    frame, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((40, points.shape[1])))
    return (points @ frame.T).astype(np.float32)


def uniform(dimension, count=2000, seed=0):
    """A cube."""
    return turned(np.random.default_rng(seed).random((count, dimension)))


def sphere(dimension, count=2000):
    """A sphere has no edges, at which a cube's points lack neighbours on one side."""
    points = np.random.default_rng(0).standard_normal((count, dimension + 1))
    return turned(points / np.linalg.norm(points, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("shape", "dimension", "tolerance"),
    [
        (sphere, 2, 0.05),
        (sphere, 5, 0.07),
        (sphere, 10, 0.15),
        (uniform, 2, 0.1),
        (uniform, 5, 0.15),
        (uniform, 10, 0.25),
    ],
)
def test_the_estimate_is_near_the_dimension_of_known_data(shape, dimension, tolerance):
    for found in intrinsic_dimension(shape(dimension)):
        assert found.harmonic == pytest.approx(dimension, rel=tolerance)
        assert found.unbiased == pytest.approx(dimension, rel=tolerance)


def test_the_estimate_is_the_formula_of_scikit_dimension():
    vectors = uniform(4, count=150)
    ordered = np.sort(naive_distances(vectors, vectors), axis=1)[:, 1:]
    for found in intrinsic_dimension(vectors):
        k = found.neighbours
        # skdim.id.MLE: (K - 1) / sum_j ln(R_K / R_j), with K - 2 if unbiased; "mle" is 1 / mean(1 / estimate).
        sums = np.array([sum(np.log(row[k - 1] / row[j]) for j in range(k - 1)) for row in ordered])
        assert found.harmonic == pytest.approx(1 / np.mean(1 / ((k - 1) / sums)), rel=1e-9)
        assert found.unbiased == pytest.approx(np.mean((k - 2) / sums), rel=1e-9)
        assert found.points == 150


def test_neighbour_counts_that_the_set_is_too_small_for_are_left_out():
    assert [found.neighbours for found in intrinsic_dimension(uniform(2, count=21))] == [10, 20]
    assert intrinsic_dimension(uniform(2, count=10)) == ()


def test_a_sample_of_points_is_drawn_by_the_seed():
    vectors = uniform(3, count=600)
    first, again, other = (intrinsic_dimension(vectors, queries=100, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first[0].points == 100
    assert first[0].unbiased == pytest.approx(intrinsic_dimension(vectors)[0].unbiased, rel=0.2)


def test_images_that_are_all_equally_far_apart_have_no_estimate():
    assert intrinsic_dimension(np.eye(50, dtype=np.float32)) == ()
    assert intrinsic_dimension(np.zeros((50, 8), np.float32)) == ()


def test_points_without_an_estimate_are_left_out_and_counted():
    sound = uniform(3, count=200)
    far = 1000 + 10 * np.eye(30, 40, dtype=np.float32)  # each at the same distance from its 29 nearest
    twice = np.repeat(sound[:1] - 1000, 60, axis=0)
    ten, twenty = intrinsic_dimension(np.concatenate([sound, far, twice]), neighbours=(10, 20))
    alone = intrinsic_dimension(sound, neighbours=(10, 20))
    assert (ten, twenty) == alone
    assert ten.points == 200
