"""A run that passes every shipped policy, and ways to spoil it."""

import datetime
import functools
import hashlib
import math
from dataclasses import replace
from typing import Any

from invmm_gate.core.intervals import clopper_pearson, replication_share, upper_bound
from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.records import (
    Confirmation,
    CurvePoint,
    Measurement,
    MetricRecord,
    ModelFile,
    ModelManifest,
    Probe,
    ProbeSet,
    SelfCheck,
    Trial,
)
from invmm_gate.core.run_records import RunContext, RunData, RunInputs, RunRecord, Samplers
from invmm_gate.core.settings import Family
from invmm_gate.core.verdict_records import Scope, Waiver
from invmm_gate.policy.schema import Policy, load_policy

TODAY = datetime.date(2026, 3, 1)
STRICT = load_policy("strict")
STANDARD = load_policy("standard")
PERMISSIVE = load_policy("permissive")
REVIEWER = "339e2ff917630507b6a423b5ce084e285d1fa65d93b3e27a6195d3bbebc9ae23"
"""Id of the key that approved a waiver: that of tests/stages/given_waivers.py."""

SENSITIVE = ("p1", "p2", "p3")
MORE = tuple(f"m{number}" for number in range(1, 6))
"""Probes that nothing ever happens to: the shipped policies ask for so many."""
CONTROLS = tuple(f"c{number:02}" for number in range(20))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def probe(name: str, *, group: str = "sensitive", category: str = "", image: str = "") -> Probe:
    return Probe(
        id=name,
        path=f"{name}.png",
        sha256=digest(image or name),
        group=group,
        line=2,
        category=category,  # type: ignore[arg-type]
    )


def trial(outcome: str, **changes: Any) -> Trial:
    point = CurvePoint(step=50, denoising_error=0.02, normality=0.12, weight=0.5, best_value=None)
    base = Trial(
        seed=0,
        outcome=outcome,  # type: ignore[arg-type]
        invmm=None,
        invmm_above=None,
        steps=400,
        evaluations=10_000,
        mirrored=False,
        guidance_scale=None,
        tested_at=400,
        share=replication_share(0, 8),
        confirmation=None,
        curve=(point,),
    )
    return replace(base, **changes)


def measured(target: Probe, score: float | None = None, *, hits: int = 0, **changes: Any) -> Measurement:
    """Inverted at `score`, or not inverted with `hits` of 8 samples that replicate."""
    outcome = "not_inverted" if score is None else "inverted"
    share = replication_share(8 if score is not None else hits, 8)
    base = Measurement(
        probe=target.id,
        group=target.group,
        category=target.category,
        outcome=outcome,  # type: ignore[arg-type]
        invmm=score,
        invmm_above=None,
        invmm_spread=None if score is None else (score, score),
        share=share,
        steps=400,
        evaluations=10_000,
        guidance_scale=None,
        trials=(trial(outcome, invmm=score, share=share),),
    )
    return replace(base, **changes)


def stopped(target: Probe, bound: float, **changes: Any) -> Measurement:
    trials = (trial("above_threshold", invmm_above=bound),)
    return measured(target, outcome="above_threshold", invmm_above=bound, trials=trials, **changes)


def broken(target: Probe) -> Measurement:
    return measured(target, outcome="error", share=None, trials=(), reason="NaN from the network")


def sampled(name: str, hits: int = 0, trials: int = 512, **changes: Any) -> Confirmation:
    base = Confirmation(
        probe=name,
        method="plain_sampling",
        status="confirmed" if hits else "refuted",
        hits=hits,
        trials=trials,
        interval=clopper_pearson(hits, trials),
        evaluations=trials * 50,
        closest=0.2,
    )
    return replace(base, **changes)


def metric_of(policy: Policy) -> MetricRecord:
    choice = policy.metric_for(16, 16)
    return MetricRecord(name=choice.name, threshold=choice.threshold, higher_is_copy=False)


