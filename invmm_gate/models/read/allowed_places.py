"""Which files may lie where in a checkpoint: exact names for each folder. Whatever else is there is refused, at once.

Diffusers takes a LoRA, a textual inversion, a second network or a second configuration from any folder and under any
name that it is pointed to; nobody would have scored it. Nor do weights that are never loaded hold anything else.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import MOST_NAMED, PICTURES, SYSTEM_FILES, WEIGHT_PICKLES, kind_of
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, open_file
from invmm_gate.models.read.checkpoint_layout import BARE, Layout
from invmm_gate.models.read.components import EMA_SUFFIX, RAW_FOLDERS
from invmm_gate.models.read.network_configs import ENCODERS
from invmm_gate.models.read.pipelines import KINDS, PIPELINES, TOKENIZER_NAMES
from invmm_gate.models.read.weight_file_names import (
    DIFFUSERS_STEM,
    PICKLE_STEMS,
    PICKLED_AGAIN,
    TRANSFORMERS_STEM,
    never_loaded,
    weights_pattern,
)
from invmm_gate.models.read.weight_files import header_of, read_header

UNLOADED: Final = {
    "safety_checker": ("config.json", "model.safetensors", "model.fp16.safetensors"),
    "image_encoder": ("config.json", "model.safetensors", "model.fp16.safetensors"),
    "feature_extractor": ("preprocessor_config.json",),
}
"""Components that are never loaded, and all that may lie in their folders: what transformers loads, in both widths."""
GENERATION: Final = "generation_config.json"
"""How a language model writes texts, which no pipeline asks of its text encoder; transformers saves it along."""
_LANGUAGE_MODELS: Final = frozenset(
    {"Qwen3Model", "Qwen3ForCausalLM", "Qwen2_5_VLForConditionalGeneration", "Gemma2Model"}
)
Names = re.Pattern[str]


def _exactly(names: Iterable[str]) -> Names:
    return re.compile("|".join(re.escape(name) for name in sorted(names)))


def _network(stem: str) -> Names:
    pickle = rf"{PICKLE_STEMS[stem]}(?:\.\w{{1,20}})?(?:{'|'.join(map(re.escape, WEIGHT_PICKLES))})"
    generation = rf"|{re.escape(GENERATION)}" if stem == TRANSFORMERS_STEM else ""
    return re.compile(rf"config\.json|{weights_pattern(stem)}|{pickle}{generation}", re.ASCII)


def _folders() -> dict[str, Names]:
    found = {name: _exactly(names) for name, names in UNLOADED.items()}
    for part, kinds in (pair for pipeline in PIPELINES.values() for pair in pipeline.classes.items()):
        if part == "scheduler":
            found[part] = _exactly(["scheduler_config.json"])
        elif kinds[0] in KINDS:
            found[part] = _exactly(frozenset().union(*TOKENIZER_NAMES.values()))
        else:
            found[part] = _network(TRANSFORMERS_STEM if kinds[0] in ENCODERS else DIFFUSERS_STEM)
    return found | {f"{name}{EMA_SUFFIX}": found[name] for name in RAW_FOLDERS}


FOLDERS: Final[Mapping[str, Names]] = _folders()
"""Folder of a component -> the names that files in it may have."""
EXPORT: Final = ", or let 'invmm-gate model export' copy the checkpoint's own files"
PICKLED: Final = "a network's weights as a pickle"
"""What --allow-pickle lets in."""
NETWORKS: Final = frozenset({"", *FOLDERS}) - UNLOADED.keys()
"""Folders that may hold the weights of what is scored."""
ROOT: Final = re.compile(rf"model_index\.json|scheduler_config\.json|{_network(DIFFUSERS_STEM).pattern}")
TEXTS: Final = re.compile(
    r"readme(\.md|\.txt)?|(model_?card|use_policy|acceptable_use_policy|changelog|citation|citations)\.md|citation\.cff"
    r"|(licen[cs]e|notice|copying)([-_][a-z0-9]{1,40})?(\.md|\.txt)?|\.gitattributes|\.gitignore"
)
"""Texts beside model_index.json, in lower case."""
_DOWNLOADED: Final = re.compile(
    r"\.cache/huggingface/(\.gitignore(\.lock)?|CACHEDIR\.TAG|(download|upload)/.+\.(metadata|lock))"
)
"""What `hf download --local-dir` notes of its own work: short texts."""


def is_harmless(path: str) -> bool:
    """Whether a file of this name there is a text, a picture, or a downloader's or a system's own.

    Pictures lie in the checkpoint's folder, or in folders that no component has. What the file holds must be what its
    name says, and nothing that a library reads weights from (`allowed_files.refuse_content`).
    """
    place = PurePosixPath(path)
    if place.name.lower() in SYSTEM_FILES or _DOWNLOADED.fullmatch(path):
        return True
    if place.parts[0] in FOLDERS:
        return False
    return place.suffix.lower() in PICTURES or bool(TEXTS.fullmatch(path.lower()))


def without_place(paths: Sequence[str], *, single: str | None, allow_pickle: bool) -> dict[str, str]:
    """The files that no checkpoint has there, whatever its pipeline, or that diffusers passes over: path -> its kind.

    `single` is the weights file that the checkpoint is, if it is one; what lies beside it was found by its name.
    Reads nothing.
    """
    passed_over = never_loaded(path for path in paths if _folder(path, single) in NETWORKS)
    found: dict[str, str] = {}
    for path in paths:
        if path in passed_over:
            found[path] = passed_over[path]
        elif not _may_lie(path, single):
            found[path] = kind_of(path, allow_pickle=allow_pickle)
        elif path.endswith(WEIGHT_PICKLES) and not allow_pickle:
            found[path] = PICKLED
    return found


def unscored(files: CheckpointFiles, layout: Layout, *, single: str | None) -> dict[str, str]:
    """The files that are no part of what is scored: path -> its kind. `layout` says what is."""
    scored = _scored(layout, single)
    return {
        path: kind_of(path, allow_pickle=True)
        for path in files.files
        if not (path in scored or path in files.elsewhere or is_harmless(_inner(path, single)))
        and not any(path.startswith(f"{folder}/") for folder in layout.not_loaded)
    }


def refuse_unscored(found: Mapping[str, str], *, single: str | None) -> None:
    """Raises ModelError that names every file of `found` with its kind, if there is one; `single` as elsewhere here."""
    if not found:
        return
    named = [f"{path[:200]!r} ({kind})" for path, kind in sorted(found.items())[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise ModelError(
        f"{len(found)} file{'s' * (len(found) > 1)} would not be scored: {', '.join(named)}{more}",
        expected="the checkpoint that is released, with the texts and the pictures of its model card alone",
        do="; ".join(_advice(set(found.values()), folder=single is None)),
    )


def _advice(kinds: set[str], *, folder: bool) -> Iterator[str]:
    """What to do about files of these kinds; nothing that the next message would take back."""
    if kinds - {PICKLED}:
        yield "remove what is named" + (EXPORT if folder else "")
    needed = {kind for kind in kinds if "pickle" in kind} - {PICKLED_AGAIN}
    if needed:
        allowed = ", or pass --allow-pickle for a network's weights that you trust" if PICKLED in kinds else ""
        yield "save pickles with safe_serialization=True" + allowed


def _inner(path: str, single: str | None) -> str:
    """The path below the folder with the configurations: the checkpoint's, or the one that is named like `single`."""
    return path if single is None else path.removeprefix(f"{PurePosixPath(single).stem}/")


