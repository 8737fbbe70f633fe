"""PixArt-Alpha and PixArt-Sigma: as they lie on disk, as their pipelines draw, and how they read a prompt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PixArtAlphaPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from invmm_gate.core.captions import may_be_rewritten
from invmm_gate.core.errors import ModelError
from invmm_gate.models.adapters.released_pipeline import PipelineSampler
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models import tiny_text
from tests.models.conftest import edit_json
from tests.models.test_released import streams
from tests.models.test_text_load import load

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2

Checkpoints = Callable[[str], Path]
NETWORK = "transformer/config.json"
PROMPT = "a Red cat and the dog "


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, **values)


def with_two_halvings(folder: Path) -> None:
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    edit_json(folder / "vae/config.json", block_out_channels=[8, 8, 8], **kinds)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("pixart", changed(NETWORK, caption_channels=8), "caption_channels is 8, text_encoder gives 40"),
        ("pixart", changed(NETWORK, cross_attention_dim=32), "cross_attention_dim is 32, its tokens have 24"),
        ("pixart", changed(NETWORK, caption_channels=None), "cross_attention_dim is 24, text_encoder gives 40"),
        ("pixart", changed(NETWORK, sample_size=64), "PixArtAlphaPipeline does not tell at sample_size 64"),
        ("pixart", changed(NETWORK, sample_size=256), "PixArtAlphaPipeline with sample_size 256"),
        ("pixart", changed(NETWORK, sample_size=16), "sample_size"),
        ("pixart", changed(NETWORK, patch_size=3), "sample_size 128 and patch_size 3"),
        ("pixart", changed(NETWORK, num_attention_heads=1, attention_head_dim=32), "to be told the size"),
        ("pixart", changed(NETWORK, out_channels=None), "out_channels, which PixArtAlphaPipeline divides by 2"),
        ("pixart", changed(NETWORK, out_channels=12), "4 input and 12 output channels"),
        ("pixart", changed(NETWORK, norm_type="ada_norm_zero"), "norm_type"),
        ("pixart", changed(NETWORK, attention_type="gated"), "attention_type"),
        ("pixart", changed(NETWORK, surprise=1), "surprise"),
        ("pixart", with_two_halvings, "the autoencoder halves a side 2 times"),
        ("pixart", changed("vae/config.json", shift_factor=0.1), "shift_factor 0.1, which PixArtAlphaPipeline ignores"),
        ("pixart_sigma", changed(NETWORK, sample_size=128), "PixArtSigmaPipeline does not tell at sample_size 128"),
        ("pixart_sigma", changed(NETWORK, use_additional_conditions=True), "does not tell at sample_size 64"),
        (
            "pixart_sigma",
            changed("model_index.json", transformer=["diffusers", "DiTTransformer2DModel"]),
            "for the component 'transformer'",
        ),
        ("pixart_sigma", lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), "spiece.model is not read"),
    ],
)
def test_a_checkpoint_that_is_another_model_is_refused(
    text_checkpoint: Checkpoints, name: str, damage: Callable[[Path], None], said: str
) -> None:
    folder = text_checkpoint(name)
    damage(folder)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize("indexed", ["Transformer2DModel", "PixArtTransformer2DModel"])
def test_the_transformer_is_read_as_it_was_published(text_checkpoint: Checkpoints, indexed: str) -> None:
    """Its class was Transformer2DModel, and its configuration has that class's keys."""
    folder = text_checkpoint("pixart_sigma")
    old = {"num_vector_embeds": None, "use_linear_projection": False, "only_cross_attention": False}
    edit_json(folder / NETWORK, _class_name="Transformer2DModel", double_self_attention=False, **old)
    edit_json(folder / "model_index.json", transformer=["diffusers", indexed])
    model = load_verified(inspect_checkpoint(folder))
    expected = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    network = model.network.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(network[key], tensor) for key, tensor in expected.items())
    content = json.loads((folder / NETWORK).read_text())
    del content["norm_type"]
    (folder / NETWORK).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="norm_type"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_those_values_in_float32(text_checkpoint: Checkpoints, kind: torch.dtype) -> None:
    folder = text_checkpoint("pixart_sigma")
    for path in folder.rglob("*.safetensors"):
        save_file({key: tensor.to(kind) for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    stored = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    network = load(folder).network
    assert all(torch.equal(network.state_dict()[key], tensor.float()) for key, tensor in stored.items())


def drawn_by(name: str, kind: str, **options: Any) -> PipelineSampler:
    built = tiny_text.build(name)
    scheduler = getattr(diffusers, kind).from_config(built.pipeline.scheduler.config, **options)
    built.pipeline.register_modules(scheduler=scheduler)
    found = replace(built.model, pipeline=built.pipeline).released
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [1.0, 4.5])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("EulerDiscreteScheduler", {}),
        ("LCMScheduler", {}),
    ],
)
@pytest.mark.parametrize("name", ["pixart", "pixart_sigma"])
def test_a_prompt_draws_what_the_pipeline_draws_in_5_steps_of_its_own_scheduler(
    name: str, kind: str, options: dict[str, Any], scale: float
) -> None:
    drawn = drawn_by(name, kind, **options)
    expected = drawn.images(streams(0, 1), steps=5, prompt=PROMPT, guidance_scale=scale)
    again = streams(0, 1)
    noise = torch.stack([torch.randn(*drawn.model.latent_shape, generator=each) for each in again])
    condition = drawn.model.prompts.encode([PROMPT] * 2)  # type: ignore[union-attr]
    x_0 = drawn.x_0(noise, again, steps=5, condition=condition, guidance_scale=scale)
    found = drawn.model.decode(x_0)
    gap = float((found - expected).abs().max())
    print(f"equality | {name}, {kind} {options or ''} | images in 5 steps | {scale:g} | {gap:.1e}")
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("name", ["pixart", "pixart_sigma"])
def test_one_step_is_drawn_as_the_pipeline_takes_it(name: str) -> None:
    """PixArt-Alpha takes x_0_hat of the step, as its distilled models want."""
    drawn = drawn_by(name, "LCMScheduler")
    expected = drawn.images(streams(0), steps=1, prompt=PROMPT)
    again = streams(0)
    noise = torch.randn(1, *drawn.model.latent_shape, generator=again[0])
    condition = drawn.model.prompts.encode([PROMPT])  # type: ignore[union-attr]
    found = drawn.model.decode(drawn.x_0(noise, again, steps=1, condition=condition))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_one_step_that_the_pipeline_cannot_take_is_told() -> None:
    drawn = drawn_by("pixart", "DPMSolverMultistepScheduler")
    assert drawn.forwards(steps=2) == 2
    with pytest.raises(ModelError, match="cannot draw in 1 steps"):
        drawn.forwards(steps=1)


