"""The components of each pipeline class: a literal table that a checkpoint's model_index.json is checked against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from invmm_gate.core.errors import ModelError
from invmm_gate.core.settings import Family
from invmm_gate.models.read.diffusers_config import stated, without_bookkeeping
from invmm_gate.models.read.refusals import Refusals
from invmm_gate.models.read.scheduler_config import FLOW_SCHEDULERS, FLOW_SOLVERS, SCHEDULERS

Kind = Literal["clip", "t5", "bert", "qwen2", "gemma", "llama"]
TOKENIZERS: Final[dict[Kind, tuple[str, ...]]] = {
    "clip": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "t5": ("T5TokenizerFast", "T5Tokenizer"),
    "bert": ("BertTokenizer", "BertTokenizerFast"),
    "qwen2": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    "gemma": ("GemmaTokenizer", "GemmaTokenizerFast"),
    "llama": ("LlamaTokenizerFast", "LlamaTokenizer"),
}
"""Kind -> the classes that a pipeline may state."""
KINDS: Final = {name: kind for kind, names in TOKENIZERS.items() for name in names}
_OF_ALL: Final = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
TOKENIZER_NAMES: Final[dict[Kind, frozenset[str]]] = {
    "clip": _OF_ALL | {"vocab.json", "merges.txt", "added_tokens.json"},
    "t5": _OF_ALL | {"spiece.model"},
    "bert": _OF_ALL | {"vocab.txt", "added_tokens.json"},
    "qwen2": _OF_ALL | {"vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja"},
    "gemma": _OF_ALL | {"tokenizer.model", "chat_template.jinja"},
    "llama": _OF_ALL | {"tokenizer.model", "added_tokens.json"},
}
"""The files of a tokenizer: each is read where it is there, but for one that holds the vocabulary again (`SPIECES`)."""
LIBRARIES: Final = {
    **dict.fromkeys(("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", *KINDS), "transformers"),
    **dict.fromkeys(("Qwen3Model", "Qwen3ForCausalLM", "Gemma2Model"), "transformers"),
    **dict.fromkeys(("Qwen2_5_VLForConditionalGeneration", "UMT5EncoderModel"), "transformers"),
    "LDMBertModel": "latent_diffusion",
}
"""Class -> where model_index.json says that it comes from; all others are plain diffusers."""

UNUSED: Final[dict[str, frozenset[tuple[str, str]]]] = {
    "safety_checker": frozenset({
        ("stable_diffusion", "StableDiffusionSafetyChecker"),
        ("diffusers", "StableDiffusionSafetyChecker"),
    }),
    "feature_extractor": frozenset({
        *(("transformers", f"CLIPImageProcessor{kind}") for kind in ("", "Pil", "Fast")),
        *(("transformers", f"SiglipImageProcessor{kind}") for kind in ("", "Pil", "Fast")),
        ("transformers", "CLIPFeatureExtractor"),
    }),
    "image_encoder": frozenset({
        ("transformers", "CLIPVisionModelWithProjection"),
        ("transformers", "SiglipVisionModel"),
    }),
}  # fmt: skip
"""Components that decide nothing about what a prompt makes the model draw: hashed, noted, never loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The parts of a pipeline class."""

    classes: Mapping[str, tuple[str, ...]]
    """Component -> the classes that it may have."""
    denoiser: str = "unet"
    optional: frozenset[str] = frozenset()
    """Components that may be absent."""
    unused: frozenset[str] = frozenset()
    """Components of `UNUSED` that it may have."""
    settings: Mapping[str, bool] = field(default_factory=dict)
    """Switches of model_index.json and what they are when it does not name them."""
    words: frozenset[str] = frozenset()
    """Keys of model_index.json that hold the names of classes, by their number; they decide nothing."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Classes that diffusers would take here and this gate does not, and why."""


_STABLE_DIFFUSION: Final = Pipeline(
    classes={
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": TOKENIZERS["clip"],
        "scheduler": SCHEDULERS,
    },
    unused=frozenset(UNUSED),
    settings={"requires_safety_checker": True},
)

_PIXART: Final = Pipeline(
    classes={
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": TOKENIZERS["t5"],
        "scheduler": SCHEDULERS,
    },
    denoiser="transformer",
)