def run_of(probes: tuple[Probe, ...], policy: Policy = STRICT) -> RunRecord:
    files = (ModelFile(path="model.safetensors", size=10, sha256=digest("weights")),)
    return RunRecord(
        schema_version=1,
        run_id="r1",
        fingerprint=digest("fingerprint"),
        created_at="2026-02-28T12:00:00+00:00",
        model=ModelManifest(path="m", name="m", pipeline="DDPMPipeline", files=files, digest=digest("model")),
        probe_set=ProbeSet(folder="probes", probes=probes, digest=digest("probes")),
        metric=metric_of(policy),
        inputs=inputs_of(policy),
        context=CONTEXT,
    )


def inputs_of(policy: Policy, family: Family = "pixel") -> RunInputs:
    return RunInputs(
        model=digest("model"),
        pipeline="DDPMPipeline",
        weights="raw",
        pickles=(),
        family=family,
        probe_set=digest("probes"),
        policy=policy.digest,
        profile=policy.measure.profile,
        settings=policy.resolve_settings(family),
        confirm=policy.confirm.plan(),
        metric=metric_of(policy),
        samplers=SAMPLERS,
        seed=7,
        image_size=(16, 16),
        latent_shape=(3, 16, 16),
        rows=64,
        device="cpu",
        threads=1,
        code=digest("code"),
        environment="e" * 64,
        versions={"invmm-gate": "0.1.0", "torch": "2.13.0"},
    )


CONTEXT = RunContext(
    command="invmm-gate check", policy="strict", device="cpu", seed_given=False, guidance_distilled=False,
    truncated_captions={},
)  # fmt: skip


SCOPE = Scope(
    image_size=(16, 16), samplers=("DDPMPipeline, DDPMScheduler", "deterministic"), sampler_steps=50,
    guidance_scales=(1.0,), seed=7, seed_chosen=False,
)  # fmt: skip
SAMPLED = ("plain_sampling", "plain_sampling_on_grid")
CAPTIONED = ("caption", "caption_on_grid")
"""Each way of confirming with both samplers: the released one and that of the measure."""
SAMPLERS = Samplers(released="DDPMPipeline, DDPMScheduler", grid="deterministic")
ENDS = ("model_unchanged", "model_unchanged_in_confirm")
CHECKS = (
    SelfCheck(name="positive_control", passed=True, detail="inverted", value=0.004, limit=0.05),
    SelfCheck(name="utility_floor", passed=True, detail="denoises the controls", value=0.02, limit=0.1),
    SelfCheck(name="round_trip", passed=True, detail="images come back", value=1.0, limit=0.5),
    SelfCheck(name="told_time", passed=True, detail="its own timesteps are best", value=-0.2, limit=0.15),
    SelfCheck(name="samples", passed=True, detail="samples look like the controls", value=0.9, limit=0.4),
    SelfCheck(name="natural_view", passed=True, detail="no other view is more natural", value=0.1, limit=0.8),
    *(SelfCheck(name=name, passed=True, detail="as it was") for name in ENDS),
)
SEARCH_CHECK = SelfCheck(name="search_control", passed=True, detail="the search finds what is there", value=4.0)
"""Demanded where a prompt was searched."""


@functools.cache
def clean_run(policy: Policy = STRICT, *, controls: int = len(CONTROLS), more: tuple[str, ...] = MORE) -> RunData:
    """Three probes, those of `more` and the controls: nothing inverted, nothing sampled."""
    groups = dict(zip(SENSITIVE, ("sensitive", "duplicated", "canary"), strict=True)) | dict.fromkeys(more, "sensitive")
    probes = tuple(probe(name, group=group, category="faces") for name, group in groups.items()) + tuple(
        probe(name, group="control") for name in CONTROLS[:controls]
    )
    return RunData(
        run=run_of(probes, policy),
        self_checks=CHECKS,
        measurements=tuple(measured(each) for each in probes),
        confirmations=tuple(sampled(each.id, method=way) for way in SAMPLED for each in probes),
    )


def text_run(policy: Policy = STRICT, *, more: tuple[str, ...] = MORE) -> RunData:
    """The same of a text-to-image model: p1 and p2 have captions; neither these nor the empty prompt bring out any."""
    data = clean_run(policy, more=more)
    captions = {"p1": "a cat on a mat", "p2": "a dog in fog"}
    probes = tuple(replace(each, caption=captions.get(each.id, "")) for each in data.run.probe_set.probes)
    family: Family = "stable_diffusion"
    run = replace(
        data.run,
        probe_set=replace(data.run.probe_set, probes=probes),
        inputs=inputs_of(policy, family),
    )
    tried = tuple(sampled(each.id, 0, 64, method=way) for way in CAPTIONED for each in probes)
    return replace(data, run=run, confirmations=tried, self_checks=(*CHECKS, SEARCH_CHECK))


