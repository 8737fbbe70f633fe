"""How likely the probes come out: draws around the inverted distribution of each, beside plain samples for all."""

from collections.abc import Iterator

import torch
from safetensors.torch import load
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.records import Probe
from invmm_gate.measure.extraction import Generation, PlainSamples, likelihood
from invmm_gate.policy.confirm_schema import LikelihoodEstimate, PlainSampling
from invmm_gate.stages.confirm_work import Confirming
from invmm_gate.stages.measure import inversion_file


def estimate(work: Confirming, *, plan: LikelihoodEstimate, plain: PlainSampling) -> None:
    """Record the likelihood of each probe that was copied at least once; nothing is drawn where none was.

    Samples that are NaN or infinite end it with a note: the probes stay without a record, which the judge sees.
    """
    probes = work.unestimated()
    if not probes:
        return
    generation = Generation(
        model=work.session.model, metric=work.session.metric, steps=plain.sampler_steps, rows=work.rows
    )
    work.progress.begin("likelihood", total=plain.trials + plan.draws * len(probes))
    try:
        shared = _plain_samples(work, generation, plain.trials)
        for probe in probes:
            _estimate(work, generation, shared, probe, plan)
            work.progress.advance(plan.draws)
    except MeasurementError as error:
        work.progress.note(f"no likelihood: {error}")
    work.progress.end()


def _plain_samples(work: Confirming, generation: Generation, count: int) -> PlainSamples:
    shape = work.session.model.latent_shape
    noises = torch.randn(count, *shape, generator=work.stream("likelihood", "plain"))
    return PlainSamples(noises=noises, features=torch.cat(list(_in_parts(work, generation, noises))))


def _in_parts(work: Confirming, generation: Generation, noises: Tensor) -> Iterator[Tensor]:
    for part in torch.split(noises, generation.rows):
        yield generation.features(part)
        work.progress.advance(len(part))


def _estimate(
    work: Confirming, generation: Generation, plain: PlainSamples, probe: Probe, plan: LikelihoodEstimate
) -> None:
    found = likelihood(
        generation,
        plain,
        work.references([probe])[probe.id],
        _inverted(work, probe),
        draws=plan.draws,
        confidence=plan.confidence,
        generator=work.stream("likelihood", probe.sha256),
        probe=probe.id,
        prompt_kind="none",
    )
    work.folder.append(found)


def _inverted(work: Confirming, probe: Probe) -> tuple[Tensor, Tensor] | None:
    """(mu, ln sigma^2) as `measure` left them; None where no test of the probe made a copy."""
    path = work.folder.path / inversion_file(probe.id)
    if not path.exists():
        return None
    tensors = load(path.read_bytes())
    return tensors["mu"], tensors["log_var"]