PIPELINES: Final[dict[str, Pipeline]] = {
    "DDPMPipeline": Pipeline(classes={"unet": ("UNet2DModel",), "scheduler": SCHEDULERS}),
    "DDIMPipeline": Pipeline(classes={"unet": ("UNet2DModel",), "scheduler": SCHEDULERS}),
    "LDMPipeline": Pipeline(
        classes={"unet": ("UNet2DModel",), "vqvae": ("VQModel", "AutoencoderKL"), "scheduler": SCHEDULERS}
    ),
    "DiTPipeline": Pipeline(
        classes={
            "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
            "vae": ("AutoencoderKL",),
            "scheduler": SCHEDULERS,
        },
        denoiser="transformer",
        words=frozenset({"id2label"}),
    ),
    "LDMTextToImagePipeline": Pipeline(
        classes={
            "unet": ("UNet2DConditionModel",),
            "vqvae": ("AutoencoderKL",),
            "bert": ("LDMBertModel",),
            "tokenizer": TOKENIZERS["bert"],
            "scheduler": SCHEDULERS,
        },
        reasons={
            "VQModel": "a VQ autoencoder beside prompts is not supported: the published model has a KL one",
            "UNet2DModel": "it takes no prompt, so it is no network for this pipeline",
        },
    ),
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "LatentConsistencyModelPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": Pipeline(
        classes={
            "unet": ("UNet2DConditionModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("CLIPTextModel",),
            "tokenizer": TOKENIZERS["clip"],
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "tokenizer_2": TOKENIZERS["clip"],
            "scheduler": SCHEDULERS,
        },
        unused=frozenset({"feature_extractor", "image_encoder"}),
        settings={"force_zeros_for_empty_prompt": True, "add_watermarker": True},
    ),
    "StableDiffusion3Pipeline": Pipeline(
        classes={
            "transformer": ("SD3Transformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("CLIPTextModelWithProjection",),
            "tokenizer": TOKENIZERS["clip"],
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "tokenizer_2": TOKENIZERS["clip"],
            "text_encoder_3": ("T5EncoderModel",),
            "tokenizer_3": TOKENIZERS["t5"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
        optional=frozenset({"text_encoder_3", "tokenizer_3"}),
        unused=frozenset({"feature_extractor", "image_encoder"}),
    ),
    "FluxPipeline": Pipeline(
        classes={
            "transformer": ("FluxTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("CLIPTextModel",),
            "tokenizer": TOKENIZERS["clip"],
            "text_encoder_2": ("T5EncoderModel",),
            "tokenizer_2": TOKENIZERS["t5"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
        unused=frozenset({"feature_extractor", "image_encoder"}),
    ),
    "ChromaPipeline": Pipeline(
        classes={
            "transformer": ("ChromaTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("T5EncoderModel",),
            "tokenizer": TOKENIZERS["t5"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
        unused=frozenset({"feature_extractor", "image_encoder"}),
    ),
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "AuraFlowPipeline": Pipeline(
        classes={
            "transformer": ("AuraFlowTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("UMT5EncoderModel",),
            "tokenizer": TOKENIZERS["llama"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
    ),
    "ZImagePipeline": Pipeline(
        classes={
            "transformer": ("ZImageTransformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
            "tokenizer": TOKENIZERS["qwen2"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
    ),
    "Flux2KleinPipeline": Pipeline(
        classes={
            "transformer": ("Flux2Transformer2DModel",),
            "vae": ("AutoencoderKLFlux2",),
            "text_encoder": ("Qwen3ForCausalLM",),
            "tokenizer": TOKENIZERS["qwen2"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
        settings={"is_distilled": False},
    ),
    "Lumina2Pipeline": Pipeline(
        classes={
            "transformer": ("Lumina2Transformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("Gemma2Model",),
            "tokenizer": TOKENIZERS["gemma"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
    ),
    "SanaPipeline": Pipeline(
        classes={
            "transformer": ("SanaTransformer2DModel",),
            "vae": ("AutoencoderDC",),
            "text_encoder": ("Gemma2Model",),
            "tokenizer": TOKENIZERS["gemma"],
            "scheduler": FLOW_SOLVERS,
        },
        denoiser="transformer",
    ),
    "QwenImagePipeline": Pipeline(
        classes={
            "transformer": ("QwenImageTransformer2DModel",),
            "vae": ("AutoencoderKLQwenImage",),
            "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
            "tokenizer": TOKENIZERS["qwen2"],
            "scheduler": FLOW_SCHEDULERS,
        },
        denoiser="transformer",
    ),
}


TEXT_FAMILIES: Final[dict[str, Family]] = {
    "LDMTextToImagePipeline": "stable_diffusion",
    "StableDiffusionPipeline": "stable_diffusion",
    "LatentConsistencyModelPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion",
    "PixArtAlphaPipeline": "stable_diffusion",
    "PixArtSigmaPipeline": "stable_diffusion",
    "StableDiffusion3Pipeline": "stable_diffusion_3",
    "FluxPipeline": "flow",
    "ChromaPipeline": "flow",
    "AuraFlowPipeline": "flow",
    "ZImagePipeline": "flow",
    "Flux2KleinPipeline": "flow",
    "QwenImagePipeline": "flow",
    "Lumina2Pipeline": "flow",
    "SanaPipeline": "flow",
}
"""Pipeline -> family, of those that take prompts."""
FAMILIES: Final[dict[str, Family]] = {
    "DDPMPipeline": "pixel",
    "DDIMPipeline": "pixel",
    "UNet2DModel": "pixel",
    "LDMPipeline": "latent",
    "DiTPipeline": "class_latent",
    **TEXT_FAMILIES,
}
"""Pipeline, or the bare network's class, -> family of its models without classes, if it may have such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """The contents of model_index.json."""

    classes: Mapping[str, str]
    """Component -> class, for those that are there."""
    unused: tuple[str, ...]
    settings: Mapping[str, bool]


def read_index(index: Mapping[str, object], pipeline: Pipeline) -> Stated:
    """The components, each class checked against the table and never imported by name. Raises ModelError."""
    given = without_bookkeeping(stated(index, "model_index.json"), "model_index.json")
    refusals = Refusals()
    known = {*pipeline.classes, *pipeline.unused, *pipeline.settings, *pipeline.words}
    for extra in sorted(given.keys() - known):
        refusals.add(
            ModelError(
                f"model_index.json names the component {extra!a}",
                expected=", ".join(pipeline.classes),
                do="export without it",
            )
        )
    found: dict[str, str | None] = {}
    for name in pipeline.classes:
        with refusals.kept():
            found[name] = _class_of(name, given.get(name), pipeline)
    unused: list[str] = []
    for name in sorted(pipeline.unused):
        with refusals.kept():
            unused += [name] if _is_there(name, given.get(name)) else []
    settings: dict[str, bool] = {}
    for key, default in pipeline.settings.items():
        with refusals.kept():
            settings[key] = _switch(key, given.get(key, default))
    for key in sorted(pipeline.words):
        with refusals.kept():
            _check_names(key, given.get(key))
    refusals.raise_any()
    classes = {name: kind for name, kind in found.items() if kind is not None}
    return Stated(classes=classes, unused=tuple(unused), settings=settings)


def _pair(value: object) -> tuple[object, object]:
    return (value[0], value[1]) if isinstance(value, list) and len(value) == 2 else ("", "")


def _class_of(name: str, value: object, pipeline: Pipeline) -> str | None:
    allowed = pipeline.classes[name]
    library, kind = _pair(value)
    if name in pipeline.optional and value in (None, [None, None]):
        return None
    if not isinstance(kind, str) or kind not in allowed or library != _library(kind):
        reason = pipeline.reasons.get(kind) if isinstance(kind, str) else None
        raise ModelError(
            f"model_index.json gives {value!a} for the component {name!r}"[:200],
            expected=f"[{_library(allowed[0])}, {' or '.join(allowed)}]",
            do=reason or "save the pipeline with diffusers, complete and without code of its own",
        )
    return kind


def _library(kind: str) -> str:
    return LIBRARIES.get(kind, "diffusers")


def _is_there(name: str, value: object) -> bool:
    if value in (None, [None, None]):
        return False
    if [*_pair(value)] not in [[*known] for known in UNUSED[name]]:
        raise ModelError(
            f"model_index.json gives {value!a} for the component {name!r}"[:200],
            expected="a component of diffusers' own, or null",
            do="export without it",
        )
    return True


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool | None):
        raise ModelError(f"model_index.json gives {value!a} for {name!r}"[:200], expected="true or false")
    return bool(value)


def _check_names(key: str, value: object) -> None:
    """Diffusers splits each name at its commas, and reads each number."""
    names = {} if value is None else value
    if not isinstance(names, dict) or not all(_is_named(number, name) for number, name in names.items()):
        raise ModelError(
            f"model_index.json gives {value!a}"[:100] + f" for {key!r}",
            expected="the name of each class by its number, or null",
            do="correct model_index.json",
        )


def _is_named(number: str, name: object) -> bool:
    return number.isascii() and number.isdecimal() and isinstance(name, str)