def _folder(path: str, single: str | None) -> str:
    """The folder of a file below that of the configurations; empty for the root."""
    return _inner(path, single).rpartition("/")[0]


def _may_lie(path: str, single: str | None) -> bool:
    """By the path alone. What lies beside a single file was found by its name, so that it belongs to it."""
    if single is not None and "/" not in path:
        return True
    inner = _inner(path, single)
    folder, _, name = inner.rpartition("/")
    names = FOLDERS.get(folder) if folder else ROOT
    return is_harmless(inner) or (names is not None and names.fullmatch(name) is not None)


def _scored(layout: Layout, single: str | None) -> set[str]:
    """Every file that the layout was read from, and the weights that it claims; what is optional by its name alone."""
    parts = layout.components.values()
    scored = {*layout.claimed, layout.scheduler_file}
    scored |= {path for component in parts for path in (component.index, component.config_file)}
    if layout.pipeline == BARE:
        return scored
    prefix = "" if single is None else f"{PurePosixPath(single).stem}/"
    scored |= {f"{prefix}model_index.json"}
    return scored | {f"{prefix}{part}/{name}" for part, names in _excepted(layout.pipeline) for name in names}


def _excepted(pipeline: str) -> Iterator[tuple[str, Iterable[str]]]:
    """Tokenizers and processors of a pipeline: their files may stay where model_index.json leaves them out."""
    for part, kinds in PIPELINES[pipeline].classes.items():
        if kinds[0] in KINDS:
            yield part, TOKENIZER_NAMES[KINDS[kinds[0]]]
        elif not _LANGUAGE_MODELS.isdisjoint(kinds):
            yield part, (GENERATION,)
    for part in PIPELINES[pipeline].unused & {"feature_extractor"}:
        yield part, UNLOADED[part]


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


def refuse_strange_content(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for weights in a component that is never loaded which are not those of such a component."""
    for path in files.files:
        if path.endswith(".safetensors") and any(path.startswith(f"{folder}/") for folder in layout.not_loaded):
            _refuse_other_tensors(files, path)


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
            with open_file(files.root, path) as stream:
                held = read_header(stream, size=os.fstat(stream.fileno()).st_size, name=path).tensors
            if strange := sorted(held.keys() - known):
                raise _other(path, f"holds the tensor {strange[0]!a}, which the weights that are scored have not")


def _other(path: str, what: str) -> ModelError:
    return ModelError(
        f"{path!r} {what}"[:300],
        expected="the same network's raw or averaged weights, as safetensors",
        do="remove it: a LoRA or an adapter can be loaded from there, and nobody scores it",
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
