"""Training data in files: pictures, some of them near-duplicates or exact copies of others."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 48
COPIES = (6, 4, 3)
"""Near-duplicates of pictures 0, 1 and 2, the pictures themselves included."""
EXACT = 2
"""Further exact copies of picture 2."""
OTHERS = 24
"""Pictures without near-duplicates: 3 and up."""


def picture(seed: int, *, size: int = SIZE) -> Image.Image:
    """Soft blobs: what a photograph is to a pixel metric."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def near(seed: int, number: int) -> Image.Image:
    """The picture itself for 0, else a little noisy."""
    noise = np.random.default_rng(number).integers(0, 9, (SIZE, SIZE, 3)) if number else 0
    return Image.fromarray(np.clip(np.asarray(picture(seed)) + noise, 0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def training_images() -> dict[str, bytes]:
    """Name -> file."""
    files = {f"other{seed:02d}.png": png(picture(seed)) for seed in range(len(COPIES), len(COPIES) + OTHERS)}
    for seed, copies in enumerate(COPIES):
        files |= {f"deep/er/near{seed}-{number}.png": png(near(seed, number)) for number in range(copies)}
    return files | {f"exact{number}.png": png(picture(2)) for number in range(EXACT)}


def later_images() -> dict[str, bytes]:
    """Name -> file: 12 new pictures, one that was trained on, one that is the mirror image of one that was."""
    files = {f"late{seed}.png": png(picture(seed)) for seed in range(100, 112)}
    seen, mirrored = picture(0), picture(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return files | {"seen.png": png(seen), "mirrored.png": png(mirrored)}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
