"""`probes build` in Python: what is proposed, that order and cache change nothing, that no control was seen."""

import dataclasses
import datetime
import json
import random
from pathlib import Path

import numpy as np
import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Silent
from invmm_gate.curation.build import Curation, curate
from invmm_gate.curation.embedder import make_embedder
from invmm_gate.curation.embedding_store import EmbeddingStore
from invmm_gate.curation.write import curation_record, planned_probes, write_curation
from invmm_gate.probes.validate import validate_probe_set
from tests.curation.pictures import COPIES, EXACT, OTHERS, later_images, picture, png, training_images, written

TODAY = datetime.date(2026, 11, 22)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return {
        "train": written(tmp_path / "train", training_images()),
        "later": written(tmp_path / "later", later_images()),
        "probes": tmp_path / "probes",
    }


def options_for(places: dict[str, Path], **changes) -> BuildOptions:
    plain = BuildOptions(
        folder=places["probes"], sources=(places["train"],), controls_from=(places["later"],), controls=12
    )
    return dataclasses.replace(plain, **changes)


def record_of(curation: Curation) -> dict[str, object]:
    return curation_record(curation, planned_probes(curation, today=TODAY), today=TODAY)


def write(curation: Curation):
    planned = planned_probes(curation, today=TODAY)
    return write_curation(curation, planned, curation_record(curation, planned, today=TODAY))


def test_the_set_is_valid_and_names_clusters_and_multiplicity(places):
    listed = places["train"].parent / "sensitive.txt"
    listed.write_text("# of people\nother05.png\n\ndeep/er/near1-0.png\n")
    found = curate(options_for(places, sensitive=listed, category="people"), Silent())
    write(found)
    probes = validate_probe_set(places["probes"], min_controls=12).probes
    duplicated = [probe for probe in probes if probe.group == "duplicated"]
    assert [probe.cluster for probe in duplicated] == ["duplicates-00001", "duplicates-00002", "duplicates-00003"]
    multiplicity = sorted((COPIES[0], COPIES[1], COPIES[2] + EXACT), reverse=True)
    for probe, count in zip(duplicated, multiplicity, strict=True):
        assert f"({count} near-duplicates in the training data)" in probe.source
    sensitive = [probe for probe in probes if probe.group == "sensitive"]
    assert ["near1-0.png" in sensitive[0].source, "other05.png" in sensitive[1].source] == [True, True]
    assert sensitive[0].cluster == "duplicates-00003"
    assert {probe.category for probe in sensitive} == {"people"}
    assert all(probe.added_on == TODAY.isoformat() for probe in probes)


def test_ids_say_nothing_of_the_files_and_the_record_says_which_they_are(places):
    listed = places["train"].parent / "sensitive.txt"
    listed.write_text("jane-doe-mri-2024.png\nother05.png\n")
    (places["train"] / "jane-doe-mri-2024.png").write_bytes(png(picture(500)))
    found = curate(options_for(places, sensitive=listed, controls=2), Silent())
    probes = {probe.id: probe for probe in write(found).probes}
    groups = {"sensitive": 2, "duplicated": 3, "control": 2}
    assert list(probes) == [f"{group}-{number + 1:04d}" for group, count in groups.items() for number in range(count)]
    assert all("jane" not in probe.path for probe in probes.values())
    assert probes["sensitive-0001"].source.endswith(": jane-doe-mri-2024.png")
    names = {row["id"]: row["name"] for row in record_of(found)["probes"]}
    assert names["sensitive-0001"] == "jane-doe-mri-2024.png"
    assert list(names) == list(probes)


def test_the_record_and_the_page_lie_beside_the_probes(places):
    found = curate(options_for(places), Silent())
    write(found)
    record = json.loads((places["probes"] / "curation.json").read_text())
    assert record == json.loads(json.dumps(record_of(found)))
    assert record["counts"]["read"] == len(training_images())
    assert record["counts"]["distinct"] == len(training_images()) - EXACT
    assert record["counts"]["clusters"] == len(COPIES)
    assert [row["neighbours"] for row in record["intrinsic_dimension"]] == [10, 20]
    page = (places["probes"] / "contact_sheet.html").read_text()
    assert "PRIVATE" in page
    assert "<script" not in page


