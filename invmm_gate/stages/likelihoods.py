"""How likely the probes come out: draws around the inverted distribution of each, beside plain samples.

Each record is written when it is made, and a rerun goes on after the records that are there. Samples that are NaN or
infinite end the work with a note: probes are left without a record, which the judge sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from safetensors.torch import load
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.likelihood_record import PromptKind
from invmm_gate.core.protocols import Condition
from invmm_gate.core.records import CAPTION, CAPTION_ON_GRID, LABEL, LABEL_ON_GRID, Probe
from invmm_gate.diffusion.samplers import seeds_from
from invmm_gate.measure.conditioning import soft_prompts
from invmm_gate.measure.extraction import Generation, PlainSamples, likelihood
from invmm_gate.measure.slots import Task
from invmm_gate.policy.confirm_schema import LikelihoodEstimate, PlainSampling, PromptConfirmation
from invmm_gate.stages.confirm_work import Confirming
from invmm_gate.stages.measure import inversion_file, kept_first

_OWN: Final = (CAPTION, CAPTION_ON_GRID, LABEL, LABEL_ON_GRID)
CHOOSING: Final = 16
"""Samples at each guidance scale that choose the one at which a caption is sampled."""


def estimate_without_prompts(work: Confirming, *, plan: LikelihoodEstimate | None, plain: PlainSampling) -> None:
    """Of each probe that the search copied at least once. The plain samples are the same for all.

    They are not held against the other probes: for these the policy's `plain_sampling` says how many samples count.
    """
    if plan is None:
        return
    done = {record.probe for record in work.folder.likelihoods()}
    probes = [probe for probe in work.copied() if probe.id not in done]
    if not probes:
        return
    generation = Generation(
        model=work.session.model,
        sampler=work.session.sampler,
        metric=work.session.metric,
        steps=plain.sampler_steps,
        rows=work.rows,
    )
    work.progress.begin("likelihood", total=plan.plain_draws + plan.draws * len(probes))
    try:
        shared = _plain_samples(work, generation, plan.plain_draws)
        for probe in probes:
            _estimate(work, generation, shared, probe, plan, kind="none")
    except MeasurementError as error:
        work.progress.note(f"no likelihood: {error}")
    work.progress.end()


def estimate_with_prompts(work: Confirming, *, plan: LikelihoodEstimate | None, plain: PromptConfirmation) -> None:
    """Of each probe that was copied at least once, by its caption, and by its soft prompt if one was inverted.

    At the guidance scale at which the caption gives most copies, or at which the inversion came nearest. None of the
    draws that count had a part in choosing it.
    """
    if plan is None:
        return
    done = {(record.probe, record.prompt_kind) for record in work.folder.likelihoods()}
    tasks = [(probe, kind) for probe in work.copied() for kind in _kinds(work, probe) if (probe.id, kind) not in done]
    if not tasks:
        return
    choosing = sum(len(_rivals(plain, kind)) * CHOOSING for _, kind in tasks)
    work.progress.begin("likelihood", total=(plain.trials + plan.draws) * len(tasks) + choosing)
    try:
        for probe, kind in tasks:
            generation = _likeliest(work, probe, plain, kind=kind)
            own = _plain_samples(work, generation, plain.trials, probe.sha256, kind)
            _estimate(work, generation, own, probe, plan, kind=kind)
    except MeasurementError as error:
        work.progress.note(f"no likelihood: {error}")
    work.progress.end()


def _likeliest(work: Confirming, probe: Probe, plain: PromptConfirmation, *, kind: PromptKind) -> Generation:
    """With the probe's prompt, at the guidance scale that brings out most copies.

    `confirm` went no further than the first scale with a copy: it asked whether, and this asks how often.
    """
    generation = Generation(
        model=work.session.model,
        sampler=work.session.sampler,
        metric=work.session.metric,
        steps=plain.sampler_steps,
        rows=work.rows,
        condition=_condition(work, probe, kind),
        guidance_scale=_copied_at(work, probe, kind) or plain.guidance_scales[0],
    )
    copies = {
        scale: _copies(work, replace(generation, guidance_scale=scale), probe, kind) for scale in _rivals(plain, kind)
    }
    best = max(copies, key=copies.__getitem__, default=0.0)
    return replace(generation, guidance_scale=best) if copies.get(best) else generation


def _rivals(plain: PromptConfirmation, kind: PromptKind) -> Sequence[float]:
    """The scales among which samples choose. Of a soft prompt the search has tried all at every test."""
    return plain.guidance_scales if kind != "soft" and len(plain.guidance_scales) > 1 else ()


def _copies(work: Confirming, generation: Generation, probe: Probe, kind: PromptKind) -> int:
    samples = _plain_samples(work, generation, CHOOSING, probe.sha256, kind, f"at {generation.guidance_scale:g}")
    return int(generation.copies(samples.features, work.references([probe])[probe.id]).sum())


def _copied_at(work: Confirming, probe: Probe, kind: PromptKind) -> float | None:
    """The scale of the records with most copies; None where nothing was a copy."""
    tried = [
        record
        for record in work.folder.confirmations()
        if record.probe == probe.id and record.method in _OWN and record.hits
    ]
    if kind != "soft" and tried:
        return max(tried, key=lambda record: record.hits / record.trials).guidance_scale
    own = (found.guidance_scale for found in work.folder.measurements() if found.probe == probe.id)
    return next(own, None)


def _kinds(work: Confirming, probe: Probe) -> Sequence[PromptKind]:
    """Without a caption the empty prompt is given: the plain sampling of a text model."""
    if work.session.labels is not None:
        return ("label",)
    by_caption: PromptKind = "caption" if probe.caption else "none"
    return (by_caption, "soft") if "prompt_logits" in _tensors(work, probe) else (by_caption,)


def _condition(work: Confirming, probe: Probe, kind: PromptKind) -> Condition:
    session = work.session
    if kind != "soft":
        return session.words.encode([session.caption(probe.id)])
    prompts = soft_prompts(
        session.model,
        session.settings,
        slots=1,
        root_seed=session.inputs.seed,
        load_caption=session.caption,
        choices=session.choices,
    )
    found = next(record for record in work.folder.measurements() if record.probe == probe.id)
    best = min(found.trials, key=lambda trial: kept_first(trial, session.record.metric))
    task = Task(probe=probe.id, content=probe.sha256, seed=best.seed, mirrored=best.mirrored)
    return prompts.of(task, best.tested_at, _tensors(work, probe)["prompt_logits"])


def _plain_samples(work: Confirming, generation: Generation, count: int, *key: str) -> PlainSamples:
    shape = work.session.model.latent_shape
    stream = work.stream("likelihood", "plain", *key)
    noises = torch.randn(count, *shape, generator=stream)
    features = torch.cat(list(_in_parts(work, generation, noises, seeds_from(stream, count))))
    return PlainSamples(noises=noises, features=features)


def _in_parts(work: Confirming, generation: Generation, noises: Tensor, seeds: Tensor) -> Iterator[Tensor]:
    for some, of_them in zip(torch.split(noises, generation.rows), torch.split(seeds, generation.rows), strict=True):
        yield generation.features(some, of_them)
        work.progress.advance(len(some))


def _estimate(
    work: Confirming,
    generation: Generation,
    plain: PlainSamples,
    probe: Probe,
    plan: LikelihoodEstimate,
    *,
    kind: PromptKind,
) -> None:
    tensors = _tensors(work, probe)
    found = likelihood(
        generation,
        plain,
        work.references([probe])[probe.id],
        (tensors["mu"], tensors["log_var"]) if tensors else None,
        draws=plan.draws,
        confidence=plan.confidence,
        generator=work.stream("likelihood", probe.sha256, kind),
        probe=probe.id,
        prompt_kind=kind,
    )
    work.folder.append(found)
    work.progress.advance(plan.draws)


def _tensors(work: Confirming, probe: Probe) -> Mapping[str, Tensor]:
    """`mu`, `log_var` and perhaps `prompt_logits` as `measure` left them; empty where no test made a copy."""
    path = work.folder.path / inversion_file(probe.id)
    return load(path.read_bytes()) if path.exists() else {}
