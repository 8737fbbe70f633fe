"""Open probe images safely: bytes read once, checked and decoded from memory, nothing silently converted."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from invmm_gate.errors import ProbeSetError
from invmm_gate.probes.fields import path_problem
from invmm_gate.probes.files import read_regular_file
from invmm_gate.probes.manifest import manifest_name
from invmm_gate.records import Probe, ProbeSet

FILE_LIMIT: Final = 64_000_000
"""Bytes of an image file."""
PIXEL_LIMIT: Final = 64_000_000
"""Width times height; a decoded image takes at most four bytes for each."""
SUFFIXES: Final = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Pillow's names of the formats that are opened, and the suffix that a copy gets."""
MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
"""Pillow modes that become 8-bit RGB without a change of colour."""
MIN_SIDE: Final = 8
MAX_SIDE: Final = 16_384
"""Pixels of a side of a probe image."""
ONE_COLOUR: Final = "has one colour only; expected a picture: any model can make this one"


def open_image(path: Path, *, expected_sha256: str | None) -> Image.Image:
    """The image in RGB, upright as its EXIF orientation says; colour profiles are not applied.

    The sha256 is that of the very bytes that are decoded. Raises ProbeSetError for a file that is missing, linked,
    over 64 MB, changed, not a still 8-bit PNG, JPEG or WebP, over 64 million pixels, damaged or see-through.
    """
    data = read_regular_file(path, limit=FILE_LIMIT)
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


def decode_image(data: bytes, *, name: str) -> Image.Image:
    """`open_image` for bytes already read."""
    return decode_named(data, name=name)[0]


def decode_named(data: bytes, *, name: str) -> tuple[Image.Image, str]:
    """The image in RGB and Pillow's name of its format. Raises ProbeSetError."""
    try:
        # Pillow warns before it raises; the limit here is below both of its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=tuple(SUFFIXES)) as image:
                _check_header(image, name)
                image.load()
                _check_opaque(image, name)
                return ImageOps.exif_transpose(image).convert("RGB"), str(image.format)
    except ProbeSetError:
        raise
    except Image.DecompressionBombError as error:
        raise ProbeSetError(f"{name!r} is too large ({error})", expected=_PIXELS) from error
    except UnidentifiedImageError as error:
        raise ProbeSetError(f"{name!r} is not an image that can be opened", expected=_FORMATS) from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise ProbeSetError(
            f"{name!r} is damaged or cut short ({str(error)[:120] or type(error).__name__})", expected=_FORMATS
        ) from error


_FORMATS: Final = "a whole PNG, JPEG or WebP image"
_PIXELS: Final = f"at most {PIXEL_LIMIT / 1e6:.0f} million pixels"


def _check_header(image: Image.Image, name: str) -> None:
    """All that can be refused before a pixel is decoded."""
    if image.width * image.height > PIXEL_LIMIT:
        raise ProbeSetError(f"{name!r} has {image.width} x {image.height} pixels", expected=_PIXELS)
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
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
    """The probe as the model would have seen it, uint8 (height, width, 3); see `fit`.

    Raises ProbeSetError for a file that changed since validation and for an image smaller than height x width.
    """
    folder = Path(probe_set.folder)
    try:
        found = path_problem(folder, probe.path)
        if found:
            raise ProbeSetError(found)
        image = fit(open_image(folder / probe.path, expected_sha256=probe.sha256), height=height, width=width)
    except ProbeSetError as error:
        place = f"{folder / manifest_name(folder)}:{probe.line}"
        raise ProbeSetError(f"{place}: probe {probe.id!r}: {error}") from error
    return np.array(image, dtype=np.uint8)


def fit(image: Image.Image, *, height: int, width: int) -> Image.Image:
    """The image itself at height x width; a larger one is cropped at its centre, then reduced (Lanczos, antialiased).

    An image of the right size is returned unchanged. Raises ProbeSetError for a smaller one: an enlarged probe is
    not the image that was trained on.
    """
    if image.width < width or image.height < height:
        raise ProbeSetError(
            f"the image has {image.width} x {image.height} pixels (width x height)",
            expected=f"at least {width} x {height}, the size that the model makes",
            do="use the original image; an enlarged one is not what the model was trained on",
        )
    scale = min(image.width / width, image.height / height)
    # Whole pixels: a crop at half a pixel would blur an image that needs no reduction.
    crop_width, crop_height = min(image.width, round(width * scale)), min(image.height, round(height * scale))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    cropped = image.crop((left, top, left + crop_width, top + crop_height))
    return cropped.resize((width, height), Image.Resampling.LANCZOS)