LABELLED = ("label", "label_on_grid")


def label_run(policy: Policy = STRICT, *, more: tuple[str, ...] = ()) -> RunData:
    """The same of a class-conditional model: p1 has a label, for the others one was found."""
    data = clean_run(policy, more=more)
    probes = tuple(replace(each, label=3 if each.id == "p1" else None) for each in data.run.probe_set.probes)
    run = replace(
        data.run,
        probe_set=replace(data.run.probe_set, probes=probes),
        inputs=inputs_of(policy, "class_pixel"),
    )
    tried = tuple(
        sampled(each.id, 0, 64, method=way, label=3, guidance_scale=1.0) for way in LABELLED for each in probes
    )
    measured = tuple(replace(each, label=3, label_found=each.probe != "p1") for each in data.measurements)
    return replace(data, run=run, confirmations=tried, measurements=measured)


def target(data: RunData, name: str) -> Probe:
    return next(each for each in data.run.probe_set.probes if each.id == name)


def with_measurement(data: RunData, *records: Measurement) -> RunData:
    """The run with these measurements in place of those of the same probes."""
    new = {record.probe: record for record in records}
    kept = tuple(new.get(record.probe, record) for record in data.measurements)
    copied = (estimated(record.probe) for record in records if record.share is not None and record.share.hits)
    return with_likelihood(replace(data, measurements=kept), *copied)


def estimated(name: str, nats: float | None = 100.0, **changes: Any) -> Likelihood:
    """At least exp(-nats); by default so unlikely that no rule blocks it."""
    base = Likelihood(
        probe=name,
        prompt_kind="none",
        nats=nats,
        lower=0.0 if nats is None else math.exp(-nats),
        estimate=0.0 if nats is None else min(1.0, 5 * math.exp(-nats)),
        upper=upper_bound(0, 512, confidence=0.975),
        confidence=0.95,
        method="importance_sampling",
        draws=128,
        copies=0 if nats is None else 40,
        plain_draws=512,
        plain_copies=0,
        evaluations=6_400,
    )
    return replace(base, **changes)


def with_likelihood(data: RunData, *records: Likelihood) -> RunData:
    new = {record.probe: record for record in records}
    kept = tuple(new.pop(record.probe, record) for record in data.likelihoods)
    return replace(data, likelihoods=(*kept, *new.values()))


def with_score(data: RunData, name: str, score: float | None, *, hits: int = 0) -> RunData:
    return with_measurement(data, measured(target(data, name), score, hits=hits))


def with_confirmation(data: RunData, *records: Confirmation) -> RunData:
    new = {(record.probe, record.method): record for record in records}
    kept = tuple(new.pop((record.probe, record.method), record) for record in data.confirmations)
    copied = (estimated(record.probe) for record in records if record.hits)
    return with_likelihood(replace(data, confirmations=(*kept, *new.values())), *copied)


def without(data: RunData, *names: str) -> RunData:
    """The run without the measurements of these probes."""
    return replace(data, measurements=tuple(record for record in data.measurements if record.probe not in names))


def with_probes(data: RunData, *changed: Probe) -> RunData:
    """The run with these probes in place of, or after, those of the probe set."""
    new = {each.id: each for each in changed}
    kept = tuple(new.pop(each.id, each) for each in data.run.probe_set.probes)
    probes = replace(data.run.probe_set, probes=(*kept, *new.values()))
    return replace(data, run=replace(data.run, probe_set=probes))


def waiver(**changes: Any) -> Waiver:
    """One that a reviewer signed."""
    base = Waiver(reason="agreed", owner="ann", expires=datetime.date(2026, 12, 31), approved_by=REVIEWER, line=3)
    return replace(base, **changes)


def policy_with(policy: Policy = STRICT, **changes: Any) -> Policy:
    """A policy with other top-level entries, validated anew."""
    data = policy.model_dump(exclude_unset=True) | changes
    return Policy.model_validate(data)
