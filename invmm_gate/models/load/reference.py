"""The checkpoint as its users load it: diffusers' own `from_pretrained`, in a child process with limits.

What goes wrong there, with files of somebody else, ends the child alone.
"""

import io
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.records import ModelManifest
from invmm_gate.models.adapters.label_loop import with_labels
from invmm_gate.models.adapters.released_pipeline import pipeline_class, quiet, scheduler_of
from invmm_gate.models.load.observation import Call, Observation, observe
from invmm_gate.models.networks import diffusers_class
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.checkpoint_layout import BARE, Layout
from invmm_gate.models.read.components import EMA_SUFFIX
from invmm_gate.models.read.inspect import layout_of, single_file
from invmm_gate.models.read.pipelines import PIPELINES
from invmm_gate.models.read.weight_files import read_header

_MEMORY: Final = 4_000_000_000
"""Bytes that the child may take for the libraries and for what it computes, beside the weights."""
_COPIES: Final = 6
"""Bytes that it may take for each byte of weights: the file, float32 of float16, a copy while they are converted."""
SECONDS: Final = 3600
"""Wall and CPU time of the child."""
_ANSWER, _FAULT = b"\0", b"\1"


def observed_by_diffusers(manifest: ModelManifest, texts: Sequence[str] = ()) -> Observation:
    """What diffusers makes of the files, and its tokenizers of `texts`. Raises ModelError where it cannot load them or
    draw with them.

    The child ends before this returns: the caller's own model is never in memory beside the child's.
    """
    files, layout = layout_of(manifest)
    pipeline_class(layout)  # imported before the fork, as the import takes seconds
    weights = sum(files.files[path].size for path in (*layout.claimed, *files.elsewhere))
    data = in_child(partial(_observation, manifest, files, layout, texts), memory=_MEMORY + _COPIES * weights)
    header = read_header(io.BytesIO(data), size=len(data), name="the answer of the child process")
    return _unpacked(load_safetensors(data), header.metadata)


def _observation(manifest: ModelManifest, files: CheckpointFiles, layout: Layout, texts: Sequence[str]) -> bytes:
    torch.set_num_threads(1)
    pipeline = quiet(_from_pretrained(manifest, files, layout))
    for lora in (Path(lora) for lora in manifest.adapters):
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name, local_files_only=True)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    return _packed(observe(with_labels(pipeline), layout.denoiser, texts, side=layout.asked_size))


def _from_pretrained(manifest: ModelManifest, files: CheckpointFiles, layout: Layout) -> Any:
    """The pipeline as a user gets it, in float32, from local files alone."""
    _, build = pipeline_class(layout)
    local: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True}
    if layout.variant:
        local["variant"] = layout.variant
    single = single_file(manifest)
    if layout.pipeline == BARE:
        return build(unet=_bare(files, layout, single, local), scheduler=scheduler_of(layout))
    known = PIPELINES[layout.pipeline]
    absent = known.optional - layout.components.keys() - layout.tokenizers.keys()
    unused: dict[str, Any] = dict.fromkeys((known.unused & set(layout.not_loaded)) | absent)
    if single is not None:
        configurations = str(files.root / Path(single).stem)
        return build.from_single_file(str(files.root / single), config=configurations, **local, **unused)
    local["use_safetensors"] = None if manifest.pickles else True
    denoiser = layout.components[layout.denoiser]
    if denoiser.name.endswith(EMA_SUFFIX):  # averaged weights, which a user gives to the pipeline
        unused[layout.denoiser] = diffusers_class(denoiser.kind).from_pretrained(
            str(files.root / denoiser.name), **local
        )
    return build.from_pretrained(str(files.root), **local, **unused)


def _bare(files: CheckpointFiles, layout: Layout, single: str | None, local: dict[str, Any]) -> Any:
    """A network without a pipeline: from its folder, or from its file with the configuration that belongs to it."""
    build = diffusers_class(BARE)
    if single is None:
        return build.from_pretrained(str(files.root), **local)
    network = build.from_config(layout.components["unet"].config.arguments())
    network.load_state_dict(load_safetensors(files.read(single)))
    return network.eval()


def _packed(seen: Observation) -> bytes:
    """The observation as safetensors, for another process."""
    tensors = {f"latents.{index}": latents for index, latents in enumerate(seen.latents)}
    tensors |= {f"images.{index}": images for index, images in enumerate(seen.images)}
    for index, call in enumerate(seen.calls):
        tensors[f"x_t.{index}"] = call.x_t
        if call.x_0_hat is not None:
            tensors[f"x_0_hat.{index}"] = call.x_0_hat
    said = {
        "scheduler": seen.scheduler,
        "weights": dict(seen.weights),
        "latent_shape": list(seen.latent_shape),
        "calls": [[call.guidance_scale, call.time] for call in seen.calls],
        "runs": len(seen.images),
        "token_ids": {name: list(digests) for name, digests in seen.token_ids.items()},
    }
    plain = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"said": json.dumps(said)})


def _unpacked(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Observation:
    """The observation that `_packed` was given."""
    said = json.loads(metadata["said"])
    return Observation(
        scheduler=said["scheduler"],
        weights=said["weights"],
        latent_shape=tuple(said["latent_shape"]),
        calls=tuple(
            Call(guidance_scale=scale, time=time, x_t=tensors[f"x_t.{index}"], x_0_hat=tensors.get(f"x_0_hat.{index}"))
            for index, (scale, time) in enumerate(said["calls"])
        ),
        latents=tuple(tensors[f"latents.{index}"] for index in range(said["runs"])),
        images=tuple(tensors[f"images.{index}"] for index in range(said["runs"])),
        token_ids=said["token_ids"],
    )


def in_child(work: Callable[[], bytes], *, memory: int) -> bytes:
    """The result of `work`, done in a fork of this process that may take `memory` bytes more and write no file.

    The child computes with one thread, as PyTorch's data loaders do: a fork has none of its parent's threads.
    Raises ModelError with the exception that ended `work`, and where a limit ended the child.
    """
    forks = multiprocessing.get_context("fork")
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=_serve, args=(sender, work, memory))
    process.start()
    sender.close()
    try:
        reply = receiver.recv_bytes() if receiver.poll(SECONDS) else b""
    except (EOFError, OSError):
        reply = b""
    finally:
        process.kill()
        process.join()
        receiver.close()
    if reply[:1] == _ANSWER:
        return reply[1:]
    raise ModelError(
        reply[1:].decode() if reply else _ended(process.exitcode, memory),
        expected="a checkpoint that diffusers loads and draws with, as its users do",
        do="load it with diffusers' from_pretrained and call it once; what fails there fails here",
    )


def _ended(code: int | None, memory: int) -> str:
    return (
        f"the process in which diffusers loads the checkpoint ended without an answer (code {code}); it may take "
        f"{memory / 1e9:.1f} GB and {SECONDS // 60} minutes"
    )


def _serve(sender: Connection, work: Callable[[], bytes], memory: int) -> None:
    _limit(memory)
    _silence()
    try:
        reply = _ANSWER + work()
    except BaseException as error:  # whatever the libraries raise for this file, the parent must hear of it
        reply = _FAULT + f"diffusers cannot load this checkpoint or draw with it: {_said(error)}".encode()
    sender.send_bytes(reply)
    sender.close()


def _said(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _silence() -> None:
    """The libraries' warnings are for somebody who loads a model by hand."""
    nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    sys.stdout = sys.stderr = nothing
    for stream in (1, 2):
        os.dup2(nothing.fileno(), stream)
