"""Every file has one stage that writes it; records of other inputs are refused, or make way where that is asked for."""

import dataclasses

import pytest

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.run_records import RunRecord
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import ConfirmRecord, fingerprint
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from tests.runs.conftest import INPUTS, PLAN, PROBES, SELF_CHECK, confirmation, measurement, run_record


def with_settings(**inputs) -> RunRecord:
    return run_record(**inputs)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run that was measured and confirmed."""
    made = RunFolder(tmp_path / "run")
    made.begin(with_settings())
    made.append(SELF_CHECK)
    for probe in PROBES:
        made.write(f"inversions/{probe}.safetensors", b"mu")
        made.write(f"copies/inverted/{probe}/inverted-1.png", b"pixels")
        made.append(measurement(probe))
        made.note_seconds(probe, 1.0)
    made.end(MEASURE)
    made.begin_confirming(with_settings(), PLAN)
    for probe in PROBES:
        made.write(f"copies/confirmed/{probe}/sampled-1.png", b"pixels")
        made.append(confirmation(probe))
    made.end(CONFIRMING)
    return made


def tree(folder: RunFolder) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and its time of change."""
    paths = (path for path in sorted(folder.path.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder.path)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def owned(stage, name: str) -> bool:
    return stage.owns(name) or name == stage.end


def test_every_file_belongs_to_one_stage(folder):
    for name in tree(folder):
        assert [owned(MEASURE, name), owned(CONFIRMING, name)].count(True) == 1, name


def test_a_stage_that_is_given_again_with_nothing_to_do_touches_no_file(folder):
    before = tree(folder)
    folder.begin(with_settings(), replacing=True)
    folder.end(MEASURE)
    folder.begin_confirming(with_settings(), PLAN, replacing=True)
    folder.end(CONFIRMING)
    assert tree(folder) == before


def test_confirming_changes_no_file_of_measuring(folder):
    before = {name: found for name, found in tree(folder).items() if owned(MEASURE, name)}
    folder.begin_confirming(with_settings(policy="q" * 64), dataclasses.replace(PLAN, rate_limit=0.5), replacing=True)
    folder.append(confirmation("reed"))
    folder.append(confirmation("heron"))
    folder.note_confirmed(dataclasses.replace(PLAN, self_checks=(SELF_CHECK,), reduced_rows=(4,)))
    folder.end(CONFIRMING)
    assert {name: found for name, found in tree(folder).items() if owned(MEASURE, name)} == before


def test_a_stage_without_results_leaves_empty_files_and_folders_all_the_same(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(run_record())
    folder.end(MEASURE)
    folder.begin_confirming(run_record(), PLAN)
    folder.end(CONFIRMING)
    for stage in (MEASURE, CONFIRMING):
        assert all((tmp_path / name).read_bytes() == b"" for name in stage.records)
        assert all((tmp_path / name).is_dir() for name in stage.folders)


@pytest.mark.parametrize("other", [{"seed": 1}, {"model": "x"}, {"policy": "q", "rows": 4}])
def test_a_run_of_other_inputs_makes_way_whole_where_that_is_asked_for(folder, other):
    asked = with_settings(**other)
    assert folder.begin(asked, replacing=True) == asked
    assert set(tree(folder)) == {"run.json"}
    assert folder.data() == dataclasses.replace(folder.data(), run=asked, measurements=(), confirmations=())


def test_a_link_in_the_place_of_a_stages_folder_is_removed_and_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text("another's")
    (folder.path / "inversions" / "heron.safetensors").unlink()
    (folder.path / "inversions" / "reed.safetensors").unlink()
    (folder.path / "inversions").rmdir()
    (folder.path / "inversions").symlink_to(elsewhere)
    folder.begin(with_settings(seed=1), replacing=True)
    assert (elsewhere / "kept.txt").exists()
    assert not (folder.path / "inversions").is_symlink()


def test_scores_stay_where_only_what_they_do_not_depend_on_has_changed(folder):
    changed = ("run.json", "measure_end.json")
    before = {name: found for name, found in tree(folder).items() if name not in changed}
    asked = dataclasses.replace(with_settings(policy="q" * 64), created_at="2027-01-01T00:00:00+00:00")
    found = folder.begin(asked, replacing=True)
    assert found == dataclasses.replace(asked, created_at=with_settings().created_at), "begun when it was begun"
    assert folder.run() == found
    assert {name: found for name, found in tree(folder).items() if name not in changed} == before


def test_an_edited_record_is_begun_anew_rather_than_gone_on_with(folder):
    path = folder.path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    folder.begin(with_settings(seed=7), replacing=True)
    assert folder.measurements() == ()


def test_a_run_may_be_confirmed_under_a_policy_with_other_rules(folder):
    looser = run_record(settings=dataclasses.replace(INPUTS.settings, stop_above=0.5), policy="q" * 64)
    folder.begin_confirming(looser, dataclasses.replace(PLAN, policy="q" * 64))
    assert len(folder.confirmations()) == 2, "made under the same plan"
    data = folder.data()
    assert data.run.inputs.policy == "q" * 64
    assert data.run.fingerprint == fingerprint(data.run.inputs)
    assert data.run.fingerprint != folder.run().fingerprint
    assert data.run.run_id == folder.run().run_id


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"model": "x"}, "model"),
        ({"settings": dataclasses.replace(INPUTS.settings, steps=11)}, r"settings \(steps\)"),
        ({"rows": 4}, "rows"),
    ],
)
def test_a_run_is_not_confirmed_with_anything_else_than_it_was_measured_with(tmp_path, other, named):
    folder = RunFolder(tmp_path)
    folder.begin(run_record())
    with pytest.raises(RunFolderError, match=f"holds a run with another {named}; expected the same inputs"):
        folder.begin_confirming(run_record(**other), PLAN, replacing=True)


