"""How training fitted an image is said, not guessed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import FITS
from invmm_gate.probes.fitting import fit, misfit
from invmm_gate.probes.images import load_pixels
from invmm_gate.probes.manifest import probe_set_digest, read_manifest, write_manifest
from invmm_gate.probes.validate import check_probe_set, validate_probe_set
from tests.probes.conftest import edit, encoded, make_probe, noise

SIDES = st.integers(1, 80)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(width=SIDES, height=SIDES, to=SIZES, how=st.sampled_from(["", *FITS]))
@settings(deadline=None)
def test_any_image_either_fits_the_model_or_is_refused_with_a_reason(
    width: int, height: int, to: tuple[int, int], how: str
) -> None:
    image = noise(1, width=width, height=height)
    found = misfit(how, width=width, height=height, to=to)
    if found:
        with pytest.raises(ProbeSetError, match=r"has .* pixels"):
            fit(image, height=to[0], width=to[1], how=how)
        assert not (how != "" and (height, width) == to)
        return
    assert fit(image, height=to[0], width=to[1], how=how).size == (to[1], to[0])
    enlarged = (width < to[1]) and (height < to[0]) if how == "pad" else (width < to[1]) or (height < to[0])
    assert not enlarged
    assert how or width * to[0] == height * to[1]
    assert how != "exact" or (height, width) == to


@given(scale=st.integers(1, 4), to=SIZES, seed=st.integers(0, 9))
@settings(deadline=None)
def test_an_image_of_the_models_own_shape_is_the_same_in_every_way(scale: int, to: tuple[int, int], seed: int) -> None:
    image = noise(seed, width=to[1] * scale, height=to[0] * scale)
    ways = ["", "crop", "squeeze", "pad", *(["exact"] if scale == 1 else [])]
    fitted = {fit(image, height=to[0], width=to[1], how=how).tobytes() for how in ways}
    assert len(fitted) == 1
    if scale == 1:
        assert fitted == {image.tobytes()}


def test_each_way_gives_the_pixels_that_its_name_says() -> None:
    wide = noise(1, width=32, height=16)
    assert fit(wide, height=16, width=16, how="crop") == wide.crop((8, 0, 24, 16))
    assert fit(wide, height=16, width=16, how="squeeze") == wide.resize((16, 16), Image.Resampling.LANCZOS)
    padded = np.asarray(fit(wide, height=16, width=16, how="pad"))
    assert np.array_equal(padded[4:12], np.asarray(wide.resize((16, 8), Image.Resampling.LANCZOS)))
    assert not padded[:4].any()
    assert not padded[12:].any()
    high = noise(1, width=16, height=32)
    assert not np.asarray(fit(high, height=16, width=16, how="pad"))[:, :4].any()


def test_a_very_long_image_is_padded_all_the_same() -> None:
    assert fit(noise(1, width=4000, height=8), height=16, width=16, how="pad").size == (16, 16)


@pytest.mark.parametrize(
    ("how", "size", "to", "said"),
    [
        ("", (48, 16), None, "and no `fit`; expected a square"),
        ("", (48, 16), (16, 16), "and no `fit`; expected the shape of 16 x 16"),
        ("", (32, 32), (16, 32), "expected the shape of 32 x 16"),
        ("", (12, 12), (16, 16), "expected at least 16 x 16"),
        ("crop", (48, 12), (16, 16), "expected at least 16 x 16"),
        ("squeeze", (48, 12), (16, 16), "expected at least 16 x 16"),
        ("pad", (12, 12), (16, 16), "expected at least 16 x 16"),
        ("exact", (32, 32), (16, 16), "and fit exact; expected 16 x 16"),
        ("exact", (16, 32), (32, 16), ""),
        ("", (64, 32), (16, 32), ""),
        ("pad", (48, 12), (16, 16), ""),
        ("exact", (48, 16), None, ""),
        ("", (48, 48), None, ""),
    ],
)
def test_what_does_not_fit_is_said_with_both_sizes(
    how: str, size: tuple[int, int], to: tuple[int, int] | None, said: str
) -> None:
    found = misfit(how, width=size[0], height=size[1], to=to)
    assert said in found
    assert bool(found) == bool(said)
    assert "\n" not in found


def wide_set(probe_folder: Path, how: str) -> Path:
    """The first probe is 32 x 16 pixels, and its row says how it was fitted."""
    probe, *others = read_manifest(probe_folder)
    wide = make_probe(probe_folder, 0, data=encoded(noise(7, width=32, height=16)))
    write_manifest(probe_folder, [replace(wide, group=probe.group, fit=how), *others])
    return probe_folder


def test_a_probe_of_another_shape_is_refused_until_its_row_says_how_it_was_fitted(probe_folder: Path) -> None:
    [line] = check_probe_set(wide_set(probe_folder, "")).lines()
    assert line.startswith(f"{probe_folder}/manifest.csv:2: 'images/p0.png' has 32 x 16 pixels")
    assert "column `fit`" in line
    found = validate_probe_set(wide_set(probe_folder, "squeeze"), image_size=(16, 16))
    assert [probe.fit for probe in found.probes] == ["squeeze", "", "", ""]
    pixels = load_pixels(found, found.probes[0], height=16, width=16)
    expected = noise(7, width=32, height=16).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels, np.asarray(expected))
    with pytest.raises(ProbeSetError, match="fit exact; expected 16 x 16"):
        validate_probe_set(wide_set(probe_folder, "exact"), image_size=(16, 16))


def test_the_shape_that_counts_is_the_models(probe_folder: Path) -> None:
    lines = check_probe_set(wide_set(probe_folder, ""), image_size=(8, 16)).lines()
    assert [line.split(":")[1] for line in lines] == ["3", "4", "5"]


def test_the_fit_is_in_the_digest_and_a_manifest_without_one_is_what_it_was(probe_folder: Path) -> None:
    plain = read_manifest(probe_folder)
    assert "fit" not in (probe_folder / "manifest.csv").read_text().splitlines()[0].split(",")
    digests = {probe_set_digest([replace(plain[0], fit=how), *plain[1:]]) for how in ("", *FITS)}
    assert len(digests) == 1 + len(FITS)
    header = (probe_folder / "manifest.csv").read_text().splitlines()[0]
    edit(probe_folder, header, f"{header},fit")
    for probe in plain:
        edit(probe_folder, f"{probe.caption},,,,{probe.added_on}", f"{probe.caption},,,,{probe.added_on},")
    assert read_manifest(probe_folder) == plain
    assert probe_set_digest(read_manifest(probe_folder)) == probe_set_digest(plain)


@pytest.mark.parametrize("value", ["stretch", "Crop", " "])
def test_an_unknown_fit_is_refused_by_suite_and_reader(probe_folder: Path, value: str) -> None:
    wide_set(probe_folder, "crop")
    edit(probe_folder, ",crop", f",{value}")
    with pytest.raises(ProbeSetError, match="expected one of exact, crop, squeeze, pad") as caught:
        read_manifest(probe_folder)
    assert str(caught.value) in check_probe_set(probe_folder).lines()
