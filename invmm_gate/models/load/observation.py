"""A diffusers pipeline seen from outside: its weights, its image size, the outputs of its network."""

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.models.adapters.chats import CHATS, Chat
from invmm_gate.models.adapters.class_conditional import labels_of_network
from invmm_gate.models.adapters.label_loop import classes_of_network
from invmm_gate.models.adapters.network_calls import call_of
from invmm_gate.models.networks import diffusers, hushed

PROMPT: Final = "a red house by a lake"
STEPS: Final = 4
"""The fewest that PNDMScheduler takes."""
LABEL: Final = 0
"""The class that models with labels are asked for."""
GUIDANCE_SCALES: Final = (1.0, 7.0)
"""Without and with the unconditional branch."""
SMALL: Final = 16
"""Largest side of the latents that pipelines with prompts are tried at: the network is the same at each size."""
_SEED: Final = 20_240_508


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One step of a pipeline with a guidance scale: what went into the network, and what the scheduler was given."""

    guidance_scale: float
    x_t: Float[Tensor, "1 channel height width"]
    """As the network was given it: scaled to unit variance."""
    time: float
    """As the network was told it."""
    x_0_hat: Float[Tensor, "1 channel height width"] | None
    """What a scheduler of diffusers makes of the guided prediction, before any limit; None between two timesteps."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """A pipeline, seen from outside."""

    scheduler: str
    """Class name."""
    weights: Mapping[str, str]
    """sha256 of each component's tensors, by name, as float32."""
    latent_shape: tuple[int, ...]
    """(channel, height, width) of what the pipeline denoises, when nobody names a size unless one was asked for."""
    calls: tuple[Call, ...]
    latents: tuple[Float[Tensor, "1 channel height width"], ...]
    """What was reached, for each guidance scale."""
    images: tuple[Float[Tensor, "1 3 image_height image_width"], ...]
    """The same as images in [-1, 1]."""
    token_ids: Mapping[str, Sequence[str]]
    """For each tokenizer a digest of the ids of each text that was asked for."""


def observe(pipeline: Any, denoiser: str, texts: Sequence[str] = (), *, side: int | None = None) -> Observation:
    """A few steps with given noise at each guidance scale, and what the tokenizers make of `texts`.

    `denoiser` names the component that predicts. `side`: of the images that are asked for; None = as by default.
    """
    network: nn.Module = pipeline.components[denoiser]
    shape = _asked_shape(pipeline, network, side)
    scales = GUIDANCE_SCALES if _guides(pipeline, network) else (1.0,)
    runs = [_run(pipeline, network, shape, scale) for scale in scales]
    return Observation(
        scheduler=type(pipeline.scheduler).__name__,
        weights={name: _digest(part) for name, part in pipeline.components.items() if isinstance(part, nn.Module)},
        latent_shape=shape,
        calls=tuple(call for calls, _, _ in runs for call in calls),
        latents=tuple(latents for _, latents, _ in runs),
        images=tuple(images for _, _, images in runs),
        token_ids=_token_ids(pipeline, texts),
    )


def _prompted(pipeline: Any) -> bool:
    return "tokenizer" in pipeline.components


def _guides(pipeline: Any, network: nn.Module) -> bool:
    """Whether the pipeline can follow a guidance scale."""
    labelled = classes_of_network(network) > 0
    return labels_of_network(network, pipeline.device).guided if labelled else _prompted(pipeline)


def _asked(pipeline: Any, network: nn.Module) -> dict[str, Any]:
    """What the pipeline is asked to draw."""
    if classes_of_network(network):
        return {"class_labels": [LABEL]}
    return {"prompt": PROMPT} if _prompted(pipeline) else {}


class _FirstCallError(Exception):
    """Ends a pipeline where its network would be evaluated for the first time."""


