import hashlib
import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import ProbeSet
from invmm_gate.probes.fitting import fit
from invmm_gate.probes.images import both_views, decode_image, load_pixels, open_image
from invmm_gate.probes.manifest import probe_set_digest, read_manifest
from tests.probes.conftest import encoded, noise, png_chunk, raw_png, zeros


def loaded_set(folder: Path) -> ProbeSet:
    probes = read_manifest(folder)
    return ProbeSet(folder=str(folder), probes=probes, digest=probe_set_digest(probes))


def saved(tmp_path: Path, data: bytes, name: str = "a.png") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.parametrize("options", [{"kind": "PNG"}, {"kind": "WEBP", "lossless": True}])
def test_an_image_is_read_pixel_for_pixel(tmp_path: Path, options: dict[str, object]) -> None:
    picture = noise(1, width=20, height=12)
    data = encoded(picture, **options)
    opened = open_image(saved(tmp_path, data), expected_sha256=hashlib.sha256(data).hexdigest())
    assert opened.mode == "RGB"
    assert opened.tobytes() == picture.tobytes()


def test_a_jpeg_grey_palette_or_one_bit_image_becomes_rgb(tmp_path: Path) -> None:
    grey = noise(1).convert("L")
    assert open_image(saved(tmp_path, encoded(noise(1), "JPEG")), expected_sha256=None).size == (16, 16)
    for image in (grey, grey.convert("1"), noise(1).quantize(8), noise(1).convert("RGBA")):
        opened = open_image(saved(tmp_path, encoded(image)), expected_sha256=None)
        assert opened.tobytes() == image.convert("RGB").tobytes()


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # stored turned left, shown turned right
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def with_exif(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_that_exif_turns_is_refused_or_read_both_ways(orientation: int) -> None:
    upright = noise(1, width=24, height=16).resize((96, 64))
    stored = upright.transpose(TURNS[orientation])
    data = encoded(stored, exif=with_exif(orientation))
    with pytest.raises(ProbeSetError, match=rf"'a.png' has EXIF orientation {orientation}, .*--orientation both"):
        decode_image(data, name="a.png")
    assert decode_image(data, name="a.png", view="stored").tobytes() == stored.tobytes()
    assert decode_image(data, name="a.png", view="upright").tobytes() == upright.tobytes()
    files = both_views(data, name="a.png")
    assert {view: decode_image(file, name=view).tobytes() for view, file in files.items()} == {
        "stored": stored.tobytes(),
        "upright": upright.tobytes(),
    }


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def raw_profile() -> bytes:
    """EXIF in a text chunk of a PNG, as ImageMagick writes it."""
    data = with_exif(6).tobytes()
    profile = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    return with_chunk(b"tEXt", b"Raw profile type exif\0" + profile)


def with_chunk(kind: bytes, content: bytes, *, last: bool = False) -> bytes:
    picture = encoded(noise(1))
    at = len(picture) - 12 if last else 33
    return picture[:at] + png_chunk(kind, content) + picture[at:]


EXIF_6 = with_exif(6).tobytes().removeprefix(b"Exif\0\0")
TURNED = {
    "jpeg": lambda: encoded(noise(1), "JPEG", exif=with_exif(6)),
    "webp": lambda: encoded(noise(1), "WEBP", lossless=True, exif=with_exif(6)),
    "png": lambda: with_chunk(b"eXIf", EXIF_6),
    "png, after the pixels": lambda: with_chunk(b"eXIf", EXIF_6, last=True),
    "png, raw profile": raw_profile,
    "jpeg, xmp": lambda: encoded(noise(1), "JPEG", xmp=XMP.encode()),
    "webp, xmp": lambda: encoded(noise(1), "WEBP", lossless=True, xmp=XMP.encode()),
    "png, xmp": lambda: with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
    "several pictures": lambda: encoded(noise(1), "MPO", save_all=True, append_images=[noise(2)], exif=with_exif(6)),
}


@pytest.mark.parametrize("name", TURNED)
def test_an_orientation_is_seen_wherever_pillow_sees_one(name: str) -> None:
    data = TURNED[name]()
    with Image.open(io.BytesIO(data)) as image:
        assert ImageOps.exif_transpose(image).tobytes() != image.tobytes()
    with pytest.raises(ProbeSetError, match="has EXIF orientation 6"):
        decode_image(data, name="a")
    assert sorted(both_views(data, name="a")) == ["stored", "upright"]


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_is_accepted(orientation: int) -> None:
    data = encoded(noise(1), exif=with_exif(orientation))
    assert decode_image(data, name="a.png").tobytes() == noise(1).tobytes()
    assert both_views(data, name="a.png") == {}


def test_an_image_that_a_turn_does_not_change_is_stored_once() -> None:
    half = np.asarray(noise(1, width=8))
    picture = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    assert list(both_views(encoded(picture, exif=with_exif(2)), name="a.png")) == ["stored"]


def test_the_first_picture_of_several_in_a_jpeg_is_read_as_training_reads_it(tmp_path: Path) -> None:
    several = encoded(noise(1), "MPO", save_all=True, append_images=[noise(2)])
    opened = open_image(saved(tmp_path, several, "a.jpg"), expected_sha256=None)
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
        assert opened.tobytes() == image.convert("RGB").tobytes()
    assert opened.tobytes() == decode_image(encoded(noise(1), "JPEG"), name="a").tobytes()


def animated(kind: str) -> bytes:
    return encoded(noise(1), kind, save_all=True, append_images=[noise(2)])


def see_through() -> bytes:
    image = noise(1).convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 254))
    return encoded(image)


