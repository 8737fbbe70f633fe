"""Whoever reads a verdict judges the records again: an edit of what it says, or rests on, is refused."""

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from invmm_gate.attest.keys import new_key_pair
from invmm_gate.core.errors import ConfigError, GateError
from invmm_gate.runs.copies import COPIES, COPIES_FOLDER, Circumstances
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import STAGES, Stage
from invmm_gate.stages.bless import bless, compare_runs, load_baseline
from invmm_gate.stages.judge import circumstances, judge_run
from invmm_gate.stages.read_verdict import judged_again, standing_verdict
from invmm_gate.stages.report import to_publish, write_reports
from tests.policy.policy_builders import PERMISSIVE, STRICT, TODAY, clean_run, policy_with, waiver, with_score
from tests.stages.stored_runs import blocked, passing, stored

NOW = datetime.datetime.combine(TODAY, datetime.time(12), datetime.UTC)
REGRESSION = policy_with(rules=[{"rule": "regression", "margin": 0.05}])

Edit = Callable[[dict[str, Any]], Any]


def rewrite(path: Path, edit: Edit) -> None:
    said = json.loads(path.read_text())
    edit(said)
    path.write_text(json.dumps(said))


def bless_it(run: Path) -> object:
    return bless(run, reason="first", by="ada", file=run.parent / "baseline.yaml", even_if_blocked=True, now=NOW)


READERS: dict[str, Callable[[Path], object]] = {
    "verdict": lambda run: standing_verdict(run, today=TODAY),
    "report": lambda run: write_reports(RunFolder(run)),
    "publish": lambda run: to_publish(RunFolder(run), details=True),
    "bless": bless_it,
    "baseline": lambda run: load_baseline(run, today=TODAY),
    "compare": lambda run: compare_runs(run, run, policy=None, common_probes=False, today=TODAY),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blocked(tmp_path_factory.mktemp("pristine") / "run")


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def acquitted(said: dict[str, Any]) -> None:
    """As shared by somebody in a hurry: everything in verdict.json fits everything else in it."""
    said.update(decision="pass", findings=[], reasons=["every probe was measured and no rule found a breach"])
    said["counts"].update(blocking=0, waived=0, inconclusive=0)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_block_that_was_acquitted(reader: str, run: Path) -> None:
    rewrite(run / "verdict.json", acquitted)
    with pytest.raises(GateError, match="judged again, its records give other decision, reasons, findings") as refused:
        READERS[reader](run)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def waived_by_hand(said: dict[str, Any]) -> None:
    exempt = {"reason": "agreed", "owner": "ann", "expires": "2099-12-31", "probe": "p1", "line": 1}
    said["findings"] = [finding | {"waiver": exempt} for finding in said["findings"]]
    said["waivers"] = [{"waiver": exempt, "state": "used"}]
    waived = len(said["findings"])
    said["counts"].update(blocking=0, waived=waived)
    said.update(decision="pass", reasons=[f"every probe was measured and no rule found a breach ({waived} waived)"])


BASELINE = dict.fromkeys(("run_id", "fingerprint", "model_digest", "measurements_digest"), "a" * 64)
EDITS: dict[str, Edit] = {
    "decision": lambda said: said.update(decision="inconclusive"),
    "findings": waived_by_hand,
    "findings, counts": lambda said: (said["findings"].pop(), said["counts"].update(blocking=0)),
    "counts": lambda said: said["counts"].update(probes=99),
    "reasons": lambda said: said.update(reasons=["all is well"]),
    "waivers": lambda said: said.update(waivers=[]) if said["waivers"] else said.update(waivers=[unused()]),
    "policy": lambda said: said.update(policy="very strict"),
    "policy_digest": lambda said: said.update(policy_digest="0" * 64),
    "baseline": lambda said: said.update(baseline=BASELINE),
    "tested, seed": lambda said: said["tested"].update(seed=1, seed_chosen=False),
    "tested, size": lambda said: said["tested"].update(image_size=[512, 512]),
    "tested, samplers": lambda said: said["tested"].update(samplers=["another"]),
}


def unused() -> dict[str, Any]:
    return {
        "waiver": {"reason": "agreed", "owner": "ann", "expires": "2099-12-31", "rule": "confirmed"},
        "state": "unused",
    }


@pytest.mark.parametrize("name", EDITS)
def test_a_verdict_that_says_anything_else_is_refused(name: str, run: Path) -> None:
    rewrite(run / "verdict.json", EDITS[name])
    with pytest.raises(GateError, match=f"its records give other [a-z_, ]*{name.split(',')[0]}") as refused:
        standing_verdict(run, today=TODAY)
    assert refused.value.exit_code == 2


OTHER_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another policy": (lambda run: _swap(run, passing, "judged/policy.json", PERMISSIVE), "policy, policy_digest"),
    "a milder threshold": (
        lambda run: rewrite(run / "judged/policy.json", lambda said: said["rules"][0].update(threshold_nats=0.0)),
        "other decision, reasons, findings, policy_digest",
    ),
    "no policy": (lambda run: (run / "judged/policy.json").unlink(), "judge"),
    "a policy of another version": (
        lambda run: rewrite(run / "judged/policy.json", lambda said: said.update(x=1)),
        "x",
    ),
    "a policy that is a folder": (lambda run: _folder(run / "judged/policy.json"), "holds no judged/policy.json"),
    "waivers": (
        lambda run: (run / "judged/waivers.yaml").write_text(
            "- {rule: confirmed, reason: x, owner: y, expires: 2099-12-31}"
        ),
        "other reasons, waivers than",
    ),
    "waivers that cannot be read": (lambda run: (run / "judged/waivers.yaml").write_text("- {"), "waivers.yaml:1"),
    "a baseline": (lambda run: (run / "judged/baseline.json").write_text(json.dumps(BASELINE)), "holds no run.json"),
    "a probe that became a control": (
        lambda run: rewrite(run / "run.json", lambda said: said["probe_set"]["probes"][0].update(group="control")),
        "another probe-set digest than its probes",
    ),
    "another metric": (
        lambda run: rewrite(run / "run.json", lambda said: said["metric"].update(threshold=1e-9)),
        "names another metric than its inputs do",
    ),
    "other weights": (
        lambda run: rewrite(run / "run.json", lambda said: said["model"].update(weights="ema", pipeline="x")),
        "names another pipeline, weights than its inputs do",
    ),
    "a probe that is gone": (
        lambda run: rewrite(run / "run.json", lambda said: said["probe_set"]["probes"].pop(0)),
        "another probe-set digest than its probes",
    ),
}


