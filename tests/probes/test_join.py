"""One probe set joins another with all that its manifest says, or nothing is changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.probes.edit import join_probe_set
from invmm_gate.probes.manifest import read_manifest, write_manifest
from invmm_gate.probes.validate import validate_probe_set
from tests.probes.conftest import edit, make_probe
from tests.probes.test_curate import contents


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Two canaries with captions, one of which has the id of a probe of the other set, and one of a cluster."""
    folder = tmp_path / "other"
    first = replace(make_probe(folder, 10, group="canary"), multiplicity=8, licence="own", fit="crop")
    second = replace(make_probe(folder, 11, group="canary"), multiplicity=64, cluster="pair", category="planted")
    (folder / "images/p11.png").rename(folder / "images/p1.png")
    write_manifest(folder, [first, replace(second, id="p1", path="images/p1.png")])
    return folder


def test_every_field_is_kept_and_a_taken_id_gets_a_number(probe_folder: Path, other: Path) -> None:
    before, joined = read_manifest(probe_folder), read_manifest(other)
    added = join_probe_set(probe_folder, other)
    assert [probe.id for probe in added] == ["p10", "p1-2"]
    whole = validate_probe_set(probe_folder).probes
    assert whole == (*before, *added)
    for new, old in zip(added, joined, strict=True):
        assert replace(new, id=old.id, path=old.path, line=old.line) == old
        assert (probe_folder / new.path).read_bytes() == (other / old.path).read_bytes()


def test_a_set_is_not_joined_twice_and_nothing_is_left_behind(probe_folder: Path, other: Path) -> None:
    join_probe_set(probe_folder, other)
    before = contents(probe_folder)
    for again in (other, probe_folder):
        with pytest.raises(ProbeSetError, match="is already in the probe set, as probe 'p"):
            join_probe_set(probe_folder, again)
    assert contents(probe_folder) == before


def test_clusters_of_one_name_do_not_become_one(probe_folder: Path, other: Path) -> None:
    probes = read_manifest(probe_folder)
    write_manifest(probe_folder, [replace(probes[0], cluster="pair"), *probes[1:]])
    before = contents(probe_folder)
    with pytest.raises(
        ProbeSetError, match=r"both sets have the cluster 'pair', in .*other of probe 'p1'; .*rename it"
    ):
        join_probe_set(probe_folder, other)
    assert contents(probe_folder) == before


def test_a_set_that_is_not_valid_is_refused_with_its_line(probe_folder: Path, other: Path) -> None:
    before = contents(probe_folder)
    edit(other, ",64\n", ",sixty\n")
    with pytest.raises(ProbeSetError, match=r"other/manifest.csv:3: multiplicity 'sixty'"):
        join_probe_set(probe_folder, other)
    (other / "manifest.csv").unlink()
    with pytest.raises(ProbeSetError, match="holds no manifest"):
        join_probe_set(probe_folder, other)
    assert contents(probe_folder) == before


def test_a_set_that_is_not_there_is_not_made(tmp_path: Path, other: Path) -> None:
    with pytest.raises(ProbeSetError, match="absent"):
        join_probe_set(tmp_path / "absent", other)
    assert not (tmp_path / "absent").exists()
