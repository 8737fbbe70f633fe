"""Parts of a checkpoint that are never loaded: nothing but what they are may lie in their folders.

Diffusers takes a LoRA, an adapter, a textual inversion or a second pipeline from any folder that it is pointed to.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SYSTEM_FILES
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, open_regular
from invmm_gate.models.read.layout import Layout
from invmm_gate.models.read.safetensors_header import read_header
from invmm_gate.models.read.weight_files import header_of

WEIGHTS: Final = ("model.safetensors", "model.fp16.safetensors")
"""What transformers loads of such a component, with and without `variant="fp16"`."""

_LINEAR: Final = r"\.(weight|bias)"
_TOWER: Final = (
    r"(vision_model\.){0,2}("
    r"embeddings\.(class_embedding|position_ids|position_embedding\.weight|patch_embedding" + _LINEAR + r")"
    r"|(pre_layrnorm|post_layernorm)" + _LINEAR + r"|head\.(probe|attention\.in_proj_(weight|bias))"
    r"|head\.(attention\.out_proj|layernorm|mlp\.fc[12])" + _LINEAR + r"|encoder\.layers\.\d{1,3}\."
    r"(self_attn\.(q|k|v|out)_proj|layer_norm[12]|mlp\.fc[12])" + _LINEAR + r")"
)
_HEADS: Final = r"visual_projection\.weight|concept_embeds(_weights)?|special_care_embeds(_weights)?"
_TENSOR: Final = re.compile(f"{_TOWER}|{_HEADS}")
"""Tensors of CLIP's and SigLIP's vision towers and of the safety checker, under old names and new ones."""
_PART_OF_ALL: Final = ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight")
"""One tensor alone, under whatever name, could be a textual inversion."""
_OTHER_WEIGHTS: Final = re.compile(
    r"config\.json|diffusion_pytorch_model(-\d{5}-of-\d{5})?\.safetensors|diffusion_pytorch_model\.safetensors\.index\.json"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """The files that a component's folder may hold."""

    configurations: tuple[str, ...]
    weights: tuple[str, ...] = ()


UNLOADED: Final = {
    "safety_checker": Contents(("config.json",), WEIGHTS),
    "image_encoder": Contents(("config.json",), WEIGHTS),
    "feature_extractor": Contents(("preprocessor_config.json",)),
}


def refuse_strange_content(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for a file of a component that is never loaded which is no part of that component."""
    for folder in layout.not_loaded:
        for path in files.files:
            if path.startswith(f"{folder}/"):
                _refuse_strange(files, path, PurePosixPath(folder))


def _refuse_strange(files: CheckpointFiles, path: str, folder: PurePosixPath) -> None:
    allowed, name = UNLOADED[folder.name], str(PurePosixPath(path).relative_to(folder))
    if name in allowed.weights:
        _refuse_other_tensors(files, path)
    elif name not in allowed.configurations and name.lower() not in SYSTEM_FILES:
        raise _strange(path, allowed)


def refuse_strange_left_out(left_out: Sequence[str], files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError unless the weights that --weights leaves out are another set for the network that is scored.

    The digest does not cover them; what is asked here is that diffusers finds nothing else in their folder.
    """
    scored = [path for path in layout.components[layout.denoiser].weights if path.endswith(".safetensors")]
    known = {key for path in scored for key in header_of(files, path).tensors}
    for path in left_out:
        if not _OTHER_WEIGHTS.fullmatch(path.split("/", 1)[1]):
            raise _other(path, "is no part of the network that --weights leaves out")
        if path.endswith(".safetensors"):
            with open_regular(files.root, path) as stream:
                held = read_header(stream, size=os.fstat(stream.fileno()).st_size, name=path).tensors
            if strange := sorted(held.keys() - known):
                raise _other(path, f"holds the tensor {strange[0]!a}, which the weights that are scored have not")


def _other(path: str, what: str) -> ModelError:
    return ModelError(
        f"{path!r} {what}"[:300],
        expected="the same network's raw or averaged weights, as safetensors",
        do="remove it: a LoRA or an adapter can be loaded from there, and nobody scores it",
    )


def _strange(path: str, allowed: Contents) -> ModelError:
    return ModelError(
        f"{path!r} lies in a component that is never loaded, so that nothing in it is scored",
        expected=" or ".join((*allowed.configurations, *allowed.weights)),
        do="remove it (a pickle: save it as model.safetensors), or export without this component",
    )


def _refuse_other_tensors(files: CheckpointFiles, path: str) -> None:
    keys = header_of(files, path).tensors.keys()
    strange = sorted(key for key in keys if not _TENSOR.fullmatch(key))
    missing = [name for name in _PART_OF_ALL if not any(key.endswith(name) for key in keys)]
    if strange or missing:
        what = f"holds the tensor {strange[0]!a}" if strange else f"has no tensor {missing[0]!r}"
        raise ModelError(
            f"{path!r} {what}"[:200],
            expected="a safety checker or an image encoder: nobody scores what lies here",
            do="remove it, or export without this component",
        )
