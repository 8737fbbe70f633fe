"""Text-to-image checkpoints, loaded: the same estimates as the pipeline that was saved, or a clear error."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer, T5Tokenizer

from invmm_gate.core.errors import ModelError
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.load.load import Source, load_model
from invmm_gate.models.load.unsaved_values import complete
from invmm_gate.models.load.weight_names import current_names
from invmm_gate.models.load.weights import fill
from invmm_gate.models.networks import on_meta, transformers
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, hash_file
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from invmm_gate.models.read.text_configs import CLIPTextConfig
from tests.models import tiny_text
from tests.models.conftest import edit_json
from tests.models.test_refusals import Payload
from tests.models.test_text_layout import split_tokenizer

Checkpoints = Callable[[str], Path]
TEXTS = [*tiny_text.PROMPTS, "", "the  CAT's <|endoftext|> café 😀 !!! 42", "a" * 200]


def load(path: Path, **options: Any) -> TextToImageModel:
    model = load_model(inspect_checkpoint(path, **options))
    assert isinstance(model, TextToImageModel)
    return model


def test_transformers_says_nothing_of_image_processors_that_nobody_asked_for() -> None:
    library = transformers()
    library.logging.set_verbosity_warning()
    assert transformers().logging.get_verbosity() == library.logging.ERROR


def estimate(model: TextToImageModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(2, *model.latent_shape, generator=generator)
    level = model.schedule.at(torch.tensor([300, 900]))
    return model.estimate_x_0(x_t, level, condition=model.prompts.encode(tiny_text.PROMPTS), guidance_scale=3.0)


def at_size_of(saved: TextToImageModel, model: TextToImageModel) -> TextToImageModel:
    """The model at the size of another one: tests need no large images."""
    sizes = {key: getattr(saved, key) for key in ("latent_shape", "image_size", "schedule")}
    return replace(model, **sizes)


@pytest.mark.parametrize("name", tiny_text.NAMES)
def test_a_loaded_checkpoint_estimates_what_the_saved_modules_do(text_checkpoint: Checkpoints, name: str) -> None:
    saved, model = tiny_text.build(name).model, load(text_checkpoint(name))
    if saved.family == "flow" and name not in ("lumina", "sana"):  # these say nothing of a size: their pipelines do
        side = 1024 if name in ("z_image", "aura_flow") else 2 * 128
        cells = side // (8 if name == "aura_flow" else 2)
        shape = (16, side // 4, side // 4) if name == "klein" else (4, cells, cells)
        assert (model.latent_shape, model.image_size) == (shape, (side, side))
        model = at_size_of(saved, model)
    elif name.startswith("pixart"):
        side = 512 if name == "pixart_sigma" else 1024
        assert (model.latent_shape, model.image_size) == ((4, side // 8, side // 8), (side, side))
        model = at_size_of(saved, model)
    torch.testing.assert_close(estimate(model), estimate(saved), rtol=1e-4, atol=1e-4)
    images = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(model.encode(images), saved.encode(images), rtol=1e-4, atol=1e-4)
    for field in ("family", "latent_shape", "image_size", "prediction_type", "pipeline_guides", "zero_unconditional"):
        assert getattr(model, field) == getattr(saved, field), field
    assert model.prompts.special_ids == saved.prompts.special_ids
    for text in TEXTS:
        assert model.prompts.tokenize(text) == saved.prompts.tokenize(text)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3_t5", "ldm"])
def test_everything_is_frozen_and_has_values(text_checkpoint: Checkpoints, name: str) -> None:
    model = load(text_checkpoint(name))
    modules: list[Any] = [model.network, model.autoencoder]
    modules += [item.tower.encoder for item in model.prompts.placed]  # type: ignore[attr-defined]
    for module in modules:
        assert not module.training
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            assert not tensor.requires_grad, key
            assert not tensor.is_meta, key


def test_the_ids_are_those_of_the_deployed_tokenizers(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    files, layout = layout_of(inspect_checkpoint(folder))
    ours = Source(files, frozenset(), torch.device("cpu"), layout).tokenizers
    theirs = {
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        "tokenizer_3": T5Tokenizer.from_pretrained(folder / "tokenizer_3"),
    }
    for name, tokenizer in theirs.items():
        options = {"padding": "max_length", "truncation": True, "max_length": 16}
        assert ours[name](TEXTS, **options).input_ids == tokenizer(TEXTS, **options).input_ids
        assert ours[name].special_tokens_map == tokenizer.special_tokens_map
        assert ours[name].get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_as_older_versions_saved_it_gives_the_same_ids(sd: Path) -> None:
    """SD 2's configuration pads with the end token, its special_tokens_map with "!", which counts."""
    split_tokenizer(sd / "tokenizer")
    (sd / "tokenizer/tokenizer.json").unlink()
    token = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {
        "bos_token": {**token, "content": tiny_text.START}, "eos_token": {**token, "content": tiny_text.END},
        "unk_token": tiny_text.END, "pad_token": tiny_text.END, "add_prefix_space": False, "errors": "replace",
        "do_lower_case": True, "model_max_length": 16, "name_or_path": "x", "special_tokens_map_file": "./x.json",
        "tokenizer_class": "CLIPTokenizer",
    }  # fmt: skip
    (sd / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    (sd / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    files, layout = layout_of(inspect_checkpoint(sd))
    ours = Source(files, frozenset(), torch.device("cpu"), layout).tokenizers["tokenizer"]
    theirs = CLIPTokenizer.from_pretrained(sd / "tokenizer")
    assert ours.pad_token == theirs.pad_token == "!"
    for text in tiny_text.PROMPTS:
        assert ours(text).input_ids == theirs(text).input_ids


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(path)), path)


