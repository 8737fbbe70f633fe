"""A waived finding at the registry's door: two keys, a line in the audit log, and a guard that knows the reviewers."""

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.attest.demands import demands_of
from invmm_gate.attest.keys import KeyPair, load_roots, new_key_pair
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.attest.verification import check_statement
from invmm_gate.cli import run
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.core.options import Conditions, GateChoices
from invmm_gate.core.progress import Silent
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import STATE, VERDICT, is_log_entry
from invmm_gate.registry.promote.attested_files import Evidence, evidence_for
from invmm_gate.registry.promote.choices import log_of, utc_now
from invmm_gate.registry.promote.gate_version import Registered, register
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.audit_file import verify_log
from invmm_gate.stages.sign import approve_waivers
from tests.registry.conftest import FEW, Desk
from tests.registry.servers import Server
from tests.stages.world import policy_with

DAY = datetime.timedelta(days=1)
ENTRY = "- {{probe: {probe}, image: {image}, model: {model}, reason: agreed, owner: ann, expires: 2099-12-31}}\n"


@pytest.fixture
def reviewer(tmp_path: Path) -> KeyPair:
    return new_key_pair(tmp_path / "reviewer")


@pytest.fixture
def waiving(desk: Desk, reviewer: KeyPair, tmp_path: Path) -> GateChoices:
    """Choices that block the model for its planted images, waivers to come, and a reviewer who may approve them."""
    rules = [{"rule": "invmm_below", "threshold": 0.5}]
    policy = desk.world.policy(policy_with(name="waiving", confirm=FEW, rules=rules), "waiving")
    return replace(
        desk.at(tmp_path / "state").blocking,
        policy=str(policy),
        waivers=tmp_path / "waivers.yaml",
        conditions=Conditions(reviewers=reviewer.public),
    )


def registered(server: Server, name: str, choices: GateChoices, desk: Desk) -> Registered:
    return register(desk.world.model, name, Registry(server.uri), choices=choices, progress=Silent())


def waive(choices: GateChoices, blocked: Registered) -> None:
    """A waiver for every finding of a blocked version."""
    assert choices.waivers is not None
    findings = json.loads((Path(blocked.run) / "verdict.json").read_text())["findings"]
    found = {found["probe"] for found in findings}
    probes = [probe for probe in RunFolder(Path(blocked.run)).run().probe_set.probes if probe.id in found]
    choices.waivers.write_text(
        "".join(ENTRY.format(probe=probe.id, image=probe.sha256, model=blocked.model_digest) for probe in probes)
    )


def test_a_version_with_findings_is_released_once_a_reviewer_has_signed_the_waivers(
    plain_server: Server, waiving: GateChoices, desk: Desk, reviewer: KeyPair, new_name: Callable[[str], str]
) -> None:
    assert waiving.waivers is not None
    waiving.waivers.write_text("[]\n")
    registry, name = Registry(plain_server.uri), new_name("waived")
    first = registered(plain_server, name, waiving, desk)
    waive(waiving, first)
    second = registered(plain_server, name, waiving, desk)
    approve_waivers(waiving.waivers, key=reviewer.private, now=utc_now())
    third = registered(plain_server, name, waiving, desk)
    assert [done.decision for done in (first, second, third)] == ["block", "block", "pass"]
    assert [bool(done.released) for done in (first, second, third)] == [False, False, True]

    entries, head = verify_log(log_of(waiving))
    assert [entry.verdict for entry in entries] == ["block", "block", "pass_with_waiver"]
    assert {entry.model_digest for entry in entries} == {first.model_digest}
    tags = [registry.version(name, number).tags for number in ("1", "2", "3")]  # type: ignore[union-attr]
    heads = [next(value for key, value in said.items() if is_log_entry(key)) for said in tags]
    for number, said in enumerate(heads, start=1):
        assert said.startswith(f"{number}:")
        verify_log(log_of(waiving), head=said)
    assert heads[-1] == str(head)
    assert [(said[STATE], said[VERDICT]) for said in tags] == [
        ("block", "block"),
        ("block", "block"),
        ("pass", "pass_with_waiver"),
    ]
    lines = log_of(waiving).read_text().splitlines(keepends=True)
    log_of(waiving).write_text(lines[0] + lines[2])
    assert run(["audit-log", "verify", str(log_of(waiving))]) == 10, "a block was taken out"


def test_who_names_other_reviewers_releases_nothing_on_that_waiver(
    plain_server: Server,
    waiving: GateChoices,
    desk: Desk,
    reviewer: KeyPair,
    new_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    assert waiving.waivers is not None
    waiving.waivers.write_text("[]\n")
    waive(waiving, registered(plain_server, new_name("one"), waiving, desk))
    approve_waivers(waiving.waivers, key=reviewer.private, now=utc_now())
    done = registered(plain_server, new_name("one"), waiving, desk)
    stranger = new_key_pair(tmp_path / "stranger").public
    assert done.released is not None
    evidence = _evidence(Path(done.run), desk)
    roots, policies = desk.key.public, {evidence.statement.policy_digest: "blocking"}
    for reviewers, holds in ((None, True), (reviewer.public, True), (stranger, False)):
        demands = demands_of(Conditions(reviewers=reviewers), roots=load_roots(roots), policies=policies)
        if holds:
            check_statement(evidence.trusted, demands, utc_now())
            continue
        with pytest.raises(VerificationError, match="waivers: that of ann is approved by the key"):
            check_statement(evidence.trusted, demands, utc_now())


def _evidence(folder: Path, desk: Desk) -> Evidence:
    return evidence_for(
        desk.world.model, (folder / "attestation.json").read_bytes(), load_roots(desk.key.public), now=utc_now()
    )


def test_a_pass_leaves_its_summary_beside_the_attestation(passed: Registered, guarded_server: Server) -> None:
    record = Registry(guarded_server.uri).alias(f"{passed.name}-release", "champion")
    assert record is not None
    assert (Path(passed.run) / SUMMARY).is_file()
    assert (
        Registry(guarded_server.uri).artefacts.read(f"runs:/{record.run_id}/passed-v1", SUMMARY)
        == (Path(passed.run) / SUMMARY).read_bytes()
    )


def test_a_log_that_does_not_hold_together_is_told_before_anything_is_measured(
    plain_server: Server, desk: Desk, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    choices = desk.at(tmp_path / "state").passing
    log_of(choices).parent.mkdir(parents=True)
    log_of(choices).write_text("{}\n")
    with pytest.raises(ConfigError, match=r"verdicts\.jsonl: line 1: number: Field required"):
        registered(plain_server, new_name("spoilt"), choices, desk)
    assert not choices.runs.exists()
