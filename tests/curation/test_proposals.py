"""Which rows are proposed, and what is passed over."""

from invmm_gate.curation.clusters import Cluster
from invmm_gate.curation.proposals import propose

CLUSTERS = [
    Cluster(members=(4, 5, 6), multiplicity=9, radius=0.1),
    Cluster(members=(0, 1), multiplicity=5, radius=0.1),
    Cluster(members=(7,), multiplicity=2, radius=0.0),
]
MULTIPLICITY = [3, 2, 1, 1, 5, 2, 2, 2]


def proposed(*, sensitive=(), duplicated=2, unfit=lambda _: ""):
    return propose(CLUSTERS, sensitive=sensitive, multiplicity=MULTIPLICITY, duplicated=duplicated, unfit=unfit)


def test_the_medoids_of_the_largest_clusters_are_proposed_with_their_multiplicity():
    found = proposed().duplicated
    assert [(item.row, item.cluster, item.multiplicity) for item in found] == [
        (4, "duplicates-00001", 9),
        (0, "duplicates-00002", 5),
    ]


def test_a_sensitive_image_carries_the_name_and_multiplicity_of_its_cluster():
    found = proposed(sensitive=(2, 6), duplicated=0).sensitive
    assert [(item.row, item.cluster, item.multiplicity) for item in found] == [(2, "", 1), (6, "duplicates-00001", 9)]


def test_a_cluster_that_a_sensitive_probe_stands_for_gives_its_place_to_the_next():
    found = proposed(sensitive=(4,))
    assert [item.row for item in found.duplicated] == [0, 7]
    assert [(item.row, item.reason) for item in found.skipped] == [(4, "is a sensitive probe already")]


def test_a_cluster_whose_medoid_cannot_be_a_probe_is_skipped_and_named():
    found = proposed(unfit=lambda row: "blank" if row == 0 else "")
    assert [item.row for item in found.duplicated] == [4, 7]
    assert [(item.cluster, item.reason) for item in found.skipped] == [("duplicates-00002", "blank")]
