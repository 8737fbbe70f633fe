"""Start a probe set and add images to it: all of them or none. Images are read twice, so that none stays in memory."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePath

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import Probe
from invmm_gate.files.lock import probe_set_lock
from invmm_gate.files.regular import IMAGE_LIMIT, read_probe_file, write_probe_file
from invmm_gate.probes.fields import label_problem, multiplicity_problem, name_key, picture_key, text_problem
from invmm_gate.probes.fitting import misfit
from invmm_gate.probes.images import SUFFIXES, View, both_views, check_sha256, decode_named
from invmm_gate.probes.manifest import CSV_NAME, PARQUET_NAME, read_manifest, read_rows, write_manifest

IMAGES = "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """An image as it was found."""

    name: str
    """Its file, as messages say it."""
    data: bytes
    caption: str = ""
    """Its own; empty where it has none."""
    label: int | None = None
    """Its own class; None where it has none."""


Read = Callable[[Path], Iterator[Original]]
"""The images at a place: that of a file, or all in a folder. Raises ProbeSetError for one that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """An image to be copied into the set."""

    original: int
    """The number of the original among all that are read, from 0."""
    probe: Probe
    view: View = "plain"
    """What is stored of an image that is turned; `plain` is the file itself."""


def init_probe_set(folder: Path) -> None:
    """Create the folder, its images/ and a manifest.csv with the header alone.

    Raises ProbeSetError for a folder whose manifest already lists probes; nothing is overwritten.
    """
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProbeSetError(
            f"{str(folder / IMAGES)!r} cannot be created ({error.strerror})", expected="a folder to write to"
        ) from error
    with probe_set_lock(folder):
        if any((folder / name).exists() for name in (CSV_NAME, PARQUET_NAME)):
            manifest = read_rows(folder)
            if manifest.rows:
                raise ProbeSetError(
                    f"{manifest.place()} already lists {len(manifest.rows)} probes",
                    expected="a folder without a probe set",
                    do=f"add to it with `invmm-gate probes add {folder} IMAGE... --group GROUP`",
                )
        write_manifest(folder, ())


def read_file(image: Path) -> Iterator[Original]:
    """The image in a file. Raises ProbeSetError."""
    yield Original(name=str(image), data=_read_source(image))


def add_probes(folder: Path, images: Sequence[Path], new: NewProbes, *, read: Read = read_file) -> tuple[Probe, ...]:
    """Copy images into the set, byte for byte, and list them in its manifest.

    The id is the file's name, made safe and unique; `new.caption` and `new.label` are for images that have none.
    Raises ProbeSetError, with the set unchanged, for an image that cannot be a probe, that the set already holds, or
    whose shape asks for a `fit`; and for a multiplicity of anything but canaries.
    """
    label = "" if new.label is None else str(new.label)
    found = multiplicity_problem(str(new.multiplicity or ""), new.group) or label_problem(label)
    if found:
        raise ProbeSetError(found)
    with probe_set_lock(folder):
        present = read_manifest(folder)
        template = Probe(
            id="",
            path="",
            sha256="",
            group=new.group,
            line=0,
            category=new.category,
            caption=new.caption,
            cluster=new.cluster,
            source=new.source,
            licence=new.licence,
            added_on=new.added_on.isoformat() if new.added_on else "",
            fit=new.fit or "",
            multiplicity=new.multiplicity or 0,
            label=new.label,
        )
        originals = partial(_originals, images, read)
        copies = _plan(folder, originals(), present=present, template=template, both=new.orientation == "both")
        _copy_all(folder, copies, originals(), present)
        return read_manifest(folder)[len(present) :]


def join_probe_set(folder: Path, other: Path) -> tuple[Probe, ...]:
    """Add every probe of another probe set, as its manifest has it; an id that is taken gets a number behind it.

    Raises ProbeSetError, with both sets unchanged, where the other set is not valid, where the set already holds an
    image of it, and where both have a cluster of one name: their pictures would pass for the same.
    """
    from invmm_gate.probes.validate import validate_probe_set

    joined = validate_probe_set(other).probes
    with probe_set_lock(folder):
        present = read_manifest(folder)
        known = {picture_key(probe.sha256, probe.group): probe.id for probe in present}
        clusters = {probe.cluster for probe in present} - {""}
        taken = {name for probe in present for name in _names(probe.id)} | _stems(folder / IMAGES)
        copies: list[_Copy] = []
        for number, probe in enumerate(joined):
            _check_joined(probe, other, known=known, clusters=clusters)
            new = unique_id(probe.id, taken)
            taken |= _names(new)
            path = f"{IMAGES}/{new}{Path(probe.path).suffix}"
            copies.append(_Copy(original=number, probe=replace(probe, id=new, path=path)))
        originals = _originals([other / probe.path for probe in joined], read_file)
        _copy_all(folder, copies, originals, present)
        return read_manifest(folder)[len(present) :]


def _check_joined(probe: Probe, other: Path, *, known: Mapping[str, str], clusters: Collection[str]) -> None:
    if (key := picture_key(probe.sha256, probe.group)) in known:
        raise ProbeSetError(
            f"{str(other / probe.path)!r} is already in the probe set, as probe {known[key]!r}",
            expected="each image once",
            do="remove its row from one of the sets; nothing was added",
        )
    if probe.cluster in clusters:
        raise ProbeSetError(
            f"both sets have the cluster {probe.cluster[:100]!r}, in {other} of probe {probe.id!r}",
            expected="clusters of different names, as probes of one cluster show the same picture",
            do="rename it in one of the manifests; nothing was added",
        )


