"""From a kohya folder to a verdict: the commands of docs/probe-sets.md, on the trained text-to-image example."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from invmm_gate.probes.manifest import read_manifest
from tests.stages.example_modules import load
from tests.stages.test_text_to_image import EXAMPLE, MODEL, POLICY
from tests.stages.world import ROOT, Called, call

SECTION = re.compile(r"^## From a kohya folder to a verdict\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[list[str]]:
    """The lines of each block of the section."""
    page = (ROOT / "docs/probe-sets.md").read_text(encoding="utf-8")
    return [block.splitlines() for block in BLOCK.findall(SECTION.search(page)[1])]


def keep(folder: Path, name: str, number: int) -> None:
    """An image and its caption file, as the example was trained on them."""
    example = load(EXAMPLE, "probe_set")
    folder.mkdir(parents=True, exist_ok=True)
    example.draw(number).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(example.probe_caption(number) + "\r\n", encoding="utf-8-sig")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as the first block of the section names them, in the working directory."""
    example = load(EXAMPLE, "probe_set")
    train = tmp_path / "data/train/10_harbour"
    planted = example.PLANTED_WITH_CAPTION[0]
    for place, number in enumerate((planted, planted, *example.ORDINARY[:2]), start=1):
        keep(train, f"{place:04d}", number)
    (train / "0001_sd.npz").write_bytes(b"PK\x03\x04")
    for place, number in enumerate(example.NEVER_SEEN[:2], start=1):
        keep(tmp_path / "data/later", f"{place:04d}", number)
    assert [line for line in blocks()[0] if not (tmp_path / line).is_file()] == []
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/model").symlink_to(MODEL)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(POLICY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(lines: list[str], *more: str) -> list[Called]:
    """Each command, with a policy of a few steps in place of `strict`."""
    commands = [shlex.split(line.replace("--policy strict", "--policy small.yaml"))[1:] for line in lines]
    return [call(*command, *(more if command[0] == "check" else ())) for command in commands]


def test_build_makes_a_probe_set_with_captions_and_the_gate_blocks(data: Path) -> None:
    _, build, _, gate = blocks()
    [built] = run(build)
    assert built.code == 0, built.err
    assert "read 4 training images, 3 without exact copies, 4 with a caption" in built.out
    assert "beside the images: 1 other files (1 .npz)" in built.out
    valid, checked = run(gate, "--out", "run", "--quiet", "--no-track")
    assert valid.code == 0, valid.err
    assert checked.code == 10, checked.err
    verdict = json.loads((data / "run/verdict.json").read_text())
    assert (verdict["decision"], {found["probe"] for found in verdict["findings"]}) == ("block", {"duplicated-0001"})
    captions = {probe.id: probe.caption for probe in read_manifest(data / "probes")}
    assert captions["duplicated-0001"] == "morning over the quiet harbour"
    assert all(captions.values())


def test_add_takes_all_images_of_the_folders(data: Path) -> None:
    (data / "data/train/10_harbour/0002.png").unlink()
    _, _, add, gate = blocks()
    assert [done.code for done in run([*add, gate[0]])] == [0, 0, 0, 0]
    assert [probe.group for probe in read_manifest(data / "probes")] == ["sensitive"] * 3 + ["control"] * 2
