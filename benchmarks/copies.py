"""Which alterations of a training image still let the gate see its copies, for each copy metric.

    python benchmarks/copies.py model --model runs/ckpt --probes probes
    python benchmarks/copies.py photos [--cifar FILE]
    python benchmarks/copies.py probes --probes probes --alter "JPEG of quality 50" --out altered
    python benchmarks/copies.py tables [--write]

`model`: samples of the demo's memorizing model that are copies of a planted image by `pixel_rmse` at 0.1; then the
probe is the altered image, and the table says how many of these samples are still copies of it. `photos`: tiles of
photographs that scikit-image and scikit-learn ship, at several sizes: an unaltered tile against the altered one, and
how many pairs of different tiles pass for copies; with FILE (CIFAR-10, arrays as benchmarks/ladder has them) pairs of
its images too. It needs scikit-image and the extras `curation` and `sscd`. The thresholds of encoders are calibrated on
the same tiles. `probes` writes a probe set in which each private image is altered in that way, for a whole
`invmm-gate check`. The others write benchmarks/copies.csv; `tables` makes docs/studies/copies.md of it. One thread.
"""

import argparse
import csv
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))

from invmm_gate.core.options import NewProbes
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.probes.edit import add_probes, init_probe_set
from invmm_gate.probes.images import load_pixels
from invmm_gate.probes.validate import validate_probe_set
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.calibrate import calibrate
from invmm_gate.similarity.encoders import PACKAGED, encoder_metric
from invmm_gate.similarity.pixel import PixelRmse

ROOT: Final = Path(__file__).parents[1]
RECORDS: Final = ROOT / "benchmarks/copies.csv"
PAGE: Final = ROOT / "docs/studies/copies.md"
SAMPLES: Final = 2048
BATCH: Final = 64
LEAST_CONTRAST: Final = 25
"""Of 255. A tile of plain sky is a copy of every other one, whatever the metric."""
SIDES: Final = (16, 32, 64, 256)
FALSE_MATCHES: Final = 0.005
"""Share of pairs of different tiles at which encoders are calibrated: the 30 tiles of 256 pixels make 435 pairs."""
CARRIED_OVER: Final = 0.5
"""The cosine at which SSCD's authors and the shipped policies call a sample a copy."""
ALIGNED_UP_TO: Final = 64
SHIPPED: Final = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg",
)  # fmt: skip
"""Photographs in scikit-image's wheel that are in the public domain or under CC0, as its documentation says."""
METRICS: Final[tuple[CopyMetric, ...]] = (PixelRmse(), PixelAligned())
Picture = Image.Image


def _shifted(pixels: float) -> Callable[[Picture], Picture]:
    """To the right; what comes in at the edge is the edge."""

    def shift(image: Picture) -> Picture:
        wide = np.pad(np.asarray(image), ((0, 0), (4, 4), (0, 0)), mode="edge")
        moved = Image.fromarray(wide).transform(
            (image.width + 8, image.height), Image.Transform.AFFINE, (1, 0, -pixels, 0, 1, 0), Image.Resampling.BILINEAR
        )
        return moved.crop((4, 0, 4 + image.width, image.height))

    return shift


def _jpeg(quality: int) -> Callable[[Picture], Picture]:
    def compress(image: Picture) -> Picture:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return compress


def _cropped(share: float) -> Callable[[Picture], Picture]:
    """The middle, back at the size of the whole."""

    def crop(image: Picture) -> Picture:
        edge = [side * (1 - share) / 2 for side in image.size]
        box = (edge[0], edge[1], image.width - edge[0], image.height - edge[1])
        return image.resize(image.size, Image.Resampling.BILINEAR, box=box)

    return crop


def _framed(image: Picture) -> Picture:
    return ImageOps.expand(image.crop((1, 1, image.width - 1, image.height - 1)), 1, fill=0)