def test_no_control_is_near_a_training_image_even_mirrored(places):
    found = curate(options_for(places), Silent())
    names = {entry.name for entry in found.controls.chosen}
    assert names == {f"late{seed}.png" for seed in range(100, 112)}
    refused = {left.name: left.reason for left in found.controls.refused}
    assert "near-duplicate of the training image 'deep/er/near0-0.png'" in refused["seen.png"]
    assert "mirrored near-duplicate of the training image 'other05.png'" in refused["mirrored.png"]


def test_a_control_near_another_control_is_refused(places):
    (places["later"] / "again.png").write_bytes(png(picture(100)))
    found = curate(options_for(places), Silent())
    assert len({"again.png", "late100.png"} & {entry.name for entry in found.controls.chosen}) == 1
    assert any("near-duplicate of the control" in left.reason for left in found.controls.refused)


def test_the_seed_decides_which_controls_are_drawn(places):
    names = [
        [entry.name for entry in curate(options_for(places, controls=4, seed=seed), Silent()).controls.chosen]
        for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]


def table(path: Path, files: dict[str, bytes], **columns) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = {"path": list(files), "image": [{"bytes": data, "path": None} for data in files.values()]} | columns
    pq.write_table(pa.table(content), path, row_group_size=7)
    return path


def test_the_order_of_the_data_changes_nothing(tmp_path):
    names = list(training_images())
    records = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        path = table(tmp_path / "train.parquet", {name: training_images()[name] for name in names})
        later = table(tmp_path / "later.parquet", dict(sorted(later_images().items(), reverse=seed == 1)))
        options = BuildOptions(folder=tmp_path / "probes", sources=(path,), controls_from=(later,), controls=5)
        records.append(record_of(curate(options, Silent())))
    assert records[0] == records[1] == records[2]


def test_a_table_gives_captions_dates_and_marks(tmp_path):
    files = training_images() | {f"late{seed}.png": png(picture(seed)) for seed in range(100, 104)}
    dates = [datetime.date(2026, 6 if name.startswith("late") else 2, 1) for name in files]
    path = table(
        tmp_path / "train.parquet",
        files,
        caption=[f"words of {name}" for name in files],
        date=dates,
        kind=["person" if name == "other04.png" else "thing" for name in files],
    )
    options = BuildOptions(
        folder=tmp_path / "probes",
        sources=(path,),
        trained_until=datetime.date(2026, 3, 1),
        controls=4,
        sensitive_column="kind=person",
    )
    write(curate(options, Silent()))
    probes = validate_probe_set(tmp_path / "probes", min_controls=4, captions_required=True).probes
    captions = {
        group: {probe.caption for probe in probes if probe.group == group} for group in ("sensitive", "control")
    }
    assert captions["sensitive"] == {"words of other04.png"}
    assert captions["control"] == {f"words of late{seed}.png" for seed in range(100, 104)}


def test_a_csv_and_a_folder_give_the_same_clusters(places):
    names = sorted(training_images())
    listing = places["train"] / "list.csv"
    listing.write_text("file,caption\n" + "".join(f'{name},"a, b"\n' for name in names))
    by_table = curate(options_for(places, sources=(listing,), columns={"path": "file"}), Silent())
    by_folder = curate(options_for(places), Silent())
    assert record_of(by_table)["clusters"] == record_of(by_folder)["clusters"]
    assert {entry.probe.caption for entry in planned_probes(by_table, today=TODAY)} == {"a, b", ""}


def test_embeddings_are_kept_and_give_the_same_record(places, tmp_path):
    fresh = record_of(curate(options_for(places), Silent()))
    kept = options_for(places, cache=tmp_path / "cache")
    assert record_of(curate(kept, Silent())) == fresh
    before = {path.name: path.stat().st_size for path in (tmp_path / "cache").iterdir()}
    (places["train"] / "new.png").write_bytes(png(picture(77)))
    again = curate(kept, Silent())
    after = {path.name: path.stat().st_size for path in (tmp_path / "cache").iterdir()}
    assert {name: after[name] - size for name, size in before.items()} == {
        name: 64 if name.endswith(".keys") else 4 * again.embedder.scale.width for name in before
    }


