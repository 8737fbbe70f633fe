"""The verdict on single, named situations (policy_cases.py), and the form of verdict.json."""

import dataclasses
import datetime
import json

import jsonschema
import pytest

from invmm_gate.core.verdict_records import Finding, Verdict, Waiver, WaiverState
from invmm_gate.policy.judge import judge
from invmm_gate.policy.schema import verdict_schema
from tests.policy import policy_mutants
from tests.policy.few_probes import STRICT, clean_run
from tests.policy.policy_builders import TODAY, broken, target, waiver, with_measurement, with_score

GATE = policy_mutants.gate()


@pytest.mark.parametrize("name", policy_mutants.CASES)
def test_verdict(name: str) -> None:
    policy_mutants.CASES[name](GATE)


def _as_json(record: Verdict) -> dict[str, object]:
    text = json.dumps(dataclasses.asdict(record), default=datetime.date.isoformat, allow_nan=False)
    data: dict[str, object] = json.loads(text)
    return data


def test_verdict_json_follows_the_shipped_schema() -> None:
    schema = verdict_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = clean_run()
    blocked = with_score(data, "p1", 0.01)
    runs = (data, blocked, with_measurement(data, broken(target(data, "p1"))))
    for run in runs:
        for exceptions in ((), (waiver(probe="p1"),)):
            jsonschema.validate(_as_json(judge(run, STRICT, exceptions, today=TODAY)), schema)


@pytest.mark.parametrize(
    "change", [{"decision": "pass"}, {"decision": "maybe"}, {"counts": {"probes": -1}}, {"reasons": []}]
)
def test_schema_refuses_a_verdict_that_contradicts_itself(change: dict[str, object]) -> None:
    verdict = _as_json(judge(with_score(clean_run(), "p1", 0.01), STRICT, (), today=TODAY))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(verdict | change, verdict_schema())


def test_schema_names_every_field_of_the_records() -> None:
    schema = verdict_schema()
    for record, part in ((Verdict, schema), *((kind, schema["$defs"][name]) for kind, name in _PARTS)):
        fields = {field.name for field in dataclasses.fields(record)}
        assert fields == set(part["properties"]) == set(part["required"])


_PARTS = ((Finding, "finding"), (Waiver, "waiver"), (WaiverState, "waiver_state"))
