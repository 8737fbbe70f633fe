"""The spanning forest gives scikit-learn's DBSCAN of the whole graph, at every level, in bounded memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from invmm_gate.curation import forest as forest_module
from invmm_gate.curation import neighbours
from invmm_gate.curation.clusters import count_curve
from invmm_gate.curation.forest import neighbour_forest
from tests.curation.vectors import with_copies

LEVELS = (0.2, 0.5, 0.8, 1.0, 1.2)


def partition(labels):
    """Labels by first appearance: equal for equal clusterings, noise included."""
    first: dict[int, int] = {}
    return [label if label < 0 else first.setdefault(label, len(first)) for label in labels.tolist()]


@pytest.mark.parametrize("noise", [0.01, 0.08, 0.15])
@pytest.mark.parametrize("pending", [10, 10**6])
def test_labels_equal_those_of_scikit_learn_on_dense_data(monkeypatch, noise, pending):
    monkeypatch.setattr(forest_module, "_PENDING", pending)
    monkeypatch.setattr(neighbours, "ROWS", 32)
    monkeypatch.setattr(neighbours, "COLUMNS", 64)
    vectors = with_copies(300, 48, noise=noise)
    forest = neighbour_forest(vectors, LEVELS)
    assert len(forest.rows) < len(vectors)
    for level, radius in enumerate(LEVELS):
        dense = DBSCAN(eps=radius, min_samples=2).fit(vectors.astype(np.float64)).labels_
        assert partition(forest.labels(level, np.ones(300, np.int64))) == partition(dense)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 4))
def test_labels_equal_those_of_scikit_learn_with_exact_copies_counted(seed, count, width):
    random = np.random.default_rng(seed)
    points = random.random((count, width)).astype(np.float32)
    multiplicity = random.integers(1, 3, count)
    forest = neighbour_forest(points, (0.05, 0.1, 0.3))
    for level, radius in enumerate(forest.levels):
        dense = DBSCAN(eps=radius, min_samples=2).fit(points.astype(np.float64), sample_weight=multiplicity).labels_
        assert partition(forest.labels(level, multiplicity)) == partition(dense)


def test_a_vector_that_stands_for_two_images_is_a_cluster_of_its_own():
    forest = neighbour_forest(np.eye(3, dtype=np.float32), LEVELS)
    assert partition(forest.labels(0, np.array([1, 2, 1]))) == [-1, 0, -1]


def test_a_set_of_near_duplicates_alone_needs_no_more_edges_than_images():
    random = np.random.default_rng(0)
    vectors = np.ones((6000, 8), np.float32) + 0.001 * random.standard_normal((6000, 8)).astype(np.float32)
    forest = neighbour_forest(vectors, LEVELS)
    assert len(forest.rows) == 5999
    point = count_curve(forest, np.ones(6000, np.int64))[0]
    assert (point.clusters, point.images, point.largest) == (1, 6000, 6000)


def test_the_curve_counts_images_with_their_exact_copies():
    vectors = np.array([[0, 0], [0.15, 0], [5, 5], [9, 9], [9.9, 9]], np.float32)
    curve = count_curve(neighbour_forest(vectors, (0.2, 1.0)), np.array([3, 1, 4, 1, 1]))
    assert [(point.clusters, point.images, point.largest) for point in curve] == [(2, 8, 4), (3, 10, 4)]