def _barred(image: Picture) -> Picture:
    """A black bar over the lowest sixth."""
    other = image.copy()
    other.paste((0, 0, 0), (0, image.height * 5 // 6, image.width, image.height))
    return other


ALTERATIONS: Final[dict[str, Callable[[Picture], Picture]]] = {
    "nothing": lambda image: image,
    "moved by half a pixel": _shifted(0.5),
    "moved by 1 pixel": _shifted(1),
    "moved by 2 pixels": _shifted(2),
    "JPEG of quality 50": _jpeg(50),
    "JPEG of quality 20": _jpeg(20),
    "20 % brighter": lambda image: image.point(lambda value: min(int(value * 1.2), 255)),
    "in grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "mirrored": ImageOps.mirror,
    "cropped to 90 %": _cropped(0.9),
    "cropped to 80 %": _cropped(0.8),
    "red and blue exchanged": lambda image: Image.fromarray(np.asarray(image)[..., ::-1].copy()),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "inverted": ImageOps.invert,
    "a black bar": _barred,
    "a black frame of 1 pixel": _framed,
}


def tensors(images: Sequence[Picture | NDArray[np.uint8]]) -> Tensor:
    """(row, 3, side, side) in [-1, 1]."""
    arrays = [np.asarray(image, dtype=np.uint8).copy() for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def model_rows(model_folder: Path, probes: Path) -> Iterator[tuple[Any, ...]]:
    """Copies of planted images among samples of the model, and how many stay copies of the altered image."""
    model, probe_set = load_model(inspect_checkpoint(model_folder)), validate_probe_set(probes)
    height, width = model.image_size
    planted = [probe for probe in probe_set.probes if probe.id.startswith("planted")]
    pictures = [Image.fromarray(load_pixels(probe_set, probe, height=height, width=width)) for probe in planted]
    sampler = GridSampler(model)
    drawn = [
        sampler.images([stream(0, "copies", number) for number in range(begin, begin + BATCH)], steps=50)
        for begin in range(0, SAMPLES, BATCH)
    ]
    samples, plain = torch.cat(drawn), PixelRmse()
    near = {
        place: samples[plain.is_copy(plain.compare(plain.embed(samples), plain.embed(tensors([picture]))))]
        for place, picture in enumerate(pictures)
    }
    for metric in METRICS:
        for name, alter in ALTERATIONS.items():
            kept = sum(_copies(metric, near[place], alter(picture)) for place, picture in enumerate(pictures))
            yield "model", height, metric.name, metric.threshold, name, kept, sum(map(len, near.values()))


def _copies(metric: CopyMetric, samples: Tensor, reference: Picture) -> int:
    if not len(samples):
        return 0
    values = metric.compare(metric.embed(samples), metric.embed(tensors([reference])))
    return int(metric.is_copy(values).sum())


def photo_rows() -> Iterator[tuple[Any, ...]]:
    """Tiles of photographs against themselves altered, and pairs of different images."""
    for side in SIDES:
        owners, tiles = photo_tiles(side)
        for metric in (*_pixel_metrics(side), *_encoders(side, CARRIED_OVER)):
            for name, passed, pairs in _pairs(metric, tensors(tiles), owners):
                yield "photographs", side, metric.name, metric.threshold, name, passed, pairs
        for metric in (*_pixel_metrics(side), *_calibrated(side, tensors(tiles))):
            for name, alter in ALTERATIONS.items():
                kept = sum(_copies(metric, tensors([tile]), alter(tile)) for tile in tiles)
                yield "photographs", side, metric.name, f"{metric.threshold:.3g}", name, kept, len(tiles)


def cifar_rows(file: Path) -> Iterator[tuple[Any, ...]]:
    """Pairs of different images of CIFAR-10."""
    held = np.load(file)["heldout"][:400]
    for side in (16, 32):
        images = tensors([Image.fromarray(each).resize((side, side), Image.Resampling.BOX) for each in held])
        for metric in METRICS:
            (found, _) = _pairs(metric, images, range(len(images)))
            yield "CIFAR-10", side, metric.name, metric.threshold, *found


def _pixel_metrics(side: int) -> tuple[CopyMetric, ...]:
    return METRICS if side <= ALIGNED_UP_TO else METRICS[:1]


def _encoders(side: int, threshold: float) -> list[CopyMetric]:
    return [encoder_metric(name=name, threshold=threshold, image_size=(side, side))[0] for name in PACKAGED]


def _calibrated(side: int, tiles: Tensor) -> Iterator[CopyMetric]:
    """The encoders, each at its own threshold."""
    for metric, name in zip(_encoders(side, CARRIED_OVER), PACKAGED, strict=True):
        found = calibrate(metric, tiles, false_match_rate=FALSE_MATCHES)
        print(f"{side} px: {found}")
        yield encoder_metric(name=name, threshold=found.threshold, image_size=(side, side))[0]


def photo_tiles(side: int) -> tuple[list[int], list[Picture]]:
    """Squares of 106 pixels, or of `side`, with some contrast and apart from each other, at the size asked for.

    The number of each tile's photograph, and the tiles.
    """
    edge = max(106, side)  # four rows of six from 427 x 640
    tiles = [
        (number, Image.fromarray(photo[row : row + edge, column : column + edge]))
        for number, photo in enumerate(_photographs())
        for row in range(0, photo.shape[0] - edge + 1, edge)
        for column in range(0, photo.shape[1] - edge + 1, edge)
    ]
    fitted = [(number, tile.resize((side, side), Image.Resampling.LANCZOS)) for number, tile in tiles]
    kept = [each for each in fitted if np.asarray(ImageOps.grayscale(each[1])).std() >= LEAST_CONTRAST]
    return [number for number, _ in kept], [tile for _, tile in kept]


def _photographs() -> Iterator[NDArray[np.uint8]]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    yield from load_sample_images().images
    for name in SHIPPED:
        yield np.asarray(Image.open(Path(skimage.data.__file__).parent / name).convert("RGB"))


def _pairs(metric: CopyMetric, images: Tensor, owners: Sequence[int]) -> list[tuple[str, int, int]]:
    """Ordered pairs of different images that pass for copies, of how many; of all, and of other owners alone."""
    features, owner = metric.embed(images), torch.tensor(owners)
    rows = [metric.compare(features, features[place : place + 1]) for place in range(len(images))]
    passed = metric.is_copy(torch.stack(rows))
    kinds = {"another image": ~torch.eye(len(images), dtype=torch.bool), "another photograph": owner != owner[:, None]}
    return [(name, int((passed & pairs).sum()), int(pairs.sum())) for name, pairs in kinds.items()]


def write_altered(source: Path, name: str, out: Path) -> None:
    """The probe set again, with each image that is no control altered; its files are PNG, so that nothing else is."""
    probe_set = validate_probe_set(source)
    init_probe_set(out)
    with tempfile.TemporaryDirectory() as scratch:
        for probe in probe_set.probes:
            image = Image.open(source / probe.path).convert("RGB")
            path = Path(scratch) / f"{probe.id}.png"
            (image if probe.group == "control" else ALTERATIONS[name](image)).save(path)
            add_probes(out, [path], NewProbes(group=probe.group, cluster=probe.cluster or None))


def write(kinds: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Into the records, in place of those of these kinds."""
    kept = [row for row in _read() if row[0] not in kinds] if RECORDS.exists() else []
    found = [[str(cell) for cell in row] for row in rows]
    with RECORDS.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("images", "side", "metric", "threshold", "alteration", "copies", "of"))
        lines.writerows(kept + found)


def _read() -> list[list[str]]:
    with RECORDS.open(newline="") as file:
        return list(csv.reader(file))[1:]


def kept_table(images: str, side: int) -> Iterator[str]:
    """Share of copies that are still seen, by alteration."""
    rows = [row for row in _read() if row[:2] == [images, str(side)] and row[4] in ALTERATIONS]
    columns = list(dict.fromkeys((metric, threshold) for _, _, metric, threshold, *_ in rows))
    cells = {(row[2], row[4]): f"{int(row[5]) / int(row[6]):.0%}" for row in rows}
    yield f"| the probe is one of {rows[0][6]} images | " + " | ".join(f"{name} at {at}" for name, at in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for name in ALTERATIONS:
        yield f"| {name} | " + " | ".join(cells[metric, name] for metric, _ in columns) + " |"


def chance_table() -> Iterator[str]:
    """Pairs of different images that pass for copies."""
    yield "| images | side | metric | copy at | the pair is with | pairs | passed |"
    yield "|---|---|---|---|---|---|---|"
    for images, side, metric, threshold, name, passed, pairs in _read():
        if name not in ALTERATIONS:
            share = f"{int(passed) / int(pairs):.2%} ({passed})"
            yield f"| {images} | {side} | {metric} | {threshold} | {name} | {int(pairs):,} | {share} |"


TABLES: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "model": partial(kept_table, "model", 16),
    **{f"photographs {side}": partial(kept_table, "photographs", side) for side in SIDES},
    "by chance": chance_table,
}


def with_tables(page: str) -> str:
    """The page with its tables as the records give them."""
    for name, lines in TABLES.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        head, rest = page.split(begin)
        page = head + begin + "\n".join(lines()) + "\n" + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    """One of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    model = parts.add_parser("model")
    model.add_argument("--model", type=Path, required=True)
    model.add_argument("--probes", type=Path, required=True)
    parts.add_parser("photos").add_argument("--cifar", type=Path)
    altered = parts.add_parser("probes")
    altered.add_argument("--probes", type=Path, required=True)
    altered.add_argument("--alter", choices=ALTERATIONS, required=True)
    altered.add_argument("--out", type=Path, required=True)
    parts.add_parser("tables").add_argument("--write", action="store_true")
    options, began = parser.parse_args(), time.process_time()
    torch.set_num_threads(1)
    if options.part == "model":
        write(["model"], model_rows(options.model, options.probes))
    elif options.part == "photos":
        write(["photographs"], photo_rows())
        if options.cifar is not None:
            write(["CIFAR-10"], cifar_rows(options.cifar))
    elif options.part == "probes":
        write_altered(options.probes, options.alter, options.out)
    elif options.write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(*(line for lines in TABLES.values() for line in ("", *lines())), sep="\n")
    print(f"{options.part}: {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
