"""Open probe images safely: bytes read once, checked and decoded from memory, nothing silently converted or turned."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import Fit, Probe, ProbeSet
from invmm_gate.files.git_lfs import FETCH, is_lfs_pointer
from invmm_gate.files.regular import IMAGE_LIMIT, read_probe_file
from invmm_gate.probes.fields import path_problem
from invmm_gate.probes.fitting import fit, middle_of, refit
from invmm_gate.probes.manifest import manifest_name

PIXEL_LIMIT: Final = 64_000_000
"""Width times height; a decoded image takes at most four bytes for each."""
SUFFIXES: Final = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
"""Pillow's names of the formats that are opened, and the suffix that a copy gets."""
_OPENED: Final = ("PNG", "JPEG", "WEBP")
_SEVERAL: Final = "MPO"
"""What Pillow calls a JPEG that phones append further pictures to; training reads the first, as Image.open does."""
MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
"""Pillow modes that become 8-bit RGB without a change of colour."""
MIN_SIDE: Final = 8
MAX_SIDE: Final = 16_384
"""Pixels of a side of a probe image."""
ONE_COLOUR: Final = "has one colour only; expected a picture: any model can make this one"


View = Literal["plain", "stored", "upright"]
"""How an image that its EXIF orientation turns is read: not at all, as Image.open alone reads it, or turned."""
_FORMATS: Final = "a whole PNG, JPEG or WebP image"
_PIXELS: Final = f"at most {PIXEL_LIMIT / 1e6:.0f} million pixels"


def open_image(path: Path, *, expected_sha256: str | None) -> Image.Image:
    """The image in RGB, of a JPEG with several pictures the first; colour profiles are not applied.

    The sha256 is that of the very bytes that are decoded. Raises ProbeSetError for a file that is missing, linked,
    over 64 MB, changed, not a still 8-bit PNG, JPEG or WebP, over 64 million pixels, damaged, see-through, or turned by
    its EXIF orientation.
    """
    data = read_probe_file(path, limit=IMAGE_LIMIT)
    if expected_sha256 is not None:
        check_sha256(data, expected_sha256, name=str(path))
    return decode_image(data, name=str(path))


def check_sha256(data: bytes, expected_sha256: str, *, name: str) -> None:
    """Raises ProbeSetError when the bytes are not those that the manifest names."""
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected_sha256:
        raise ProbeSetError(changed(name, expected_sha256, actual))


def changed(name: str, expected_sha256: str, actual: str) -> str:
    """What to say of a file that is not the one that was added."""
    return (
        f"{name!r} changed since it was added: sha256 {actual[:12]}...; expected {expected_sha256[:12]}...; "
        "restore the file, or remove its row and add it again"
    )


def decode_image(data: bytes, *, name: str, view: View = "plain") -> Image.Image:
    """`open_image` for bytes already read; `view` is for an image that its EXIF orientation turns."""
    return decode_named(data, name=name, view=view)[0]


def decode_named(data: bytes, *, name: str, view: View = "plain") -> tuple[Image.Image, str]:
    """The image in RGB and Pillow's name of its format. Raises ProbeSetError."""
    with _opened(data, name) as image:
        if view == "plain":
            _refuse_turned(image, name)
        return _seen(image, view), str(image.format)


def both_views(data: bytes, *, name: str) -> dict[View, bytes]:
    """The images, as PNG files, that training may have read of one that is turned; empty for any other image.

    Where turning it changes no pixel there is only one. Raises ProbeSetError.
    """
    with _opened(data, name) as image:
        if _orientation(image) == 1:
            return {}
        stored, upright = _seen(image, "stored"), _seen(image, "upright")
    found: dict[View, bytes] = {"stored": _png(stored)}
    return found if pixels_sha256(stored) == pixels_sha256(upright) else found | {"upright": _png(upright)}


def _seen(image: Image.Image, view: View) -> Image.Image:
    return (ImageOps.exif_transpose(image) if view == "upright" else image).convert("RGB")


def _png(image: Image.Image) -> bytes:
    """The pixels and nothing else: no EXIF by which a reader could turn them."""
    buffer = io.BytesIO()
    image.info.clear()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """The checked and decoded image, in its own mode. Raises ProbeSetError."""
    try:
        # Pillow warns before it raises; the limit here is below both of its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_OPENED) as image:
                _check_header(image, name)
                image.load()
                _check_opaque(image, name)
                yield image
    except ProbeSetError:
        raise
    except Image.DecompressionBombError as error:
        raise ProbeSetError(f"{name!r} is too large ({error})", expected=_PIXELS) from error
    except UnidentifiedImageError as error:
        if is_lfs_pointer(data):
            raise ProbeSetError(
                f"{name!r} is a Git LFS pointer, not the image itself", expected=_FORMATS, do=FETCH
            ) from error
        raise ProbeSetError(f"{name!r} is not an image that can be opened", expected=_FORMATS) from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise ProbeSetError(
            f"{name!r} is damaged or cut short ({str(error)[:120] or type(error).__name__})", expected=_FORMATS
        ) from error


