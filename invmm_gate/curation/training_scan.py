"""Go through the training data once: read, check, embed; what cannot be read is listed."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from itertools import islice
from typing import Final

import numpy as np

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Progress
from invmm_gate.curation.embedder import Embedder, Pixels
from invmm_gate.curation.embedding_store import EmbeddingStore
from invmm_gate.curation.neighbours import Indices, Vectors
from invmm_gate.curation.training_entries import Entry, LeftOut, TrainingData
from invmm_gate.probes.images import View, decode_image, pixels_sha256

AT_ONCE: Final = 32
"""Images that are decoded and embedded together."""
VALUES: Final = 5
"""Values of a column that a message shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Where an image lies, and what it was when it was read."""

    source: int
    position: int
    name: str
    sha256: bytes
    pixels: bytes
    """sha256 of the pixels at their full size: equal for exact copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """An image from after the training, not yet looked at."""

    source: int
    position: int
    name: str


@dataclass(slots=True, kw_only=True)
class Scan:
    """The findings in the training data."""

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    beside: list[LeftOut] = field(default_factory=list)
    """Captions, metadata and the like, which are no images."""
    later: list[Later] = field(default_factory=list)
    captioned: int = 0
    """Items with a caption."""
    marked: list[int] = field(default_factory=list)
    """Indices of the items that the sensitive column marks."""
    values: list[str] = field(default_factory=list)
    """What cells of that column say, at most VALUES + 1 that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An image as the metric gets it."""

    entry: Entry
    sha256: bytes = b""
    pixels_sha256: bytes = b""
    pixels: Pixels | None = None
    """None where they were embedded before."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """The training images without exact copies, in an order that does not depend on that of the data."""

    vectors: Vectors
    items: tuple[Item, ...]
    """For each row the one of its images whose name comes first."""
    multiplicity: Indices
    rows: Mapping[bytes, int]
    """Pixels -> row."""


def scan_training_data(
    options: BuildOptions,
    sources: Sequence[TrainingData],
    embedder: Embedder,
    store: EmbeddingStore,
    progress: Progress,
) -> Scan:
    """Embed every image of the training data; the options' view is for those that their EXIF orientation turns.

    Raises ProbeSetError without a readable one, at a broken one that is marked as sensitive, or, if strict, at any.
    """
    scan = Scan()
    progress.begin("read and embed", sum(source.count() for source in sources))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for number, source in enumerate(sources):
            for entries in in_parts(source.entries(), AT_ONCE):
                _note_values(scan, entries)
                seen = [_is_seen(scan, number, entry, options.trained_until) for entry in entries]
                used = [entry for entry, was_seen in zip(entries, seen, strict=True) if was_seen]
                prepared = list(pool.map(lambda entry: prepare(entry, embedder, store, options.view), used))
                _keep(scan, number, prepared, embedder=embedder, store=store, strict=options.strict)
                progress.advance(sum(not entry.beside for entry in entries))
    progress.end()
    if not scan.items:
        first = f"; the first: {scan.left_out[0].name!r} {scan.left_out[0].reason}" if scan.left_out else ""
        raise ProbeSetError(
            f"no training image could be used: {len(scan.left_out)} cannot be read, {len(scan.later)} are from after"
            f" the training{first}",
            expected="at least one readable PNG, JPEG or WebP image",
        )
    return scan


def in_parts(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Lists of at most `size`."""
    iterator = iter(entries)
    while part := list(islice(iterator, size)):
        yield part


