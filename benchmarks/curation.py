"""What `probes build` costs: time and memory of each stage, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/curation.py                     # 100,000 embeddings of 512 and of 3072 numbers
    OMP_NUM_THREADS=1 python benchmarks/curation.py --images 20000 --files 2000
    ulimit -v 8388608; python benchmarks/curation.py --only files --files 100000      # in 8 GiB of address space
    ulimit -v 8388608; python benchmarks/curation.py --only files --files 100000 --kept tar   # or parquet, or saved

Every width runs in a process of its own, so that its peak memory is its own. CPU seconds are those of that process, on
as many threads as OMP_NUM_THREADS allows; on a busy machine they say more than wall time.
"""

import argparse
import datetime
import io
import itertools
import json
import multiprocessing
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from invmm_gate.curation.clusters import count_curve, find_clusters
from invmm_gate.curation.embedder import CopyScale
from invmm_gate.curation.forest import neighbour_forest
from invmm_gate.curation.intrinsic_dimension import intrinsic_dimension

DUPLICATED = 0.2
"""Share of the images that are noisy copies of one in a hundred."""


class Stages:
    """Times what it runs."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, str]] = []

    def run(self, name: str, work: Callable[[], object], say: Callable[[object], str] = lambda _: "") -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.rows.append((name, time.perf_counter() - wall, time.process_time() - cpu, say(result)))
        return result

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage that `probes build` tells of."""
        self._begun = (stage, time.perf_counter(), time.process_time())

    def advance(self, parts: int, *, in_flight: int = 0) -> None:
        pass

    def end(self) -> None:
        stage, wall, cpu = self._begun
        self.rows.append((f"of which: {stage}", time.perf_counter() - wall, time.process_time() - cpu, ""))

    def note(self, text: str) -> None:
        pass

    def report(self) -> dict[str, object]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"rows": self.rows, "peak": peak}


