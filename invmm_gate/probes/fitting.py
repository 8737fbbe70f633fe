"""How an image comes to the size that the model makes: as training did it, which only the user can say."""

from typing import Final

from PIL import Image

from invmm_gate.core.errors import ProbeSetError

_WAYS: Final = "crop (its centre), squeeze (both sides resized), pad (the whole image on black bars) or exact"
_STATE: Final = "state it with --fit of `probes add` or `build`, or in the column `fit` of the manifest"


THE_SIZE: Final = "the size that the model makes"


def misfit(how: str, *, width: int, height: int, to: tuple[int, int] | None) -> str:
    """What to say of an image that does not fit the model, without its name; empty if it fits.

    `how` is the probe's `fit`. `to` is the (height, width) that the model makes; None where no model is known: then
    one that makes squares is assumed, of any size.
    """
    has = f"has {width} x {height} pixels (width x height)"
    to_height, to_width = to or (1, 1)
    made = f"{to_width} x {to_height}, {THE_SIZE}"
    if to and _is_enlarged(how, width / to_width, height / to_height):
        return f"{has}; expected at least {made}; use the original image: an enlarged one is not what training read"
    if not how and width * to_height != height * to_width:
        shape = f"the shape of {made}" if to else "a square, as most models make"
        return f"{has} and no `fit`; expected {shape}, or how training fitted the image: {_WAYS}; {_STATE}"
    if to and how == "exact" and (height, width) != to:
        return f"{has} and fit exact; expected {made}; give the image as training read it, or state another fit"
    return ""


def _is_enlarged(how: str, across: float, down: float) -> bool:
    """A padded image is as wide or as high as the model's; any other is both."""
    return (max if how == "pad" else min)(across, down) < 1


def fit(image: Image.Image, *, height: int, width: int, how: str = "") -> Image.Image:
    """The image at height x width, as `how` (a probe's `fit`) says; reduced with Lanczos, antialiased.

    An image of the right size is returned unchanged. Raises ProbeSetError with what `misfit` says.
    """
    found = misfit(how, width=image.width, height=image.height, to=(height, width))
    if found:
        raise ProbeSetError(f"the image {found}")
    return refit(image, height=height, width=width, how=how)


def refit(image: Image.Image, *, height: int, width: int, how: str, bars: str = "black") -> Image.Image:
    """As `fit`, of any image: one that is too small is enlarged. `bars` is what a padded one lies on, a colour's name.

    Other bars and other sizes than those of `fit` are for comparison, never for a score.
    """
    if how == "pad":
        return _padded(image, height=height, width=width, bars=bars)
    fitted = image if how == "squeeze" else _cropped(image, height=height, width=width)
    return fitted.resize((width, height), Image.Resampling.LANCZOS)


def middle_of(image: Image.Image) -> Image.Image:
    """The middle of an image: four fifths of each side."""
    across, down = round(image.width / 10), round(image.height / 10)
    return image.crop((across, down, image.width - across, image.height - down))


def _cropped(image: Image.Image, *, height: int, width: int) -> Image.Image:
    """The largest part of the model's shape at the centre."""
    scale = min(image.width / width, image.height / height)
    # Whole pixels: a crop at half a pixel would blur an image that needs no reduction.
    crop_width, crop_height = min(image.width, round(width * scale)), min(image.height, round(height * scale))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))


def _padded(image: Image.Image, *, height: int, width: int, bars: str) -> Image.Image:
    """The whole image at the centre of one in one colour; a very long one keeps one pixel of its short side."""
    scale = max(image.width / width, image.height / height)
    size = max(round(image.width / scale), 1), max(round(image.height / scale), 1)
    padded = Image.new("RGB", (width, height), bars)
    padded.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return padded