def test_a_run_record_whose_inputs_were_edited_is_not_confirmed(folder):
    path = folder.path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(RunFolderError, match="another fingerprint than its inputs give"):
        folder.begin_confirming(with_settings(seed=7), PLAN)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"rate_limit": 0.5}, "rate_limit"),
        ({"confirm": dataclasses.replace(PLAN.confirm, plain_sampling=None)}, "confirm"),
    ],
)
def test_confirmations_under_another_plan_are_refused_or_make_way(folder, other, named):
    plan = dataclasses.replace(PLAN, **other)
    with pytest.raises(RunFolderError, match=f"holds confirmations under another {named}; .*give --replace"):
        folder.begin_confirming(with_settings(), plan)
    assert len(folder.confirmations()) == 2
    folder.begin_confirming(with_settings(), plan, replacing=True)
    assert folder.confirmations() == ()
    assert folder.confirmed() == plan
    assert len(folder.measurements()) == 2
    assert not (folder.path / "copies" / "confirmed").exists()


def test_confirmations_without_their_plan_are_not_taken_over(folder):
    (folder.path / "confirm.json").unlink()
    with pytest.raises(RunFolderError, match=r"holds confirmations under another confirm\.json"):
        folder.begin_confirming(with_settings(), PLAN)
    folder.begin_confirming(with_settings(), PLAN, replacing=True)
    assert folder.confirmations() == ()


def test_checks_of_both_stages_count(folder):
    failed = SelfCheck(name="model_unchanged_in_confirm", passed=False, detail="changed")
    folder.note_confirmed(
        ConfirmRecord(policy="p", confirm=PLAN.confirm, rate_limit=0.0, reduced_rows=(4, 2), self_checks=(failed,))
    )
    assert folder.self_checks() == (SELF_CHECK, failed)
    assert folder.data().self_checks == (SELF_CHECK, failed)
    assert folder.data().run.context.reduced_rows_in_confirm == (4, 2)