def directions(count: int, random: np.random.Generator) -> tuple[np.ndarray, CopyScale]:
    """Unit vectors, as SSCD gives them."""
    vectors = random.standard_normal((count, 512), dtype=np.float32)
    _plant_copies(vectors, random, noise=0.2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, CopyScale(kind="cosine", threshold=0.5, width=512)


def pixels(count: int, random: np.random.Generator) -> tuple[np.ndarray, CopyScale]:
    """Soft pictures of 32 x 32 pixels: 4 x 4 colours, enlarged."""
    line = np.clip(1 - np.abs((np.arange(32)[:, None] + 0.5) / 8 - 0.5 - np.arange(4)), 0, 1)
    line /= line.sum(axis=1, keepdims=True)
    enlarge = np.kron(line, line).T.astype(np.float32)  # (16, 1024)
    vectors = np.empty((count, 3072), np.float32)
    for start in range(0, count, 10_000):
        part = vectors[start : start + 10_000]
        part[:] = (random.random((len(part) * 3, 16), dtype=np.float32) @ enlarge).reshape(len(part), 3072)
    _plant_copies(vectors, random, noise=0.03)
    return vectors, CopyScale(kind="rmse", threshold=0.1, width=3072)


def _plant_copies(vectors: np.ndarray, random: np.random.Generator, *, noise: float) -> None:
    count = len(vectors)
    for row in range(int(count * DUPLICATED)):
        source = count - 1 - int(random.integers(0, max(count // 100, 1)))
        vectors[row] = vectors[source] + noise * random.standard_normal(vectors.shape[1], dtype=np.float32)


KINDS = {"512": directions, "3072": pixels}


def embeddings(kind: str, count: int) -> dict[str, object]:
    """Clusters, curve and dimension of synthetic embeddings."""
    import sklearn.cluster
    import sklearn.neighbors  # noqa: F401  (its import is not the stage's)

    stages = Stages()
    vectors, scale = KINDS[kind](count, np.random.default_rng(0))
    ones = np.ones(count, np.int64)
    levels = [scale.distance(value) for value in scale.sweep()]
    forest = stages.run(
        "all pairs, to a forest", lambda: neighbour_forest(vectors, levels), lambda found: f"{len(found.rows):,} edges"
    )
    stages.run(
        f"curve of {len(levels)} thresholds",
        lambda: count_curve(forest, ones),
        lambda found: f"{found[0].clusters:,} to {found[-1].clusters:,} clusters",
    )
    radius = scale.distance(scale.threshold)
    labels = forest.labels(forest.levels.index(radius), ones)
    found = stages.run(
        "clusters, diameter capped",
        lambda: find_clusters(vectors, labels, ones, cap=radius),
        lambda found: f"{len(found.clusters):,} clusters, {found.chained:,} split",
    )
    kept = np.ones(count, bool)
    for cluster in found.clusters:
        kept[list(cluster.members[1:])] = False
    stages.run(
        "intrinsic dimension",
        lambda: intrinsic_dimension(vectors[kept]),
        lambda found: ", ".join(f"{item.harmonic:.1f}" for item in found),
    )
    return stages.report()


def from_files(count: int, kept: str) -> dict[str, object]:
    """`probes build` on PNG images of 64 pixels with captions, end to end; `kept` says in files of which kind."""
    from invmm_gate.core.options import BuildOptions
    from invmm_gate.curation.build import curate
    from invmm_gate.curation.write import curation_record, planned_probes, write_curation

    today = datetime.date(2026, 1, 1)
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drawing = multiprocessing.get_context("spawn").Process(target=KEPT[kept], args=(root / "train", count))
        drawing.start()  # in a process of its own: its memory is not that of `probes build`
        drawing.join()
        source = root / ("train" if kept in ("folder", "saved") else f"train.{kept}")
        options = BuildOptions(folder=root / "probes", sources=(source,))
        found = stages.run(
            "read, embed, cluster, propose",
            lambda: curate(options, stages),
            lambda found: (
                f"{len(found.scan.items):,} images, {found.scan.captioned:,} captions,"
                f" {len(found.clustering.clusters):,} clusters"
            ),
        )
        planned = planned_probes(found, today=today)
        record = curation_record(found, planned, today=today)
        stages.run("write, validate, contact sheet", lambda: write_curation(found, planned, record))
    return stages.report()


def _drawn(count: int) -> Iterator[tuple[str, bytes]]:
    """Name and PNG file of each image."""
    random = np.random.default_rng(0)
    for number in range(count):
        if number % 5 or not number:  # else a noisy copy of the picture before
            coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            picture = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC))
        noise = random.integers(0, 9, picture.shape) if number % 5 == 0 else 0
        image = Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        yield f"{number:06d}", buffer.getvalue()


def _draw_folder(folder: Path, count: int) -> None:
    folder.mkdir()
    for name, data in _drawn(count):
        (folder / f"{name}.png").write_bytes(data)
        (folder / f"{name}.txt").write_text(f"picture {name}")


def _draw_tar(path: Path, count: int) -> None:
    with tarfile.open(path.with_suffix(".tar"), "w") as tar:
        for name, data in _drawn(count):
            for file, content in ((f"{name}.png", data), (f"{name}.txt", f"picture {name}".encode())):
                info = tarfile.TarInfo(file)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            tar.members = []


def _draw_parquet(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pq.ParquetWriter(path.with_suffix(".parquet"), pa.schema([("image", kind), ("text", pa.string())])) as writer:
        images = _drawn(count)
        while part := list(itertools.islice(images, 1000)):
            cells = [{"bytes": data, "path": f"{name}.png"} for name, data in part]
            table = pa.table([pa.array(cells, kind), [f"picture {name}" for name, _ in part]], names=["image", "text"])
            writer.write_table(table)


def _draw_saved(folder: Path, count: int) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.Dataset.from_generator(_rows, gen_kwargs={"count": count}, features=features, cache_dir=cache)
        rows.save_to_disk(folder)


def _rows(count: int) -> Iterator[dict[str, object]]:
    for name, data in _drawn(count):
        yield {"image": {"bytes": data, "path": None}, "text": f"picture {name}"}


KEPT = {"folder": _draw_folder, "tar": _draw_tar, "parquet": _draw_parquet, "saved": _draw_saved}
"""How images are kept -> what draws them so."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="synthetic embeddings")
    parser.add_argument("--files", type=int, default=5000, help="image files")
    parser.add_argument("--kept", choices=KEPT, default="folder", help="how the images of `files` are kept")
    parser.add_argument("--only", choices=[*KINDS, "files"], help="one part, as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        files, images = arguments.files, arguments.images
        of_files = arguments.only == "files"
        alone = from_files(files, arguments.kept) if of_files else embeddings(arguments.only, images)
        print(json.dumps(alone))
        return
    print("| data | stage | wall s | CPU s | found |\n|---|---|---:|---:|---|")
    for part in (*KINDS, "files"):
        numbers = ["--images", str(arguments.images), "--files", str(arguments.files)]
        done = subprocess.run(
            [sys.executable, __file__, "--only", part, *numbers], stdout=subprocess.PIPE, text=True, check=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        what = f"{arguments.files:,} files" if part == "files" else f"{arguments.images:,} x {part}"
        for name, wall, cpu, said in result["rows"]:
            print(f"| {what} | {name} | {wall:,.1f} | {cpu:,.1f} | {said} |", flush=True)
        print(f"| {what} | peak memory | | | {result['peak'] / 2**30:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
