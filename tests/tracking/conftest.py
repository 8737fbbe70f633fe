"""A small run with its folder, and a real MLflow server on loopback."""

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.core.records import (
    Confirmation,
    CurvePoint,
    Interval,
    Measurement,
    MetricRecord,
    ModelManifest,
    Probe,
    ProbeSet,
    ReplicationShare,
    Trial,
)
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Finding, Verdict
from invmm_gate.report.formats import render_html
from invmm_gate.report.to_markdown import render_summary
from tests.policy.policy_builders import CONTEXT, SCOPE, STRICT, inputs_of
from tests.registry.servers import mlflow_server

CAPTION = "canary caption of a private heron"
SOURCE = "private-archive.example/originals"
PROMPT = "canary prompt xq heron reed"
IMAGE = b"\x89PNG\r\n\x1a\ncanary-image-bytes-5b1f"


def measurement(probe, score):
    trial = Trial(
        seed=0,
        outcome="inverted" if score is not None else "not_inverted",
        invmm=score,
        invmm_above=None,
        steps=100,
        evaluations=900,
        mirrored=False,
        guidance_scale=None,
        tested_at=50,
        share=ReplicationShare(
            hits=8 if score is not None else 0,
            trials=8,
            interval=Interval(low=0.0, high=1.0, confidence=0.95, method="wilson"),
        ),
        confirmation=None,
        curve=tuple(
            CurvePoint(step=step, denoising_error=0.1 / (step + 1), normality=0.01, weight=1.0, best_value=None)
            for step in (0, 50, 100)
        ),
    )
    return Measurement(
        probe=probe,
        group="sensitive",
        category="birds",
        outcome=trial.outcome,
        invmm=score,
        invmm_above=None,
        invmm_spread=None,
        share=trial.share,
        steps=100,
        evaluations=900,
        guidance_scale=None,
        trials=(trial,),
    )


def make_data(fingerprint="f" * 64):
    probes = tuple(
        Probe(
            id=f"p-{n}",
            path=f"images/{SOURCE}/p-{n}.png",
            sha256="0" * 64,
            group="sensitive",
            line=n + 2,
            caption=CAPTION,
            source=SOURCE,
        )
        for n in range(3)
    )
    run = RunRecord(
        schema_version=1,
        run_id="run-1",
        fingerprint=fingerprint,
        created_at="2026-11-21T22:11:04Z",
        model=ModelManifest(path="m", name="memorizing", pipeline="DDPMPipeline", files=(), digest="d" * 64),
        probe_set=ProbeSet(folder="probes", probes=probes, digest="e" * 64),
        metric=MetricRecord(name="pixel_rmse", threshold=0.1, higher_is_copy=False),
        inputs=replace(inputs_of(STRICT), versions={"odd [name]?": "1"}, device=f"made from {SOURCE}"),
        context=CONTEXT,
    )
    found = Finding(rule="invmm_below", effect="block", probe="p-1", message="too low", value=0.01, limit=0.03)
    return RunData(
        run=run,
        measurements=(measurement("p-0", None), measurement("p-1", 0.01), measurement("p-2", 0.02)),
        confirmations=(
            Confirmation(
                probe="p-1",
                method="gcg",
                status="confirmed",
                hits=3,
                trials=10,
                interval=Interval(low=0.1, high=0.6, confidence=0.95, method="clopper_pearson"),
                evaluations=500,
                closest=0.02,
                prompt=PROMPT,
                token_ids=(918273645, 918273646),
            ),
        ),
        seconds={"p-0": 1.5, "p-1": 2.5},
        verdict=Verdict(
            schema_version=1,
            decision="block",
            reasons=("1 finding",),
            findings=(found,),
            waivers=(),
            policy="strict",
            policy_digest="a" * 64,
            model_digest="d" * 64,
            probe_set_digest="e" * 64,
            fingerprint=fingerprint,
            judged_on=datetime.date(2026, 11, 21),
            counts={},
            tested=SCOPE,
        ),
    )


def fill(folder: Path, data):
    """The files of a run folder, private ones included."""
    (folder / "inversions").mkdir(parents=True)
    (folder / "copies").mkdir()
    (folder / "copies" / "p-1-0.png").write_bytes(IMAGE)
    (folder / "inversions" / "p-1.safetensors").write_bytes(IMAGE)
    (folder / "run.json").write_text(json.dumps({"captions": [CAPTION], "source": SOURCE}))
    (folder / "verdict.json").write_text(json.dumps({"decision": "block"}))
    (folder / "measurements.jsonl").write_text('{"probe": "p-0"}\n')
    (folder / "confirmations.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n")
    (folder / "report.html").write_text(render_html(data))
    (folder / "summary.md").write_text(render_summary(data))
    return folder


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def folder(tmp_path, data):
    return fill(tmp_path / "run", data)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as started:
        yield started