def _swap(run: Path, other: Callable[[Path], Path], name: str, policy: Any) -> None:
    donor = stored(clean_run(), run.parent / "donor", judged_by=policy)
    shutil.copy(donor / name, run / name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


JUDGES: dict[str, Callable[[Path], object]] = {
    "judge": lambda run: judge_run(RunFolder(run), STRICT, Circumstances(), today=TODAY),
    "compare": lambda run: compare_runs(run, run, policy="strict", common_probes=False, today=TODAY),
    "report of a run without a verdict": lambda run: write_reports(_unjudged(run)),
    "publish of a run without a verdict": lambda run: to_publish(_unjudged(run), details=False),
}


def _unjudged(run: Path) -> RunFolder:
    RunFolder(run).forget("verdict.json")
    return RunFolder(run)


def _of_another_model(run: Path) -> None:
    """As if a clean model's records were those of another one."""
    rewrite(run / "run.json", lambda said: said["model"].update(digest="0" * 64))


EDITED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model": (_of_another_model, "run.json has another model digest than its files"),
    **{name: OTHER_FILES[name] for name in ("another metric", "a probe that is gone", "a probe that became a control")},
    "another score": (
        lambda run: _once_replaced(run / "measurements.jsonl", '"invmm": 0.02', '"invmm": 0.9'),
        "since the stage ended, measurements.jsonl was edited",
    ),
}


def _once_replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("judged", JUDGES)
@pytest.mark.parametrize("name", EDITED)
def test_edited_records_are_neither_judged_nor_shown(name: str, judged: str, run: Path) -> None:
    spoil, says = EDITED[name]
    spoil(run)
    with pytest.raises(GateError, match=says) as refused:
        JUDGES[judged](run)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", OTHER_FILES)
def test_what_the_verdict_rests_on_cannot_be_exchanged(name: str, run: Path) -> None:
    spoil, says = OTHER_FILES[name]
    spoil(run)
    with pytest.raises(GateError, match=says) as refused:
        standing_verdict(run, today=TODAY)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_the_copies_give_the_verdict_again(tmp_path: Path) -> None:
    before = passing(tmp_path / "before")
    low = with_score(clean_run(), "p1", 0.02)
    waived = stored(low, tmp_path / "waived", waivers=(waiver(probe="p1"),))
    assert {path.name for path in (waived / COPIES_FOLDER).iterdir()} == {
        "policy.json", "reviewers.yaml", "waivers.yaml", "waivers.yaml.approval",
    }  # fmt: skip
    folder = RunFolder(stored(low, tmp_path / "run", judged_by=None))
    given = circumstances(None, before, today=TODAY)
    verdict = judge_run(folder, REGRESSION, given, today=TODAY)
    assert verdict.baseline is not None
    shutil.rmtree(before)
    for path, expected in ((waived, "pass"), (folder.path, verdict.decision)):
        again = judged_again(RunFolder(path)).verdict
        assert again is not None
        assert again.decision == expected
    kept = {str(path.relative_to(folder.path)) for path in (folder.path / COPIES_FOLDER).rglob("*") if path.is_file()}
    assert kept <= set(COPIES)
    assert "judged/baseline/measurements.jsonl" in kept


