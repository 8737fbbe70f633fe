"""Networks and tokenizers from what was read, by literal tables of classes. Nothing is fetched or imported by name.

Each library is imported only where a checkpoint needs it: their imports take seconds.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final, cast

import torch
from torch import nn

from invmm_gate.core.errors import GateError, ModelError
from invmm_gate.files.scratch import scratch_folder
from invmm_gate.models.read.components import Component
from invmm_gate.models.read.network_configs import DIFFUSERS
from invmm_gate.models.read.pipelines import Kind
from invmm_gate.models.read.tokenizer_files import TokenizerFiles
from invmm_gate.models.read.vocabulary import word_pieces

_OFFLINE: Final[dict[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",  # diffusers' pipelines import image processors, which ask for torchvision
}
_ENCODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "CLIPTextModel": attrgetter("CLIPTextModel", "CLIPTextConfig"),
    "CLIPTextModelWithProjection": attrgetter("CLIPTextModelWithProjection", "CLIPTextConfig"),
    "T5EncoderModel": attrgetter("T5EncoderModel", "T5Config"),
    "UMT5EncoderModel": attrgetter("UMT5EncoderModel", "UMT5Config"),
    "Qwen3Model": attrgetter("Qwen3Model", "Qwen3Config"),
    "Qwen3ForCausalLM": attrgetter("Qwen3ForCausalLM", "Qwen3Config"),
    "Gemma2Model": attrgetter("Gemma2Model", "Gemma2Config"),
    "Qwen2_5_VLForConditionalGeneration": attrgetter("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig"),
}
"""Network and its configuration."""


def go_offline() -> None:
    """Tell the libraries, before they are imported, to fetch nothing and to run nothing."""
    os.environ.update(_OFFLINE)


def on_meta(component: Component) -> nn.Module:
    """The network without memory, so that a configuration cannot exhaust it before the weights are compared."""
    build = _builder(component.kind)
    try:
        with hushed(), torch.device("meta"):  # Chroma's own code uses what diffusers calls deprecated
            network: nn.Module = build(component.config.arguments())
    except GateError:
        raise
    except Exception as error:  # the libraries and torch raise many kinds for numbers that do not fit together
        raise ModelError(
            f"{component.config_file} describes no network that can be built: {str(error)[:200]}",
            expected="the configuration that diffusers saved",
        ) from error
    return network


@contextmanager
def hushed() -> Iterator[None]:
    """Without the warnings of diffusers' pipelines, as that a prompt was cut: the gate says these itself."""
    log = diffusers().utils.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(before)


def diffusers_class(kind: str) -> Any:
    """A network class of diffusers; `kind` is one of the literal table."""
    return of_diffusers(kind)


def of_diffusers(name: str) -> Any:
    """A class of diffusers, by a name of a literal table. Raises ModelError where the version is too old for it."""
    library = diffusers()
    try:
        return attrgetter(name)(library)
    except AttributeError as error:
        raise ModelError(
            f"diffusers {library.__version__} has no {name}",
            expected="a version that has it, as users of the checkpoint need",
            do="pip install --upgrade diffusers",
        ) from error


def _builder(kind: str) -> Callable[[dict[str, Any]], nn.Module]:
    if kind in DIFFUSERS:
        network = diffusers_class(kind)
        return lambda arguments: network(**arguments)
    network, config = _ldm_bert() if kind == "LDMBertModel" else _ENCODERS[kind](transformers())
    return lambda arguments: network(config(**arguments))


def build_tokenizer(files: TokenizerFiles) -> Any:
    """A transformers tokenizer. Raises ModelError for a vocabulary that the library cannot use."""
    library = transformers()
    try:
        return _TOKENIZERS[files.kind](library, files)
    except GateError:
        raise
    except Exception as error:  # the tokenizers' Rust code raises bare Exceptions
        raise ModelError(
            f"{files.name} cannot be built: {str(error)[:200]}", expected="the tokenizer that diffusers saved"
        ) from error


def _clip(library: Any, files: TokenizerFiles) -> Any:
    """From a private folder: transformers 4 reads the vocabulary from files alone."""
    with scratch_folder() as folder:
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        vocabulary.write_text(json.dumps(files.vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in files.merges), ""]
        merges.write_bytes("\n".join(lines).encode())
        return library.CLIPTokenizer(str(vocabulary), str(merges), **_token_options(library, files))


def _as_diffusers(library: Any, files: TokenizerFiles) -> Any:
    """By the class's own loader, from a private copy of the verified files: versions differ in what they take."""
    with scratch_folder() as folder:
        for name, content in files.content.items():
            (folder / name).write_bytes(content)
        return attrgetter(files.class_name)(library).from_pretrained(str(folder), local_files_only=True)


def _bert(library: Any, files: TokenizerFiles) -> Any:
    """From the vocabulary alone: inspection made sure that all else is what `BertTokenizer` does."""
    backend = word_pieces(files.vocabulary, {key: token.model_dump() for key, token in files.special.items()})
    return library.PreTrainedTokenizerFast(tokenizer_object=backend, **_token_options(library, files))


def _token_options(library: Any, files: TokenizerFiles) -> dict[str, Any]:
    """Tidied spaces would change prompts that were found: `. .` would come back as `..`, which is another token."""
    tokens = {key: library.AddedToken(**token.model_dump()) for key, token in files.special.items()}
    limit = {} if files.max_length is None else {"model_max_length": files.max_length}
    return {**tokens, **limit, "clean_up_tokenization_spaces": False}


_TOKENIZERS: Final[dict[Kind, Callable[[Any, TokenizerFiles], Any]]] = {
    "clip": _clip, "t5": _as_diffusers, "bert": _bert, "qwen2": _as_diffusers, "gemma": _as_diffusers,
    "llama": _as_diffusers,
}  # fmt: skip


def diffusers() -> Any:
    """The library, told to stay offline. Raises ModelError where it cannot be imported."""
    go_offline()
    try:
        import diffusers as library

        library.UNet2DModel  # noqa: B018 (imports are lazy: this one raises where torch does not fit)
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"diffusers cannot be imported: {error}", expected="diffusers 0.35 or later", do="pip install diffusers"
        ) from error
    return library


def _ldm_bert() -> tuple[Any, Any]:
    """Network and configuration; diffusers defines them beside their pipeline, on top of transformers."""
    diffusers()
    transformers()
    try:
        from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"diffusers has no LDMBertModel: {error}",
            expected="a version of diffusers with LDMTextToImagePipeline",
            do="install diffusers 0.35 or later with a transformers that it supports",
        ) from error
    return LDMBertModel, LDMBertConfig


def transformers() -> Any:
    """The library, told to stay offline. Raises ModelError where it cannot be imported."""
    go_offline()
    try:
        import transformers as library

        library.CLIPTextModel  # noqa: B018
        cast("Any", library.logging).set_verbosity_error()  # diffusers imports image processors, which complain
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"transformers cannot be imported: {error}",
            expected="transformers 4.57 or later, for models with prompts",
            do="pip install 'invmm-gate[text]'",
        ) from error
    return library