def _originals(images: Iterable[Path], read: Read) -> Iterator[Original]:
    for image in images:
        yield from read(image)


def _plan(
    folder: Path, originals: Iterator[Original], *, present: Iterable[Probe], template: Probe, both: bool
) -> list[_Copy]:
    """Look at every image before anything is written."""
    known = {picture_key(probe.sha256, probe.group): f"as probe {probe.id!r}" for probe in present}
    taken = {name for probe in present for name in _names(probe.id)} | _stems(folder / IMAGES)
    copies: list[_Copy] = []
    for number, original in enumerate(originals):
        identifier = unique_id(PurePath(original.name).stem, taken)
        for copy in _copies(original, number, identifier, template=template, both=both):
            key = picture_key(copy.probe.sha256, copy.probe.group)
            if key in known:
                raise ProbeSetError(
                    f"{original.name!r} is already in the probe set, {known[key]}",
                    expected="each image once",
                    do="leave it out; nothing was added",
                )
            taken |= _names(copy.probe.id)
            known[key] = f"as {original.name!r} of this call"
            copies.append(copy)
    return copies


def _copies(original: Original, number: int, identifier: str, *, template: Probe, both: bool) -> Iterator[_Copy]:
    """The one copy of an image, or those of both its orientations. Raises ProbeSetError."""
    stored: dict[View, bytes] = (both_views(original.data, name=original.name) if both else {}) or {
        "plain": original.data
    }
    turned = "plain" not in stored
    caption = original.caption or template.caption
    for view, content in stored.items():
        shown, kind = decode_named(content, name=original.name)
        found = misfit(template.fit, width=shown.width, height=shown.height, to=None) or text_problem(
            {"caption": caption}
        )
        if found:
            raise ProbeSetError(f"{original.name!r} {found}")
        new = f"{identifier}-{view}" if turned else identifier
        probe = replace(
            template,
            id=new,
            path=f"{IMAGES}/{new}{SUFFIXES[kind]}",
            sha256=hashlib.sha256(content).hexdigest(),
            caption=caption,
            label=template.label if original.label is None else original.label,
            cluster=template.cluster or (identifier if turned else ""),
        )
        yield _Copy(original=number, probe=probe, view=view)


def _read_source(image: Path) -> bytes:
    """Links in the user's own folders are followed here: what they lead to is copied, and its bytes are checked."""
    try:
        return read_probe_file(image.resolve(), limit=IMAGE_LIMIT)
    except (ProbeSetError, OSError, RuntimeError, ValueError) as error:
        raise ProbeSetError(f"{str(image)!r} cannot be added: {error}") from error


def _contents(copies: Iterable[_Copy], originals: Iterable[Original]) -> Iterator[tuple[_Copy, bytes]]:
    """Each copy with its bytes, checked against those that were planned. Raises ProbeSetError."""
    planned = {number: list(group) for number, group in groupby(copies, key=attrgetter("original"))}
    for number, original in enumerate(originals):
        for copy in planned.pop(number, ()):
            views = {"plain": original.data} if copy.view == "plain" else both_views(original.data, name=original.name)
            check_sha256(views[copy.view], copy.probe.sha256, name=original.name)
            yield copy, views[copy.view]
    if planned:
        raise ProbeSetError(
            f"{len(planned)} images went away while they were added", expected="images that nobody changes meanwhile"
        )


def _stems(folder: Path) -> set[str]:
    return {name for path in folder.iterdir() for name in _names(path.stem)} if folder.is_dir() else set()


def _names(identifier: str) -> set[str]:
    """What an id takes: its own name, and of an image in both orientations the name that they share."""
    own = name_key(identifier)
    return {own, own.removesuffix("-stored"), own.removesuffix("-upright")}


def unique_id(stem: str, taken: set[str]) -> str:
    """A probe id made of a file name: accents and odd characters dropped, `-2`, `-3` appended until it is free."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:100].rstrip("._-") or "probe"
    number, candidate = 1, base
    while name_key(candidate) in taken:
        number += 1
        candidate = f"{base}-{number}"
    return candidate


def _copy_all(folder: Path, copies: Sequence[_Copy], originals: Iterable[Original], present: Sequence[Probe]) -> None:
    """Copy, then replace the manifest, which is what makes the images part of the set."""
    written: list[Path] = []
    try:
        (folder / IMAGES).mkdir(exist_ok=True)
        for copy, data in _contents(copies, originals):
            written.append(folder / copy.probe.path)
            write_probe_file(written[-1], data)
        write_manifest(folder, [*present, *(copy.probe for copy in copies)])
    except OSError as error:
        raise ProbeSetError(
            f"{str(folder / IMAGES)!r} cannot be written ({error.strerror})",
            expected="a folder that this user may write to, with room on the disk",
        ) from error
    finally:  # after an error or an interruption, what the manifest does not list was not added
        listed = {probe.path for probe in read_manifest(folder)}
        for path in written:
            if path.relative_to(folder).as_posix() not in listed:
                path.unlink(missing_ok=True)