def _note_values(scan: Scan, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.value is not None and entry.value not in scan.values and len(scan.values) <= VALUES:
            scan.values.append(entry.value)


def _is_seen(scan: Scan, source: int, entry: Entry, trained_until: date | None) -> bool:
    """Whether the model was trained on it; otherwise it is kept as a possible control."""
    if trained_until is None or entry.date is None or entry.date <= trained_until:
        return True
    if entry.marked:
        raise ProbeSetError(
            f"{entry.name!r} is marked as sensitive and dated {entry.date}",
            expected=f"sensitive images from the training, until {trained_until}",
        )
    scan.later.append(Later(source=source, position=entry.position, name=entry.name))
    return False


def prepare(entry: Entry, embedder: Embedder, store: EmbeddingStore | None = None, view: View = "plain") -> Prepared:
    """Decode an image and bring it to the metric's size, unless its embedding is there already."""
    if entry.problem:
        return Prepared(entry=entry, problem=entry.problem)
    digest = sha256(entry.data).digest()
    known = store.pixels_of(digest) if store else None
    if known is not None:
        return Prepared(entry=entry, sha256=digest, pixels_sha256=known)
    try:
        image = decode_image(entry.data, name=entry.name, view=view)
    except ProbeSetError as error:
        return Prepared(entry=entry, problem=str(error).removeprefix(f"{entry.name!r} "))
    return Prepared(
        entry=entry,
        sha256=digest,
        pixels_sha256=bytes.fromhex(pixels_sha256(image)),
        pixels=embedder.fitted(image),
    )


def _keep(
    scan: Scan,
    source: int,
    prepared: Sequence[Prepared],
    *,
    embedder: Embedder,
    store: EmbeddingStore,
    strict: bool,
) -> None:
    scan.beside += [LeftOut(name=found.entry.name, reason=found.problem) for found in prepared if found.entry.beside]
    broken = [found for found in prepared if found.problem and not found.entry.beside]
    if broken and strict:
        raise ProbeSetError(f"{broken[0].entry.name!r} {broken[0].problem}", do="mend it, or leave out --strict")
    for found in broken:
        if found.entry.marked:
            raise ProbeSetError(
                f"{found.entry.name!r} is marked as sensitive and cannot be used: {found.problem}",
                do="mend it, or take off its mark",
            )
    scan.left_out += [LeftOut(name=found.entry.name, reason=found.problem) for found in broken]
    usable = [found for found in prepared if not found.problem]
    scan.marked += [len(scan.items) + number for number, found in enumerate(usable) if found.entry.marked]
    scan.captioned += sum(bool(found.entry.caption) for found in usable)
    scan.items += [
        Item(
            source=source,
            position=found.entry.position,
            name=found.entry.name,
            sha256=found.sha256,
            pixels=found.pixels_sha256,
        )
        for found in usable
    ]
    new = {
        found.pixels_sha256: found.pixels
        for found in usable
        if found.pixels is not None and not store.holds(found.pixels_sha256)
    }
    vectors = embedder.embed(np.stack(list(new.values()))) if new else np.empty((0, embedder.scale.width), np.float32)
    store.add([(found.sha256, found.pixels_sha256) for found in usable], list(new), vectors)


def distinct(scan: Scan, store: EmbeddingStore) -> Distinct:
    """Collapse exact copies. The rows are sorted by content, so that the order of the data decides nothing."""
    first: dict[bytes, Item] = {}
    counts: dict[bytes, int] = {}
    for item in scan.items:
        known = first.get(item.pixels)
        if known is None or (item.name, item.sha256) < (known.name, known.sha256):
            first[item.pixels] = item
        counts[item.pixels] = counts.get(item.pixels, 0) + 1
    pixels = sorted(first)
    return Distinct(
        vectors=store.vectors(pixels),
        items=tuple(first[shown] for shown in pixels),
        multiplicity=np.array([counts[shown] for shown in pixels], np.int64),
        rows={shown: row for row, shown in enumerate(pixels)},
    )


def read_again(sources: Sequence[TrainingData], items: Iterable[Item]) -> dict[tuple[int, int], Entry]:
    """The entries of chosen items by (source, position). Raises ProbeSetError for one that changed meanwhile."""
    wanted = {(item.source, item.position): item for item in items}
    found: dict[tuple[int, int], Entry] = {}
    for number, source in enumerate(sources):
        positions = {position for at, position in wanted if at == number}
        for entry in source.entries(positions) if positions else ():
            key = (number, entry.position)
            if sha256(entry.data).digest() != wanted[key].sha256:
                raise ProbeSetError(f"{entry.name!r} changed while the probe set was built", do="start again")
            found[key] = entry
    return found