def _check_header(image: Image.Image, name: str) -> None:
    """All that can be refused before a pixel is decoded."""
    if image.width * image.height > PIXEL_LIMIT:
        raise ProbeSetError(f"{name!r} has {image.width} x {image.height} pixels", expected=_PIXELS)
    frames = getattr(image, "n_frames", 1)
    if frames != 1 and image.format != _SEVERAL:
        raise ProbeSetError(f"{name!r} holds {frames} images", expected="one still image", do="save the one you mean")
    # Pillow cuts 16-bit RGB down to 8 while it decodes: only the raw mode of the tile tells.
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    if image.mode not in MODES or any(";16" in raw for raw in raw_modes):
        depth = next((raw for raw in raw_modes if ";16" in raw), image.mode)
        raise ProbeSetError(
            f"{name!r} has pixels of the kind {depth}",
            expected="8-bit grey, palette or RGB (CMYK and 16-bit pixels cannot become RGB without a choice)",
            do="convert it as it was converted for training",
        )


def _check_opaque(image: Image.Image, name: str) -> None:
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ProbeSetError(
            f"{name!r} is partly see-through",
            expected="an image without transparent pixels",
            do="lay it on the background that was used for training",
        )


def _orientation(image: Image.Image) -> int:
    """2 to 8 if `exif_transpose` turns or mirrors the image, from EXIF or XMP; else 1. After all of it was read."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return next((turned for turned in range(2, 9) if found == turned), 1)


def _refuse_turned(image: Image.Image, name: str) -> None:
    found = _orientation(image)
    if found != 1:
        raise ProbeSetError(
            f"{name!r} has EXIF orientation {found}, by which some training turns an image and most does not",
            expected="an image without an orientation, or with 1",
            do="save it as your training read it, or measure both: --orientation both of `probes add` or `build`",
        )


def pixels_sha256(image: Image.Image) -> str:
    """Equal for images with the very same pixels, whatever their files."""
    return hashlib.sha256(f"{image.width}x{image.height};".encode() + image.tobytes()).hexdigest()


def is_one_colour(image: Image.Image) -> bool:
    """Whether an RGB image shows nothing."""
    extrema: list[tuple[float, float]] = [band.getextrema() for band in image.split()]  # type: ignore[misc]
    return all(low == high for low, high in extrema)


def off_limits(width: object, height: object) -> str:
    """What to say of an image with a side that no probe may have."""
    return f"has {width} x {height} pixels; expected {MIN_SIDE} to {MAX_SIDE} a side"


def load_pixels(probe_set: ProbeSet, probe: Probe, *, height: int, width: int) -> NDArray[np.uint8]:
    """The probe as the model would have seen it, uint8 (height, width, 3), by its own `fit`.

    Raises ProbeSetError for a file that changed since validation and for an image that does not fit height x width.
    """
    with _of_probe(probe_set, probe) as image:
        return np.array(fit(image, height=height, width=width, how=probe.fit), dtype=np.uint8)


def load_refitted(
    probe_set: ProbeSet, probe: Probe, *, height: int, width: int, how: Fit, bars: str = "black"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The probe and its middle as another fit would give them, both uint8 (height, width, 3), for comparison.

    `bars`: the colour that a padded image lies on. None where it is the probe's own fit, and where the image has the
    model's shape, so that all fits are the same.
    Raises ProbeSetError for a file that changed since validation.
    """
    own = bars == "black" and probe.fit == how
    if own or probe.fit in ("", "exact"):  # an image of another shape without a fit, or with `exact`, was refused
        return None
    with _of_probe(probe_set, probe) as image:
        if image.width * height == image.height * width:
            return None
        whole, middle = (
            refit(each, height=height, width=width, how=how, bars=bars) for each in (image, middle_of(image))
        )
    return np.array(whole, dtype=np.uint8), np.array(middle, dtype=np.uint8)


@contextmanager
def _of_probe(probe_set: ProbeSet, probe: Probe) -> Iterator[Image.Image]:
    """The probe's image; what is wrong with it, or with how it fits, is told with its line and id."""
    folder = Path(probe_set.folder)
    try:
        found = path_problem(folder, probe.path)
        if found:
            raise ProbeSetError(found)
        yield open_image(folder / probe.path, expected_sha256=probe.sha256)
    except ProbeSetError as error:
        place = f"{folder / manifest_name(folder)}:{probe.line}"
        raise ProbeSetError(f"{place}: probe {probe.id!r}: {error}") from error
