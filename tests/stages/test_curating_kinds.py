"""Whatever the training data is kept in, `probes build` makes the same probe set of it, with the same captions."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePath

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Silent
from invmm_gate.curation.build import curate
from invmm_gate.curation.write import curation_record, planned_probes
from tests.curation.pictures import later_images, training_images, written
from tests.stages.test_curating import TODAY, write

IMAGES = training_images()
CAPTIONS = {name: f"words of {name}" for name in IMAGES}


def folder_with_captions(root: Path) -> Path:
    texts = {str(PurePath(name).with_suffix(".txt")): text.encode() for name, text in CAPTIONS.items()}
    return written(root / "train", IMAGES | texts)


def folder_with_metadata(root: Path) -> Path:
    rows = "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in CAPTIONS.items())
    return written(root / "train", IMAGES | {"metadata.jsonl": rows.encode()})


def semicolons(root: Path) -> Path:
    rows = "".join(f'{name};"{text}"\r\n' for name, text in CAPTIONS.items()).replace("/", "\\")
    return written(root / "train", IMAGES | {"list.csv": b"path;caption\r\n" + rows.encode()}) / "list.csv"


def parts() -> list[dict[str, bytes]]:
    names = list(IMAGES)
    return [{name: IMAGES[name] for name in names[start::2]} for start in range(2)]


def tars(root: Path) -> Path:
    for number, part in enumerate(parts()):
        with tarfile.open(root / f"train-{number}.tar", "w") as tar:
            for name, data in part.items():
                for file, content in ((name, data), (str(PurePath(name).with_suffix(".txt")), CAPTIONS[name].encode())):
                    info = tarfile.TarInfo(file)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return root / "train-*.tar"


def shards(root: Path) -> Path:
    for number, part in enumerate(parts()):
        image = [{"bytes": data, "path": None} for data in part.values()]
        table = pa.table({"image": image, "text": [CAPTIONS[name] for name in part]})
        pq.write_table(table, root / f"train-{number}.parquet")
    return root / "train-?.parquet"


def saved(root: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    content = {"image": [{"bytes": data} for data in IMAGES.values()], "text": list(CAPTIONS.values())}
    datasets.Dataset.from_dict(content, features=features).save_to_disk(root / "train")
    return root / "train"


KINDS = (folder_with_captions, folder_with_metadata, semicolons, tars, shards, saved)


@pytest.mark.parametrize("make", KINDS)
def test_the_same_images_give_the_same_probes_with_their_captions(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    later = written(tmp_path / "later", later_images())
    options = BuildOptions(
        folder=tmp_path / "probes", sources=(make(tmp_path),), controls_from=(later,), controls=3, sample=4
    )
    found = curate(options, Silent())
    assert len(write(found).probes) == 3 + 3 + 4
    counts = curation_record(found, planned_probes(found, today=TODAY), today=TODAY)["counts"]
    assert (counts["read"], counts["captions"], counts["distinct"]) == (len(IMAGES), len(IMAGES), len(IMAGES) - 2)
    chosen = [item.probe for item in planned_probes(found, today=TODAY) if item.probe.group != "control"]
    named = [probe.caption.removeprefix("words of ").replace("\\", "/") for probe in chosen]
    assert [IMAGES[name] for name in named] == [probe.data for probe in chosen]