def _asked_shape(pipeline: Any, network: nn.Module, side: int | None) -> tuple[int, ...]:
    size = {} if side is None else {"height": side, "width": side}
    shapes: list[tuple[int, ...]] = []

    def look(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        shapes.append(tuple(call_of(network).seen(arguments, named).x_t.shape[1:]))
        raise _FirstCallError

    handle = network.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with hushed():
            pipeline(**_asked(pipeline, network), **size, num_inference_steps=STEPS)
    except _FirstCallError:
        return shapes[0]
    finally:
        handle.remove()
    raise RuntimeError("the pipeline draws without its network")


def _run(
    pipeline: Any, network: nn.Module, shape: tuple[int, ...], guidance_scale: float
) -> tuple[list[Call], Tensor, Tensor]:
    """Calls, last latents and image."""
    generator = torch.Generator().manual_seed(_SEED)
    given: dict[str, Any] = {"num_inference_steps": STEPS, "generator": generator, "output_type": "np"}
    given |= _asked(pipeline, network)
    if classes_of_network(network):
        given["guidance_scale"] = guidance_scale
    if _prompted(pipeline):
        given |= call_of(network).told(guidance_scale, 1) | _small(pipeline, shape)
    with hushed(), _recorded(pipeline, network, guidance_scale, generator) as (calls, reached):
        image = torch.from_numpy(pipeline(**given).images)
    return calls, reached[-1], (image.permute(0, 3, 1, 2) * 2 - 1).expand(-1, 3, -1, -1)


def _small(pipeline: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """A size that costs little; Stable Diffusion XL is told the one that it draws at by itself."""
    factor = getattr(pipeline, "vae_scale_factor", 8)
    sides = {side: min(SMALL, size) * factor for side, size in zip(("height", "width"), shape[1:], strict=True)}
    if (
        "use_resolution_binning" in inspect.signature(type(pipeline).__call__).parameters
    ):  # of small sides it makes large
        return {**sides, "use_resolution_binning": False}
    if "text_encoder_2" not in pipeline.components or "transformer" in pipeline.components:
        return sides
    whole = tuple(size * factor for size in shape[1:])
    return sides | {"original_size": whole, "target_size": whole}


@contextmanager
def _recorded(
    pipeline: Any, network: nn.Module, guidance_scale: float, generator: torch.Generator
) -> Iterator[tuple[list[Call], list[Tensor]]]:
    """The calls of the network with what the scheduler is given of them, and the latents after each step."""
    inputs: list[tuple[Tensor, float]] = []
    calls: list[Call] = []
    reached: list[Tensor] = []
    step, call = pipeline.scheduler.step, call_of(network)

    def note_input(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        seen = call.seen(arguments, named)
        inputs.append((seen.x_t[:1].detach().clone(), seen.time))

    def note_step(output: Tensor, *arguments: Any, **named: Any) -> Any:
        x_t, time = inputs[-1]
        x_0_hat = _x_0_hat(pipeline.scheduler, call.unpacked(output), x_t, time)
        calls.append(Call(guidance_scale=guidance_scale, x_t=x_t, time=time, x_0_hat=x_0_hat))
        if "generator" in inspect.signature(step).parameters:  # LDMPipeline gives none: noise of a global stream
            named.setdefault("generator", generator)
        result = step(output, *arguments, **named)
        latents = result[0] if isinstance(result, tuple) else result.prev_sample
        reached.append(call.unpacked(latents)[:1].detach().clone())
        return result

    handle = network.register_forward_hook(note_input, with_kwargs=True)
    pipeline.scheduler.step = functools.wraps(step)(note_step)  # pipelines look at the signature of `step`
    try:
        yield calls, reached
    finally:
        handle.remove()
        del pipeline.scheduler.step


def _x_0_hat(scheduler: Any, output: Tensor, x_t: Tensor, time: float) -> Tensor | None:
    """By DDPMScheduler with the scheduler's own configuration; for flow matching x_t - s * velocity."""
    output = output[: x_t.shape[0], : x_t.shape[1]].float()  # DiTPipeline steps both branches of guidance
    if scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        sigma: float = time / scheduler.config.num_train_timesteps
        return x_t.float() - sigma * output
    if not time.is_integer():
        return None
    plain = {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}
    converter = diffusers().DDPMScheduler.from_config(scheduler.config, **plain)
    converted: Tensor = converter.step(output.cpu(), int(time), x_t.float().cpu()).pred_original_sample
    return converted


def _digest(part: nn.Module) -> str:
    """sha256 over name, shape and float32 bytes of each tensor of the state, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


_MOST_TOKENS: Final = 1024
"""Tokens of one text, where the tokenizer has no limit: more than any pipeline reads."""


def _token_ids(pipeline: Any, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each tokenizer of a pipeline a digest of each text's ids, padded and cut as the pipeline does it.

    One text at a time: a tokenizer would take threads for several, which a forked process has none of.
    """
    parts = {name: part for name, part in sorted(pipeline.components.items()) if name.startswith("tokenizer")}
    chat = CHATS.get(type(pipeline).__name__)
    return {
        name: tuple(hashlib.sha256(repr(_ids(part, text, chat)).encode()).hexdigest()[:32] for text in texts)
        for name, part in parts.items()
        if part is not None
    }


def _ids(tokenizer: Any, text: str, chat: Chat | None) -> list[int]:
    text = text if chat is None else chat.written(tokenizer, text)
    length = min(tokenizer.model_max_length, _MOST_TOKENS)
    ids: list[int] = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
    return ids
