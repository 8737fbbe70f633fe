"""What a run is said to need is no less than what it takes."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from invmm_gate.core.errors import MeasurementError, RunFolderError
from invmm_gate.core.options import Options
from invmm_gate.probes.edit import init_probe_set
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.disk_space import require_room
from invmm_gate.stages.preflight import prepare
from invmm_gate.stages.session import Session, open_session
from tests.stages.test_text_to_image import MODEL, POLICY
from tests.stages.world import World, add_picture

BLOCK = 4096


@dataclass(frozen=True)
class Needed:
    """The bytes that all probes of a session are said to need."""

    records: int
    others: int
    """Inversions and copies."""


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Session], Needed]:
    """What is said on a full disk, and on one with room for the records alone."""
    full = shutil.disk_usage(tmp_path)._replace(free=0)

    def said(session: Session) -> Needed:
        given = (session, RunFolder(tmp_path), session.inputs.probe_set.probes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(MeasurementError) as caught:
            require_room(*given, note=pytest.fail)
        found = re.search(r"has 0 bytes of room, the records of \d+ probes may need (\d+);", str(caught.value))
        assert found, caught.value
        records, notes = int(found[1]), []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full._replace(free=records))
        require_room(*given, note=notes.append)
        found = re.search(rf"has {records} bytes of room; inversions and copies may take (\d+) ", "\n".join(notes))
        assert found, notes
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full._replace(free=records + int(found[1])))
        require_room(*given, note=pytest.fail)
        return Needed(records, int(found[1]))

    return said


def session_of(world: World, policy: Path) -> Session:
    return open_session(prepare(Options(model=world.model, policy=str(policy), probes=world.probes, rows=4)))


def taken(place: Path) -> int:
    """Bytes of all files on a disk that gives whole blocks."""
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in place.rglob("*") if path.is_file())


def test_what_a_whole_run_wrote_is_no_more_than_it_was_said_to_need(finished, needed) -> None:
    said = needed(session_of(finished, finished.policy()))
    files = sum(taken(finished.run / name) for name in ("inversions", "copies"))
    records = sum((finished.run / name).stat().st_size for name in ("measurements.jsonl", "confirmations.jsonl"))
    assert 0 < files <= said.others
    assert 0 < records <= said.records


def test_more_seeds_and_longer_curves_need_more_room(pristine, needed) -> None:
    session = session_of(pristine, pristine.policy())
    before = needed(session)
    for change in ({"seeds": 3}, {"steps": 2000}, {"mirror": True}):
        after = needed(replace(session, settings=replace(session.settings, **change)))
        assert after.records > before.records
        assert after.others == before.others, "one inversion and one set of copies a probe"


def test_the_distribution_of_a_soft_prompt_is_counted(tmp_path, needed) -> None:
    world = World(tmp_path / "text", MODEL)
    init_probe_set(world.probes)
    for number, group in ((1, "duplicated"), (100_000, "control"), (100_001, "control")):
        add_picture(world, number, group, size=32)
    settings = POLICY["measure"]["settings"] | {"long_captions": "truncate"}
    policy = POLICY | {"measure": POLICY["measure"] | {"settings": settings}}
    caption = session_of(world, world.policy(policy, "text"))
    joint = replace(caption, settings=replace(caption.settings, prompt="joint"))
    some = replace(joint, choices=torch.arange(10))
    positions = min(joint.settings.prompt_tokens, joint.prompts.positions)
    probes = len(joint.inputs.probe_set.probes)
    assert needed(joint).others - needed(caption).others == 4 * positions * joint.prompts.vocabulary * probes
    assert needed(some).others - needed(caption).others == 4 * positions * 10 * probes
    assert needed(joint).records == needed(caption).records


def test_a_folder_that_is_gone_is_one_clear_line(pristine: World, tmp_path: Path) -> None:
    session = session_of(pristine, pristine.policy())
    with pytest.raises(RunFolderError, match="none cannot be written: No such file"):
        require_room(session, RunFolder(tmp_path / "none"), session.inputs.probe_set.probes, note=pytest.fail)
