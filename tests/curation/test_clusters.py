"""Clusters: no two members farther apart than the cap; every image in one; equal for any order of the images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.curation import clusters as clusters_module
from invmm_gate.curation.clusters import find_clusters
from invmm_gate.curation.forest import neighbour_forest
from tests.curation.vectors import naive_distances


def found(vectors, multiplicity, *, radius, cap):
    labels = neighbour_forest(vectors, (radius,)).labels(0, multiplicity)
    return labels, find_clusters(vectors, labels, multiplicity, cap=cap)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 70), st.integers(1, 5), st.floats(0.05, 0.4), st.floats(1, 2))
@pytest.mark.parametrize("limit", [0, 4000], ids=["balls", "complete linkage"])
def test_no_two_members_are_farther_apart_than_the_cap(limit, seed, count, width, radius, factor):
    random = np.random.default_rng(seed)
    vectors = random.random((count, width)).astype(np.float32)
    multiplicity = random.integers(1, 3, count)
    cap = radius * factor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters_module, "LINKAGE_LIMIT", limit)
        patch.setattr(clusters_module, "_BLOCK", 8)
        labels, clustering = found(vectors, multiplicity, radius=radius, cap=cap)
    members = [row for cluster in clustering.clusters for row in cluster.members]
    assert len(set(members)) == len(members)
    assert set(members) <= set(np.flatnonzero(labels >= 0).tolist())
    for cluster in clustering.clusters:
        rows = list(cluster.members)
        apart = naive_distances(vectors[rows], vectors[rows])
        assert apart.max() <= cap * (1 + 1e-9)
        assert len(set(labels[rows].tolist())) == 1
        assert cluster.multiplicity == multiplicity[rows].sum() > 1
        assert cluster.radius == pytest.approx(apart[0].max(), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 40))
def test_the_medoid_has_the_smallest_sum_of_squared_distances(seed, count):
    random = np.random.default_rng(seed)
    vectors = random.random((count, 3)).astype(np.float32)
    multiplicity = random.integers(1, 5, count)
    _, clustering = found(vectors, multiplicity, radius=3.0, cap=3.0)
    (cluster,) = clustering.clusters
    sums = (naive_distances(vectors, vectors) ** 2 * multiplicity).sum(axis=1)
    assert sums[cluster.medoid] <= sums.min() * (1 + 1e-9)


def test_a_chain_is_split_and_counted():
    vectors = np.arange(10, dtype=np.float32)[:, None]
    _, clustering = found(vectors, np.ones(10, np.int64), radius=1.0, cap=1.0)
    assert clustering.chained == 1
    assert [cluster.multiplicity for cluster in clustering.clusters] == [2] * 5


def test_a_cluster_within_the_cap_is_left_whole():
    vectors = np.array([[0], [0.5], [1.0]], np.float32)
    _, clustering = found(vectors, np.ones(3, np.int64), radius=0.6, cap=1.0)
    assert [cluster.members for cluster in clustering.clusters] == [(1, 0, 2)]
    assert clustering.chained == 0


def test_large_clusters_come_first():
    vectors = np.array([[0], [0.1], [5], [9], [9.1], [9.2]], np.float32)
    _, clustering = found(vectors, np.array([1, 1, 7, 1, 1, 1]), radius=0.2, cap=0.4)
    assert [cluster.multiplicity for cluster in clustering.clusters] == [7, 3, 2]
