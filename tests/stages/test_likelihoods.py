"""How likely the probes come out, on the demo's network: what `confirm` records, and what becomes of it."""

from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.policy.likelihoods import copied
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.measure import inversion_file
from tests.stages.world import Called, World, call, policy_with

LIKELY = policy_with(name="likely", rules=[{"rule": "extraction_likelihood", "one_in": 10**15}])


def likelihoods(world: World) -> dict[str, Likelihood]:
    return {found.probe: found for found in RunFolder(world.run).likelihoods()}


def test_each_probe_that_was_copied_has_a_likelihood_and_no_other_one(checked: tuple[World, Called]) -> None:
    folder = RunFolder(checked[0].run)
    metric = folder.run().metric
    tested = (found for found in folder.measurements() if any(copied(trial, metric) for trial in found.trials))
    expected = {found.probe for found in tested} | {found.probe for found in folder.confirmations() if found.hits}
    found = likelihoods(checked[0])
    assert set(found) == expected
    assert 0 < len(found) < len(folder.run().probe_set.probes)
    for record in found.values():
        assert (record.prompt_kind, record.plain_draws, record.confidence) == ("none", 16, 0.95)
        kept = (checked[0].run / inversion_file(record.probe)).exists()
        assert record.draws == (10 if kept else 0)
        assert (record.nats is None) == (record.copies + record.plain_copies == 0)
        assert record.evaluations == record.draws * 5
    assert any(record.nats is not None for record in found.values())


def test_the_rule_judges_them_and_a_line_that_was_taken_out_is_noticed(finished: World) -> None:
    policy = finished.policy(LIKELY, "likely")
    judged = call("judge", finished.run, "--policy", policy)
    assert judged.code == 10
    assert "comes out of at least" in judged.out
    kept = (finished.run / "likelihoods.jsonl").read_text().splitlines(keepends=True)
    (finished.run / "likelihoods.jsonl").write_text("".join(kept[1:]))
    assert call("judge", finished.run, "--policy", policy).code == 2, "the file is not as the stage left it"


def test_the_same_command_goes_on_after_the_records_that_are_there(finished: World) -> None:
    whole = (finished.run / "likelihoods.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (finished.run / "confirm_end.json").unlink()
    (finished.run / "likelihoods.jsonl").write_bytes(b"".join(lines[:1]) + lines[-1][:20])
    assert call("confirm", finished.run).code == 0
    assert (finished.run / "likelihoods.jsonl").read_bytes() == whole
