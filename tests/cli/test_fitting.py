"""`--fit` and `--orientation` at the command line: said, kept and shown."""

import json
from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.probes.validate import validate_probe_set
from tests.probes.conftest import encoded, noise
from tests.stages.world import call


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A picture of 32 x 16 beside an empty probe set."""
    (tmp_path / "wide.png").write_bytes(encoded(noise(1, width=32, height=16)))
    assert call("probes", "init", tmp_path / "probes").code == 0
    return tmp_path / "wide.png"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--fit", "stretch"), "'--fit': 'stretch' is not one of 'exact', 'crop', 'squeeze', 'pad'"),
        (("--orientation", "upright"), "'--orientation': 'upright' is not one of 'refuse', 'both'"),
        ((), "no `fit`; expected a square, as most models make"),
    ],
)
@pytest.mark.parametrize("command", ["add", "build"])
def test_what_is_not_known_is_refused_in_one_line(wide: Path, command: str, option: tuple[str, ...], said: str) -> None:
    new, train = wide.parent / "new", wide.parent / "train"
    train.mkdir()
    for name in ("a.png", "b.png"):
        (train / name).write_bytes(wide.read_bytes())
    named = {"add": (wide.parent / "probes", wide, "--group", "canary"), "build": (new, "--from", train, "--quiet")}
    done = call("probes", command, *named[command], *option)
    assert done.code == 2
    assert said in done.error
    assert not new.exists()


def test_the_fit_is_shown_where_probes_are_added_and_validated(wide: Path) -> None:
    probes = wide.parent / "probes"
    added = call("probes", "add", probes, wide, "--group", "sensitive", "--fit", "squeeze")
    assert added.out == f"added 1 probes to {probes}, fitted by squeeze: wide\n"
    found = call("probes", "validate", probes, "--quiet", "--out", wide.parent / "found.json")
    assert f"{probes}: 1 probes, 1 fitted by squeeze, digest " in found.out
    assert json.loads((wide.parent / "found.json").read_text())["fits"] == {"squeeze": 1}


def test_images_that_do_not_fit_the_size_of_a_model_are_listed_where_it_is_said(wide: Path) -> None:
    probes, small = wide.parent / "probes", wide.parent / "small.png"
    small.write_bytes(encoded(noise(2, width=8, height=8)))
    assert call("probes", "add", probes, wide, "--group", "canary", "--fit", "exact").code == 0
    assert call("probes", "add", probes, small, "--group", "canary").code == 0
    assert call("probes", "validate", probes).code == 0
    with pytest.raises(
        ProbeSetError, match=rf"and 1 more; run `invmm-gate probes validate {probes} --image-size 16x16`"
    ):
        validate_probe_set(probes, image_size=(16, 16))
    listed = call("probes", "validate", probes, "--image-size", "16x16")
    assert (listed.code, listed.err.count("expected 16 x 16")) == (2, 1)
    assert "manifest.csv:2: 'images/wide.png'" in listed.err
    assert "manifest.csv:3: 'images/small.png'" in listed.err
    assert call("probes", "validate", probes, "--image-size", "16y16").code == 2