def test_text_encoders_under_older_names_are_understood(sd: Path) -> None:
    """transformers 4 nests CLIP under `text_model.`, and before 4.31 saved the positions."""
    path, before = sd / "text_encoder/model.safetensors", estimate(load(sd))
    tensors = load_file(path)
    nested = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}
    flat = {key.removeprefix("text_model."): tensor for key, tensor in nested.items()}
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    for variant in (nested, flat, {**nested, **positions}):
        save_file(variant, path)
        assert torch.equal(estimate(load(sd)), before)
    save_file({**nested, "text_model.embeddings.position_ids": torch.arange(16).flip(0)[None].contiguous()}, path)
    with pytest.raises(ModelError, match="position_ids"):
        load(sd)
    save_file({**nested, next(iter(flat)): next(iter(flat.values())).clone()}, path)
    with pytest.raises(ModelError, match="missing"):
        load(sd)


class Nested(nn.Module):
    """As transformers 4 has `CLIPTextModel`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.text_model = inner


def test_names_are_right_where_the_library_still_nests_them(sd: Path) -> None:
    component = layout_of(inspect_checkpoint(sd))[1].components["text_encoder"]
    tensors = load_file(sd / "text_encoder/model.safetensors")
    flat = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    inner: Any = on_meta(component)
    while hasattr(inner, "text_model"):
        inner = inner.text_model
    network = Nested(inner)
    assert current_names(flat, network, component).keys() == network.state_dict().keys()
    complete(network)
    assert torch.equal(network.get_buffer("text_model.embeddings.position_ids"), torch.arange(16)[None])


def test_the_embedding_of_t5_is_one_tensor_under_either_name(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    path, before = folder / "text_encoder_3/model.safetensors", estimate(load(folder))
    shared = load_file(path)["shared.weight"]
    rest = {key: tensor for key, tensor in load_file(path).items() if key != "shared.weight"}
    for names in (["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]):
        save_file({**rest, **{name: shared.clone() for name in names}}, path)
        model = load(folder)
        encoder: Any = model.prompts.placed[2].tower.encoder  # type: ignore[attr-defined]
        assert encoder.encoder.embed_tokens.weight is encoder.shared.weight
        assert torch.equal(estimate(model), before)
    save_file({**rest, "shared.weight": shared, "encoder.embed_tokens.weight": shared + 1}, path)
    with pytest.raises(ModelError, match="differ"):
        load(folder)


@pytest.mark.parametrize("part", ["text_encoder/model", "vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model"])
def test_a_pipeline_without_any_single_tensor_is_refused(sd: Path, part: str) -> None:
    path, name = sd / f"{part}.safetensors", part.split("/")[0]
    tensors = load_file(path)
    files, layout = layout_of(inspect_checkpoint(sd))
    component = layout.components[name]
    network = on_meta(component)
    for key in tensors:
        save_file({other: tensor for other, tensor in tensors.items() if other != key}, path)
        changed = hash_file(sd, component.weights[0])[0]
        now = CheckpointFiles(files.root, {**files.files, changed.path: changed})
        with pytest.raises(ModelError, match="missing") as caught:
            fill(network, now, component, pickles=())
        assert key.removeprefix("text_model.") in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["text_encoder/model", "vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model"])
def test_numbers_that_are_none_are_refused(sd: Path, part: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = sorted(tensors)[-1]
        return {**tensors, key: torch.full_like(tensors[key], value)}

    rewritten(sd / f"{part}.safetensors", spoil)
    with pytest.raises(ModelError, match="NaN or infinity"):
        load(sd)


def test_a_pickled_text_encoder_is_loaded_only_if_allowed_and_never_run(sd: Path, tmp_path: Path) -> None:
    before, path = estimate(load(sd)), sd / "text_encoder/model.safetensors"
    pickled = sd / "text_encoder/pytorch_model.bin"
    torch.save(load_file(path), pickled)
    path.unlink()
    assert torch.equal(estimate(load(sd, allow_pickle=True)), before)
    torch.save([Payload(tmp_path / "marker"), torch.zeros(50_000)], pickled)
    with pytest.raises(ModelError, match="cannot be decoded"):
        load(sd, allow_pickle=True)
    assert not (tmp_path / "marker").exists()


def test_a_sharded_text_encoder_is_loaded(sd: Path) -> None:
    before = estimate(load(sd))
    encoder = tiny_text.stable_diffusion().pipeline.text_encoder
    (sd / "text_encoder/model.safetensors").unlink()
    encoder.save_pretrained(sd / "text_encoder", max_shard_size="20KB")
    assert (sd / "text_encoder/model.safetensors.index.json").exists()
    assert torch.equal(estimate(load(sd)), before)


def test_a_guidance_distilled_network_is_accepted(tmp_path: Path) -> None:
    tiny_text.stable_diffusion(time_cond_proj_dim=8).pipeline.save_pretrained(tmp_path / "distilled")
    model = load(tmp_path / "distilled")
    assert model.guidance_distilled
    assert estimate(model).isfinite().all()


def test_a_vae_that_was_trained_at_another_size_does_not_change_the_image_size(sd: Path) -> None:
    edit_json(sd / "vae/config.json", sample_size=512)
    assert load(sd).image_size == (16, 16)


def test_loading_leaves_the_global_random_state_alone(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    load(folder)
    assert torch.equal(torch.rand(1), first)


def test_a_text_configuration_that_builds_no_network_is_one_clear_line(sd: Path) -> None:
    edit_json(sd / "text_encoder/config.json", num_attention_heads=3)
    with pytest.raises(ModelError, match="no network that can be built"):
        load(sd)


def test_a_component_of_another_class_is_refused(sd: Path) -> None:
    layout = layout_of(inspect_checkpoint(sd))[1]
    with pytest.raises(ModelError, match="without a fitting 'unet'"):
        layout.config("unet", CLIPTextConfig)
    assert layout.config("text_encoder", CLIPTextConfig).vocab_size == 529
