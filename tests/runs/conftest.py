"""Records of a run of two probes, as the stages would write them."""

from dataclasses import replace

import pytest

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import (
    Confirmation,
    CurvePoint,
    Interval,
    Measurement,
    MetricRecord,
    ModelManifest,
    Probe,
    ProbeSet,
    SelfCheck,
    Trial,
)
from invmm_gate.core.run_records import ConfirmPlan, RunRecord, SamplingPlan
from invmm_gate.core.settings import InversionSettings
from invmm_gate.runs.identity import ConfirmRecord, fingerprint
from tests.policy.policy_builders import CONTEXT, STRICT, inputs_of

PROBES = ("heron", "reed")


CONFIRM = ConfirmPlan(
    plain_sampling=SamplingPlan(trials=16, sampler_steps=5, confidence=0.95, probes="all"), prompts=None
)
INPUTS = replace(
    inputs_of(STRICT),
    model="m" * 64, policy="p" * 64, probe_set="s" * 64, seed=0, rows=8, confirm=CONFIRM,
    settings=InversionSettings(steps=10, batch_size=2, stop_above=0.05),
)  # fmt: skip


def run_record(**inputs) -> RunRecord:
    decisive = replace(INPUTS, **inputs)
    probes = tuple(
        Probe(id=probe, path=f"images/{probe}.png", sha256=str(line) * 64, group="sensitive", line=line)
        for line, probe in enumerate(PROBES, start=2)
    )
    identity = fingerprint(decisive)
    return RunRecord(
        schema_version=1,
        run_id=identity[:12],
        fingerprint=identity,
        created_at="2026-11-21T22:11:04+00:00",
        model=ModelManifest(path="ckpt", name="ckpt", pipeline="DDPMPipeline", files=(), digest="m" * 64),
        probe_set=ProbeSet(folder="probes", probes=probes, digest="s" * 64),
        metric=MetricRecord(name="pixel_rmse", threshold=0.1, higher_is_copy=False),
        inputs=decisive,
        context=CONTEXT,
    )


def measurement(probe: str, invmm: float | None = 0.1) -> Measurement:
    share = replication_share(4, 4)
    trial = Trial(
        seed=0,
        outcome="inverted" if invmm is not None else "not_inverted",
        invmm=invmm,
        invmm_above=None,
        steps=10,
        evaluations=60,
        mirrored=False,
        guidance_scale=1.0,
        tested_at=50,
        share=share,
        confirmation=None,
        curve=(CurvePoint(step=10, denoising_error=0.25, normality=0.1, weight=1.0, best_value=0.05),),
    )
    return Measurement(
        probe=probe,
        group="sensitive",
        category="",
        outcome=trial.outcome,
        invmm=invmm,
        invmm_above=None,
        invmm_spread=None if invmm is None else (invmm, invmm),
        share=share,
        steps=10,
        evaluations=60,
        guidance_scale=1.0,
        trials=(trial,),
    )


def confirmation(probe: str) -> Confirmation:
    interval = Interval(low=0.0, high=0.2, confidence=0.95, method="clopper_pearson")
    return Confirmation(
        probe=probe,
        method="plain_sampling",
        status="refuted",
        hits=0,
        trials=16,
        interval=interval,
        evaluations=80,
        closest=0.3,
    )


PLAN = ConfirmRecord(policy="p" * 64, confirm=CONFIRM, rate_limit=0.0)
SELF_CHECK = SelfCheck(name="positive_control", passed=True, detail="inverted at step 0", value=0.0)


@pytest.fixture
def record() -> RunRecord:
    return run_record()
