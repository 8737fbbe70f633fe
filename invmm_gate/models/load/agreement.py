"""One truth: the model that is measured is held against diffusers' own loading of the same files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import torch
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import DiffusionModel, NoiseLevel, label_side
from invmm_gate.core.records import ModelManifest
from invmm_gate.diffusion.schedule import FlowMatching
from invmm_gate.models.adapters.released_pipeline import PipelineSampler
from invmm_gate.models.load.load import load_model
from invmm_gate.models.load.observation import LABEL, PROMPT, Call, Observation, observe
from invmm_gate.models.load.reference import observed_by_diffusers
from invmm_gate.models.read.inspect import layout_of

TOLERANCE: Final = 1e-3
"""A share of the largest value that diffusers gives; float32 on other kernels differs by about 1e-5 of it."""
_MOST: Final = 5


def load_verified(manifest: ModelManifest, *, device: str = "cpu", texts: Sequence[str] = ()) -> DiffusionModel:
    """`load_model`, held against diffusers: same weights, same sizes, same x_0_hat, same two steps, same images.

    `texts` are the prompts that will be tried: each must be the same tokens to both. Raises ModelError that says what
    differs, and what `load_model` and `observed_by_diffusers` raise.
    """
    try:
        theirs = observed_by_diffusers(manifest, texts)
    except ModelError:
        load_model(manifest)  # what is wrong with a file it says more precisely, where it is wrong here too
        raise
    model = load_model(manifest, device=device)
    exact = not manifest.adapters  # diffusers rounds otherwise where it fuses a LoRA
    layout = layout_of(manifest)[1]
    require_agreement(model, theirs, denoiser=layout.denoiser, exact=exact, texts=texts, side=layout.asked_size)
    return model


def require_agreement(
    model: DiffusionModel,
    theirs: Observation,
    *,
    denoiser: str,
    exact: bool = True,
    texts: Sequence[str] = (),
    side: int | None = None,
) -> None:
    """Raise ModelError unless the model is what diffusers loaded; without `exact` weights may differ in rounding.

    `side`: of the images that were asked for, where they were not of the pipeline's own size.
    """
    if not isinstance(model.released, PipelineSampler):
        raise ModelError("the model has no pipeline to draw with", expected="a checkpoint with a scheduler")
    ours = observe(model.released.pipeline, denoiser, texts, side=side)
    read = _of_tokens(ours.token_ids, theirs.token_ids, texts)
    found = list(chain(read, _of_pipelines(ours, theirs, exact=exact), _of_measure(model, theirs)))
    if found:
        raise ModelError(
            f"what is measured is not what diffusers makes of these files: {'; '.join(found[:_MOST])}",
            expected=f"equal weights and sizes, and values within {TOLERANCE:g} of the largest",
            do="save the pipeline again with diffusers and check that copy",
        )


def _of_tokens(
    ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> list[str]:
    """One sentence for each tokenizer that does not read every text as the other side's does; a caption is private."""
    said = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = tuple(ours.get(name, ())), tuple(theirs.get(name, ()))
        if len(mine) != len(texts) or len(other) != len(texts):
            said.append(f"{name} reads {len(mine)} of {len(texts)} captions here and {len(other)} there")
        elif different := sum(one != two for one, two in zip(mine, other, strict=True)):
            said.append(f"{name} reads {different} of {len(texts)} captions as other tokens")
    return said


def _of_pipelines(ours: Observation, theirs: Observation, *, exact: bool) -> Iterator[str]:
    """The differences between the pipeline around the measured modules and the one that diffusers loads."""
    if ours.scheduler != theirs.scheduler:
        yield f"the scheduler is {ours.scheduler}, diffusers' {theirs.scheduler}"
    names = ours.weights.keys() | theirs.weights.keys()
    other = sorted(name for name in names if ours.weights.get(name) != theirs.weights.get(name))
    if exact and other:
        yield f"the weights of {', '.join(other)} differ"
    if ours.latent_shape != theirs.latent_shape or len(ours.calls) != len(theirs.calls):
        yield f"the pipeline denoises {ours.latent_shape} in {len(ours.calls)} calls, diffusers' "
        yield f"{theirs.latent_shape} in {len(theirs.calls)}"
        return
    for number, (mine, their) in enumerate(zip(ours.calls, theirs.calls, strict=True), start=1):
        yield from _far(f"x_t at call {number}", mine.x_t, their.x_t)
        if mine.x_0_hat is not None and their.x_0_hat is not None:
            yield from _far(f"x_0_hat of the pipeline at call {number}", mine.x_0_hat, their.x_0_hat)
    for mine_image, their_image in zip(ours.images, theirs.images, strict=True):
        yield from _far("the image", mine_image, their_image)


def _of_measure(model: DiffusionModel, theirs: Observation) -> Iterator[str]:
    """What differs between what the measure takes for x_0, and for its image, and what diffusers does."""
    if theirs.latent_shape != model.latent_shape:
        yield f"{model.latent_shape} is measured, diffusers' pipeline denoises {theirs.latent_shape}"
    if all(call.x_0_hat is None for call in theirs.calls):
        yield "diffusers' pipeline visits no timestep of the noise schedule"
    for call in theirs.calls:
        if call.x_0_hat is not None:
            yield from _far(f"x_0_hat at time {call.time:g}", _estimate(model, call), call.x_0_hat)
    for latents, image in zip(theirs.latents, theirs.images, strict=True):
        yield from _far("the decoded latent", model.decode(latents.to(model.device)), image)


def _estimate(model: DiffusionModel, call: Call) -> Tensor:
    words = PROMPT if label_side(model) is None else str(LABEL)
    condition = None if model.prompts is None else model.prompts.encode([words])
    with torch.no_grad():
        return model.estimate_x_0(
            call.x_t.to(model.device),
            _level(model, call.time),
            condition=condition,
            guidance_scale=call.guidance_scale,
        )


def _level(model: DiffusionModel, time: float) -> NoiseLevel:
    """The noise level at which the network is told `time`."""
    if isinstance(model.schedule, FlowMatching):
        sigma = torch.tensor([time / model.schedule.timesteps], device=model.device)
        return NoiseLevel(alpha=1 - sigma, sigma=sigma, time=torch.tensor([time], device=model.device))
    return model.schedule.at(torch.tensor([int(time)], device=model.device))


def _far(what: str, ours: Tensor, theirs: Tensor) -> Iterator[str]:
    """Nothing where all values are near. NaN and infinity are near to nothing but themselves."""
    ours, theirs = ours.float().cpu(), theirs.float()
    if ours.shape != theirs.shape:
        yield f"{what} is {tuple(ours.shape)}, diffusers' {tuple(theirs.shape)}"
        return
    broken = ~(ours.isfinite() | theirs.isfinite())  # on both sides: the self-checks tell of such a model
    ours, theirs = (values.masked_fill(broken, 0) for values in (ours, theirs))
    gap, scale = float((ours - theirs).abs().max()), max(1.0, float(theirs.abs().max()))
    if not gap <= TOLERANCE * scale:
        yield f"{what} is {gap:.3g} away, of values up to {scale:.3g}"
