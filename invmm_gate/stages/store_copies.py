"""Images of generated copies into the run folder."""

from collections.abc import Iterable
from io import BytesIO

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from invmm_gate.runs.folder import RunFolder


def store_copies(folder: RunFolder, place: str, copies: Iterable[Float[Tensor, "3 height width"]]) -> tuple[str, ...]:
    """Write a probe's copies as `<place>-1.png` and so on; their names, relative to the run folder."""
    names = []
    for number, copy in enumerate(copies, start=1):
        names.append(f"{place}-{number}.png")
        folder.write(names[-1], to_png(copy))
    return tuple(names)


def to_png(image: Float[Tensor, "3 height width"]) -> bytes:
    """An image in [-1, 1] as PNG."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