@pytest.mark.parametrize("name", ["pixart", "pixart_sigma"])
def test_at_its_own_size_the_pipeline_resizes_nothing(name: str) -> None:
    """The gate draws with use_resolution_binning off: at the default size that is what users get with it."""
    pipeline = tiny_text.build(name).pipeline
    side = pipeline.transformer.config.sample_size * 8
    latents = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 1, "output_type": "pt", "clean_caption": False}
    users = pipeline(**given, latents=latents.clone()).images
    ours = pipeline(**given, latents=latents.clone(), use_resolution_binning=False, height=side, width=side).images
    assert torch.equal(users, ours)


def test_a_lora_has_no_loader_for_these_pipelines(text_checkpoint: Checkpoints, tmp_path: Path) -> None:
    save_file({"transformer.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    assert not hasattr(PixArtAlphaPipeline, "load_lora_weights")
    with pytest.raises(ModelError, match="a LoRA on top of a PixArtAlphaPipeline; expected one of"):
        inspect_checkpoint(text_checkpoint("pixart"), loras=[tmp_path / "lora.safetensors"])


# --- what pipelines make of a prompt


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("", False),
        ("A Red Cat, 3 dogs and a well-known house.", False),
        ("a cat's  tail", True),
        ("a cat (orange)", True),
        ("the cat #123", True),
        ("a photo.jpg of a cat", True),
        ("free download of a cat", True),
        ("page 7", True),
        ("epsilon", True),
        ("up-to-date well-known cat", False),
        ("a-b-c-d-e", True),
        ("a café", True),
        ("cat 123456", True),
    ],
)
def test_a_caption_that_some_users_pipeline_may_rewrite_is_told(caption: str, other: bool) -> None:
    assert may_be_rewritten("PixArtAlphaPipeline", caption) == other
    assert may_be_rewritten("PixArtSigmaPipeline", caption) == other
    assert not may_be_rewritten("FluxPipeline", caption)


WORDS = [
    "a",
    "cat's",
    "well-known",
    "x",
    "20",
    "page",
    "click",
    "for",
    "free",
    "shipping",
    "png",
    "123456",
    "4k",
    "(b)",
]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", ", ", ". ", "-", "'", ""])), max_size=7))
@settings(max_examples=500, deadline=None)
def test_a_caption_of_which_nothing_is_told_is_rewritten_by_nobody(pairs: list[tuple[str, str]]) -> None:
    pytest.importorskip("bs4")
    pytest.importorskip("ftfy")
    text = "".join(word + mark for word, mark in pairs)
    if not may_be_rewritten("PixArtAlphaPipeline", text):
        pipeline = object.__new__(PixArtAlphaPipeline)
        assert pipeline._text_preprocessing(text, clean_caption=True) == [text.lower().strip()]
