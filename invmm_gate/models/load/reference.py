"""The checkpoint as its users load it: diffusers' own `from_pretrained`, in a child process with limits."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_safetensors

from invmm_gate.core.records import ModelManifest
from invmm_gate.models.adapters.released_pipeline import pipeline_class, quiet, scheduler_of
from invmm_gate.models.load.limited_child import in_child
from invmm_gate.models.load.observation import Observation, observe, packed, unpacked
from invmm_gate.models.networks import diffusers_class
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.inspect import layout_of, single_file
from invmm_gate.models.read.layout import BARE, Layout
from invmm_gate.models.read.pipelines import PIPELINES
from invmm_gate.models.read.safetensors_header import read_header

_MEMORY: Final = 4_000_000_000
"""Bytes that the child may take for the libraries and for what it computes, beside the weights."""
_COPIES: Final = 6
"""Bytes that it may take for each byte of weights: the file, float32 of float16, a copy while they are converted."""


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
    return unpacked(load_safetensors(data), header.metadata)


def _observation(manifest: ModelManifest, files: CheckpointFiles, layout: Layout, texts: Sequence[str]) -> bytes:
    torch.set_num_threads(1)
    pipeline = quiet(_from_pretrained(manifest, files, layout))
    for lora in (Path(lora) for lora in manifest.adapters):
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name, local_files_only=True)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    return packed(observe(pipeline, layout.denoiser, texts))


def _from_pretrained(manifest: ModelManifest, files: CheckpointFiles, layout: Layout) -> Any:
    """The pipeline as a user gets it, in float32, from local files alone."""
    _, build = pipeline_class(layout)
    local: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True}
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
    if denoiser.name != layout.denoiser:  # averaged weights, which a user gives to the pipeline
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
