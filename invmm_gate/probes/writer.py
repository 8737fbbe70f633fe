"""Write a whole new probe set at once: it is there, checked, or it is not."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import Fit, Group, Probe, ProbeSet
from invmm_gate.files.regular import write_probe_file
from invmm_gate.probes.edit import IMAGES
from invmm_gate.probes.fields import text_problem
from invmm_gate.probes.fitting import misfit
from invmm_gate.probes.images import (
    MAX_SIDE,
    MIN_SIDE,
    ONE_COLOUR,
    SUFFIXES,
    View,
    decode_image,
    decode_named,
    is_one_colour,
    off_limits,
)
from invmm_gate.probes.manifest import write_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProbe:
    """An image that becomes a probe, and its row of the manifest."""

    id: str
    data: bytes
    sha256: str
    group: Group
    category: str = ""
    caption: str = ""
    cluster: str = ""
    source: str = ""
    licence: str = ""
    added_on: str = ""
    fit: Fit = ""
    multiplicity: int = 0
    label: int | None = None


def check_new_folder(folder: Path) -> None:
    """Raises ProbeSetError unless nothing, or an empty folder, is there and its parent can be written to."""
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise ProbeSetError(
            f"{str(folder)!r} exists already",
            expected="a new folder: a probe set is never overwritten",
            do="name another folder, or move this one away",
        )
    if not folder.absolute().parent.is_dir():
        raise ProbeSetError(f"{str(folder.parent)!r} is not a folder", expected="a folder to create the probe set in")


def unfit_as_probe(data: bytes, *, name: str, view: View = "plain") -> str:
    """What `probes validate` would say of an image that cannot be a probe, without its name; empty if it can be one.

    Whether its shape fits is another question: `shape_problem`.
    """
    try:
        image = decode_image(data, name=name, view=view)
    except ProbeSetError as error:
        return str(error).removeprefix(f"{name!r} ")
    if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE:
        return off_limits(image.width, image.height)
    return ONE_COLOUR if is_one_colour(image) else ""


def shape_problem(data: bytes, *, name: str, fit: Fit, view: View = "plain") -> str:
    """What to say of a readable image whose shape asks how training fitted it, without its name; empty if none does."""
    image = decode_image(data, name=name, view=view)
    return misfit(fit, width=image.width, height=image.height, to=None)


def write_probe_set(folder: Path, probes: Iterable[NewProbe], files: Mapping[str, bytes]) -> ProbeSet:
    """Create `folder` with the probes, in their order, and further files; it appears in one step, and validated.

    Raises ProbeSetError, with nothing left behind, for a set that is not valid and for a full disk.
    """
    from invmm_gate.probes.validate import validate_probe_set

    check_new_folder(folder)
    folder = folder.absolute()
    draft = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.tmp")
    try:
        (draft / IMAGES).mkdir(parents=True)
        write_manifest(draft, tuple(_write_images(draft, probes)))
        written = validate_probe_set(draft)
        for name, data in files.items():
            write_probe_file(draft / name, data)
        os.rename(draft, folder)
    except OSError as error:
        raise ProbeSetError(
            f"{str(folder)!r} cannot be written ({error.strerror})", do="make room or name another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # not there any more after success
    return replace(written, folder=str(folder))


def _write_images(folder: Path, probes: Iterable[NewProbe]) -> Iterator[Probe]:
    for line, new in enumerate(probes, start=2):
        found = text_problem({"caption": new.caption, "source": new.source, "category": new.category})
        if found:
            raise ProbeSetError(f"{new.source!r} cannot be a probe: {found}")
        _, kind = decode_named(new.data, name=new.source)
        path = f"{IMAGES}/{new.id}{SUFFIXES[kind]}"
        write_probe_file(folder / path, new.data)
        yield Probe(
            id=new.id,
            path=path,
            sha256=new.sha256,
            group=new.group,
            line=line,
            category=new.category,
            caption=new.caption,
            cluster=new.cluster,
            source=new.source,
            licence=new.licence,
            added_on=new.added_on,
            fit=new.fit,
            multiplicity=new.multiplicity,
            label=new.label,
        )