def see_through_colour() -> bytes:
    """One colour of an RGB image declared transparent (tRNS)."""
    image = noise(1)
    return encoded(image, transparency=image.getpixel((5, 5)))


sixteen = {"width": 4, "height": 4, "depth": 16, "scanlines": zeros(4 * (1 + 4 * 8))}

REFUSED = {
    "nothing": (b"", "not an image"),
    "text": (b"hello", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "gif named png": (encoded(noise(1), "GIF"), "expected a whole PNG, JPEG or WebP"),
    "tiff named png": (encoded(noise(1), "TIFF"), "expected a whole PNG, JPEG or WebP"),
    "eps named png": (encoded(noise(1), "EPS"), "expected a whole PNG, JPEG or WebP"),
    "animated png": (animated("PNG"), "holds 2 images"),
    "animated webp": (animated("WEBP"), "holds 2 images"),
    "16-bit grey": (raw_png(colour=0, **sixteen), "I;16B"),
    "16-bit rgb": (raw_png(colour=2, **sixteen), "RGB;16B"),
    "16-bit rgba": (raw_png(colour=6, **sixteen), "RGBA;16B"),
    "16-bit grey and alpha": (raw_png(colour=4, **sixteen), "LA;16B"),
    "cmyk": (encoded(noise(1).convert("CMYK"), "JPEG"), "CMYK"),
    "see-through": (see_through(), "see-through"),
    "see-through colour": (see_through_colour(), "see-through"),
    "png without pixels": (raw_png(width=9, height=9, depth=8, colour=2, scanlines=b""), "damaged or cut short"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_plain_still_image_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, said = REFUSED[name]
    with pytest.raises(ProbeSetError) as caught:
        open_image(saved(tmp_path, data), expected_sha256=None)
    assert said in str(caught.value)
    assert "a.png" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused(kind: str, share: float) -> None:
    data = encoded(noise(1, width=64, height=64), kind)
    with pytest.raises(ProbeSetError):
        decode_image(data[: int(len(data) * share)], name="a.png")


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_a_damaged_image_gives_an_image_or_one_clear_error(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(noise(1), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        outcome = decode_image(bytes(whole), name="a.png").mode
    except ProbeSetError as error:
        outcome = str(error)
    assert outcome == "RGB" or (outcome.startswith("'a.png' ") and "\n" not in outcome)


BOMBS = {
    "50,000 x 50,000 in one bit": (50_000, 50_000, 1, 0, 50_000 * 6251),
    "13,300 x 13,300 in RGB": (13_300, 13_300, 8, 2, 13_300 * (1 + 13_300 * 3)),
    "8,001 x 8,000, just above the limit": (8_001, 8_000, 8, 2, 8_000 * (1 + 8_001 * 3)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_a_second_and_little_memory(tmp_path: Path, name: str) -> None:
    width, height, depth, colour, size = BOMBS[name]
    # For the largest the header alone must do.
    scanlines = zeros(size) if size < 1e9 else zeros(1 << 20)
    data = raw_png(width=width, height=height, depth=depth, colour=colour, scanlines=scanlines)
    path = saved(tmp_path, data)
    code = f"""
import resource, sys, time
from pathlib import Path
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.probes.images import open_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
try:
    open_image(Path({str(path)!r}), expected_sha256=None)
except ProbeSetError as error:
    print(error)
print(peak() - before, time.process_time() - start)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    message, figures = done.stdout.splitlines()
    grown, seconds = map(float, figures.split())
    assert "expected at most 64 million pixels" in message
    assert grown < 50
    assert seconds < 1
    assert done.stderr == ""


def test_a_size_just_above_the_limit_is_told(tmp_path: Path) -> None:
    data = raw_png(width=8_001, height=8_000, depth=1, colour=0, scanlines=zeros(1 << 20))
    with pytest.raises(ProbeSetError, match="has 8001 x 8000 pixels; expected at most 64 million"):
        open_image(saved(tmp_path, data), expected_sha256=None)


def test_a_text_bomb_in_a_png_is_refused() -> None:
    picture = encoded(noise(1))
    text = png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1_000_000)))
    with pytest.raises(ProbeSetError, match="damaged"):
        decode_image(picture[:33] + text * 80 + picture[33:], name="a.png")


def test_an_image_of_exactly_the_limit_passes_the_header_check() -> None:
    data = raw_png(width=8_000, height=8_000, depth=1, colour=0, scanlines=zeros(8_000 * 1001))
    assert decode_image(data, name="a.png").size == (8_000, 8_000)


def test_links_pipes_folders_and_large_files_are_refused(tmp_path: Path) -> None:
    real = saved(tmp_path, encoded(noise(1)))
    (tmp_path / "link.png").symlink_to(real)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(64_000_001)
    for name, said in {
        "link": "symbolic link",
        "pipe": "pipe",
        "folder": "folder",
        "large": "expected at most 64 MB",
        "absent": "is missing",
    }.items():
        with pytest.raises(ProbeSetError, match=said):
            open_image(tmp_path / f"{name}.png", expected_sha256=None)


def test_an_image_swapped_for_one_of_the_same_size_and_time_is_refused(probe_folder: Path) -> None:
    probe_set = loaded_set(probe_folder)
    path = probe_folder / probe_set.probes[0].path
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    with pytest.raises(ProbeSetError, match=r"manifest.csv:2: probe 'p0': .*changed since it was added"):
        load_pixels(probe_set, probe_set.probes[0], height=16, width=16)


def test_an_image_of_the_models_size_reaches_the_model_unchanged(probe_folder: Path) -> None:
    probe_set = loaded_set(probe_folder)
    pixels = load_pixels(probe_set, probe_set.probes[1], height=16, width=16)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(noise(1)))
    pixels[0] = 0  # the caller may write to it


@pytest.mark.parametrize(("width", "height"), [(19, 16), (16, 21), (17, 16)])
def test_a_longer_image_is_cropped_at_its_centre_without_resampling(width: int, height: int) -> None:
    image = noise(1, width=width, height=height)
    left, top = (width - 16) // 2, (height - 16) // 2
    expected = np.asarray(image)[top : top + 16, left : left + 16]
    assert np.array_equal(np.asarray(fit(image, height=16, width=16, how="crop")), expected)


def test_a_larger_image_is_reduced_with_lanczos_and_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    reduced = np.asarray(fit(Image.fromarray(stripes), height=16, width=16)).astype(int)
    assert abs(reduced[:, 2:-2] - 127.5).max() < 8
    picture = noise(1, width=32, height=32)
    assert fit(picture, height=16, width=16) == picture.resize((16, 16), Image.Resampling.LANCZOS)


def test_a_smaller_image_is_refused_with_both_sizes(probe_folder: Path) -> None:
    probe_set = loaded_set(probe_folder)
    with pytest.raises(ProbeSetError, match=r"manifest.csv:3: probe 'p1': .*16 x 16 pixels.*at least 17 x 16"):
        load_pixels(probe_set, probe_set.probes[1], height=16, width=17)


def test_a_path_that_became_a_link_after_validation_is_refused(probe_folder: Path) -> None:
    probe_set = loaded_set(probe_folder)
    (probe_folder / "images").rename(probe_folder.parent / "moved")
    (probe_folder / "images").symlink_to(probe_folder.parent / "moved")
    with pytest.raises(ProbeSetError, match="symbolic link"):
        load_pixels(probe_set, probe_set.probes[0], height=16, width=16)


def test_pillow_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_image(encoded(noise(1)), name="a.png")
    assert before == Image.MAX_IMAGE_PIXELS
    assert Image.open(io.BytesIO(encoded(noise(1), "GIF"))).format == "GIF"


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ProbeSetError, match=r"a Git LFS pointer, not the image itself.*git lfs pull"):
        open_image(tmp_path / "a.png", expected_sha256=None)