@pytest.mark.parametrize("cut", [1, 40, 64, 100])
def test_a_cache_that_was_cut_off_loses_its_tail_only(tmp_path, cut):
    keys = [bytes([number]) * 32 for number in range(5)]
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    store = EmbeddingStore(tmp_path, identity="x", width=3)
    store.add([(key, key) for key in keys], keys, vectors)
    store.close()
    content = (tmp_path / "x.keys").read_bytes()
    (tmp_path / "x.keys").write_bytes(content[:-cut])
    whole = (len(content) - cut) // 64
    store = EmbeddingStore(tmp_path, identity="x", width=3)
    assert [store.holds(key) for key in keys] == [number < whole for number in range(5)]
    store.add([(key, key) for key in keys[whole:]], keys[whole:], vectors[whole:])
    np.testing.assert_array_equal(store.vectors(keys[::-1]), vectors[::-1])
    store.close()


def test_a_set_of_equal_images_is_one_cluster(tmp_path):
    files = {f"{number}.png": png(picture(1)) for number in range(40)}
    options = BuildOptions(folder=tmp_path / "probes", sources=(written(tmp_path / "train", files),))
    found = curate(options, Silent())
    assert len(found.training.items) == 1
    assert [cluster.multiplicity for cluster in found.clustering.clusters] == [40]
    assert found.dimensions == ()
    write(found)
    assert len(validate_probe_set(tmp_path / "probes").probes) == 1


def test_no_probe_is_taken_of_a_cluster_of_blank_images(places):
    from PIL import Image

    for number in range(9):
        (places["train"] / f"blank{number}.png").write_bytes(png(Image.new("RGB", (40, 40), (9, 9, 9))))
    found = curate(options_for(places), Silent())
    reasons = ["has one colour only; expected a picture: any model can make this one"]
    assert [skipped.reason for skipped in found.proposals.skipped] == reasons
    assert len(found.proposals.duplicated) == len(COPIES)


def test_images_of_another_size_are_found_to_be_copies(places):
    (places["train"] / "small.png").write_bytes(png(picture(10).resize((32, 32))))
    found = curate(options_for(places), Silent())
    assert len(found.clustering.clusters) == len(COPIES) + 1


def test_an_image_that_changes_meanwhile_is_noticed(places):
    found = curate(options_for(places), Silent())
    for path in places["train"].rglob("near*.png"):
        path.write_bytes(png(picture(999)))
    with pytest.raises(ProbeSetError, match="changed while the probe set was built"):
        write(found)
    assert not places["probes"].exists()


def test_nothing_is_left_behind_when_writing_fails(places, monkeypatch):
    from invmm_gate.probes import writer as build

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    found = curate(options_for(places), Silent())
    monkeypatch.setattr(build, "write_manifest", full)
    before = sorted(places["probes"].parent.iterdir())
    with pytest.raises(ProbeSetError, match="No space left"):
        write(found)
    assert sorted(places["probes"].parent.iterdir()) == before


def test_sscd_clusters_by_cosine(places, tmp_path):
    from tests.stages.world import torchscript

    embedder = make_embedder(
        "sscd_disc_large", size=64, threshold=0.6, sscd=torchscript(tmp_path / "sscd.pt"), device="cpu"
    )
    rows = np.stack([np.asarray(embedder.fitted(picture(seed))) for seed in range(3)])
    vectors = embedder.embed(rows)
    assert embedder.metric.name == "sscd_disc_large@64"
    assert vectors.shape == (3, embedder.scale.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert embedder.scale.distance(0.6) == pytest.approx(0.8**0.5)
    found = curate(
        options_for(places, metric="sscd_disc_large", sscd=tmp_path / "sscd.pt", size=64, threshold=0.999), Silent()
    )
    assert found.embedder.scale.kind == "cosine"


def test_every_training_image_is_accounted_for(places):
    (places["train"] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (places["train"] / "moving.gif").write_bytes(b"GIF89a")
    (places["train"] / "link.png").symlink_to(places["train"] / "other03.png")
    (places["train"] / "linked").symlink_to(places["later"])
    found = curate(options_for(places), Silent())
    reasons = {left.name: left.reason for left in found.scan.left_out}
    assert reasons.pop("broken.png")
    assert reasons == {
        "moving.gif": "is not PNG, JPEG or WebP",
        "link.png": "is or lies behind a symbolic link",
        "linked": "is or lies behind a symbolic link",
    }
    assert len(found.scan.items) == OTHERS + sum(COPIES) + EXACT