def test_a_new_judgement_keeps_nothing_of_the_one_before(tmp_path: Path) -> None:
    run = RunFolder(stored(with_score(clean_run(), "p1", 0.02), tmp_path / "run", waivers=(waiver(probe="p1"),)))
    verdict = judge_run(run, PERMISSIVE, circumstances(None, None, today=TODAY), today=TODAY)
    assert [path.name for path in (run.path / COPIES_FOLDER).iterdir()] == ["policy.json"]
    assert standing_verdict(run.path, today=TODAY) == verdict


def test_the_baseline_that_was_kept_is_the_one_that_the_verdict_names(tmp_path: Path) -> None:
    folder = RunFolder(stored(with_score(clean_run(), "p1", 0.2), tmp_path / "run", judged_by=None))
    given = circumstances(None, passing(tmp_path / "before"), today=TODAY)
    judge_run(folder, REGRESSION, given, today=TODAY)
    rewrite(folder.path / "judged" / "baseline.json", lambda said: said.update(blessed_by="the boss"))
    with pytest.raises(GateError, match="its records give other baseline than"):
        standing_verdict(folder.path, today=TODAY)
    other = stored(with_score(clean_run(), "p2", 0.3), tmp_path / "other")
    shutil.copy(other / "measurements.jsonl", folder.path / "judged" / "baseline")
    with pytest.raises(GateError, match=r"judged/baseline holds other records than judged/baseline\.json names"):
        standing_verdict(folder.path, today=TODAY)


def afresh(run: Path) -> object:
    return compare_runs(run, run, policy="strict", common_probes=False, today=TODAY)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.begins_with)
def test_a_stage_that_was_cut_short_is_never_a_pass(stage: Stage, tmp_path: Path) -> None:
    run = RunFolder(passing(tmp_path / "run"))
    assert judge_run(run, STRICT, Circumstances(), today=TODAY).decision == "pass"
    (run.path / stage.end).unlink()
    with pytest.raises(GateError, match="judged again"):
        READERS["verdict"](run.path)
    verdict = judge_run(run, STRICT, Circumstances(), today=TODAY)
    assert verdict.decision == "inconclusive"
    said = f"the stage that begins with {stage.begins_with} did not end: give the same command again"
    assert verdict.reasons == (said,)
    assert verdict.exit_code == 11


def test_a_row_that_was_edited_is_refused_even_where_verdict_and_digests_were_made_to_fit(run: Path) -> None:
    path = run / "measurements.jsonl"
    path.write_text(path.read_text().replace("0.02", "0.99"))
    folder = RunFolder(run)
    verdict = folder.data().verdict
    assert verdict is not None
    folder.write_verdict(replace(verdict, records=folder.data().digests))
    for read in (READERS["verdict"], afresh):
        with pytest.raises(GateError, match=r"measurements\.jsonl was edited"):
            read(run)


def test_waivers_that_somebody_else_approved_are_refused_where_reviewers_are_demanded(tmp_path: Path) -> None:
    run = stored(with_score(clean_run(), "p1", 0.02), tmp_path / "run", waivers=(waiver(probe="p1"),))
    reviewers = tmp_path / "run-waivers" / "reviewers.pub"
    assert standing_verdict(run, today=TODAY, reviewers=reviewers).decision == "pass"
    other = new_key_pair(tmp_path / "other").public
    with pytest.raises(GateError, match="approval") as refused:
        standing_verdict(run, today=TODAY, reviewers=other)
    assert refused.value.exit_code == 2


def test_a_run_that_was_not_judged_is_still_reported_as_such(tmp_path: Path) -> None:
    run = RunFolder(stored(clean_run(), tmp_path / "run", judged_by=None))
    assert judged_again(run).verdict is None
    write_reports(run)
    assert "not judged" in (run.path / "summary.md").read_text().lower()


def test_a_milder_policy_does_not_pass_under_a_shipped_ones_name(tmp_path: Path) -> None:
    mild = policy_with(rules=[{"rule": "invmm_below", "threshold": 0.0001}])
    run = stored(with_score(clean_run(), "p1", 0.02), tmp_path / "run", judged_by=mild)
    assert judged_again(RunFolder(run)).verdict is not None, "what it says of itself is so"
    for demanded in (None, "strict"):
        with pytest.raises(GateError, match=r"under 'strict' with the digest .*; expected strict with") as no:
            standing_verdict(run, today=TODAY, policy=demanded)
        assert no.value.exit_code == 2
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps(mild.model_dump(mode="json", exclude_unset=True)))
    with pytest.raises(ConfigError, match="strict is the name of a shipped policy"):
        standing_verdict(run, today=TODAY, policy=str(own))
