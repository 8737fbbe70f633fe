"""Text-to-image checkpoints: what inspection accepts, notes and refuses, all of it without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, T5Config

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.inspect import changed_files, inspect_checkpoint, layout_of
from invmm_gate.models.read.text_configs import HARMLESS
from tests.models.conftest import edit_json
from tests.models.test_refusals import Payload, refusal
from tests.models.tiny_text import END, START

Checkpoints = Callable[[str], Path]
CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]


def without_key(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "pipeline", "prediction_type"),
    [
        ("sd1", "StableDiffusionPipeline", "epsilon"),
        ("sd2", "StableDiffusionPipeline", "v_prediction"),
        ("sdxl", "StableDiffusionXLPipeline", "epsilon"),
        ("sd3", "StableDiffusion3Pipeline", "velocity"),
        ("sd3_t5", "StableDiffusion3Pipeline", "velocity"),
    ],
)
def test_every_family_is_accepted(text_checkpoint: Checkpoints, name: str, pipeline: str, prediction_type: str) -> None:
    folder = text_checkpoint(name)
    manifest = inspect_checkpoint(folder)
    assert (manifest.pipeline, manifest.prediction_type) == (pipeline, prediction_type)
    assert {file.path for file in manifest.files} == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    assert (manifest.adapters, manifest.not_loaded) == ((), ())


def test_inspection_of_a_pipeline_with_prompts_needs_no_torch(text_checkpoint: Checkpoints) -> None:
    code = (
        "import sys; from pathlib import Path; from invmm_gate.models.read.inspect import inspect_checkpoint;"
        "inspect_checkpoint(Path(sys.argv[1]));"
        "heavy = {'torch', 'diffusers', 'numpy', 'safetensors', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, text_checkpoint("sd3_t5")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_safety_checker_is_noted_and_hashed_and_decides_nothing(sd: Path) -> None:
    plain = inspect_checkpoint(sd)
    edit_json(sd / "model_index.json", safety_checker=CHECKER, feature_extractor=["transformers", "CLIPImageProcessor"])
    for part in ("safety_checker", "feature_extractor"):
        (sd / part).mkdir()
    names = "embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"
    weights = {f"vision_model.{name}": torch.zeros(3) for name in names}
    save_file(weights, sd / "safety_checker/model.safetensors")
    (sd / "safety_checker/config.json").write_text("{}")
    (sd / "feature_extractor/preprocessor_config.json").write_text("{}")
    manifest = inspect_checkpoint(sd)
    assert manifest.not_loaded == ("feature_extractor", "safety_checker")
    assert manifest.digest != plain.digest
    save_file({key: value + 1 for key, value in weights.items()}, sd / "safety_checker/model.safetensors")
    assert changed_files(manifest) == ("safety_checker/model.safetensors",)
    assert inspect_checkpoint(sd).digest != manifest.digest


def test_what_a_safety_checker_may_not_be(sd: Path) -> None:
    for value in (
        ["os", "system"],
        ["../evil", "StableDiffusionSafetyChecker"],
        [["a"], {"b": 1}],
        "x",
        [None],
        [1, 2],
    ):
        edit_json(sd / "model_index.json", safety_checker=value)
        assert "safety_checker" in refusal(sd)
    edit_json(sd / "model_index.json", safety_checker=[None, None])
    (sd / "safety_checker").mkdir()
    save_file({"a": torch.zeros(3)}, sd / "safety_checker/model.safetensors")
    assert "safety_checker/model.safetensors" in refusal(sd)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3_t5"])
def test_each_component_and_each_file_of_it_is_needed(text_checkpoint: Checkpoints, name: str) -> None:
    folder = text_checkpoint(name)
    index = json.loads((folder / "model_index.json").read_text())
    pairs = {"text_encoder_3", "tokenizer_3"}
    for part in sorted(key for key, value in index.items() if isinstance(value, list) and value[0]):
        for absent in ([None, None], None):
            edit_json(folder / "model_index.json", **{part: absent})
            message = refusal(folder)
            assert part in message or part in pairs
            edit_json(folder / "model_index.json", **index)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.unlink()
        refusal(folder)
        path.write_bytes(data)
    inspect_checkpoint(folder)


def test_sd_3_may_come_without_t5(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    edit_json(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    assert "text_encoder_3/model.safetensors" in refusal(folder)
    shutil.rmtree(folder / "text_encoder_3")
    assert inspect_checkpoint(folder).pipeline == "StableDiffusion3Pipeline"
    assert "text_encoder_3" not in layout_of(inspect_checkpoint(folder))[1].components


def test_switches_of_the_pipeline_must_be_switches(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sdxl")
    edit_json(folder / "model_index.json", force_zeros_for_empty_prompt="yes")
    assert "force_zeros_for_empty_prompt" in refusal(folder)
    edit_json(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    assert layout_of(inspect_checkpoint(folder))[1].settings["force_zeros_for_empty_prompt"] is False
    without_key(folder / "model_index.json", "force_zeros_for_empty_prompt")
    assert layout_of(inspect_checkpoint(folder))[1].settings["force_zeros_for_empty_prompt"] is True
    edit_json(folder / "model_index.json", surprise=True)
    assert "surprise" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("text_encoder/config.json", {"quantization_config": {"load_in_8bit": True}}),
        ("text_encoder/config.json", {"model_type": "clip_vision_model"}),
        ("text_encoder/config.json", {"surprise": 1}),
        ("text_encoder/config.json", {"pruned_heads": {"0": [1]}}),
        ("text_encoder/config.json", {"is_decoder": True}),
        ("text_encoder/config.json", {"add_cross_attention": True}),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}),
        ("text_encoder/config.json", {"hidden_act": "os.system"}),
        ("text_encoder/config.json", {"hidden_size": 60_000}),
        ("text_encoder/config.json", {"eos_token_id": 5}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.py", None]}}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}),
        ("tokenizer/tokenizer_config.json", {"surprise": 1}),
        ("tokenizer/tokenizer_config.json", {"chat_template": "{{ evil }}"}),
        ("tokenizer/tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<nowhere>"}),
        ("tokenizer/tokenizer_config.json", {"bos_token": {"content": START, "evil": 1}}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 17}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 2}),
        ("tokenizer/tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": END}}}),
        ("tokenizer/tokenizer_config.json", {"additional_special_tokens": ["cat"]}),
        ("tokenizer/tokenizer_config.json", {"additional_special_tokens": [{"content": "cat"}]}),
        ("tokenizer/tokenizer_config.json", {"extra_special_tokens": ["cat"]}),
        ("tokenizer/tokenizer_config.json", {"extra_special_tokens": {"a": "cat"}}),
        ("tokenizer/tokenizer.json", {"truncation": {"direction": "Left", "max_length": 16}}),
        ("tokenizer/tokenizer.json", {"padding": {"direction": "Left"}}),
        ("tokenizer/tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
        ("tokenizer/tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}),
        ("unet/config.json", {"cross_attention_dim": 32}),
        ("unet/config.json", {"in_channels": 9}),
        ("unet/config.json", {"encoder_hid_dim": 8}),
        ("unet/config.json", {"addition_embed_type": "text_time"}),
        ("unet/config.json", {"addition_embed_type": "image"}),
        ("unet/config.json", {"class_embed_type": "timestep"}),
        ("unet/config.json", {"num_attention_heads": 2}),
        ("unet/config.json", {"attention_type": "gated"}),
        ("unet/config.json", {"down_block_types": ["DownBlock2D", "os.system"]}),
        ("unet/config.json", {"sample_size": None}),
        ("unet/config.json", {"block_out_channels": [8000, 8000]}),
        ("vae/config.json", {"latents_mean": [0.0] * 4}),
        ("vae/config.json", {"latent_channels": 8}),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        ("model_index.json", {"text_encoder": ["transformers", "AutoModel"]}),
        ("model_index.json", {"text_encoder": ["diffusers", "CLIPTextModel"]}),
        ("model_index.json", {"text_encoder": ["custom", "CLIPTextModel"]}),
        ("model_index.json", {"tokenizer": ["transformers", "T5TokenizerFast"]}),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}),
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}),
    ],
)  # fmt: skip
def test_a_configuration_that_lies_is_refused(sd: Path, file: str, changes: dict[str, Any]) -> None:
    edit_json(sd / file, **changes)
    refusal(sd)


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("sdxl", "unet/config.json", {"addition_embed_type": None}),
        ("sdxl", "unet/config.json", {"projection_class_embeddings_input_dim": 37}),
        ("sdxl", "unet/config.json", {"cross_attention_dim": 16}),
        ("sdxl", "tokenizer_2/tokenizer_config.json", {"model_max_length": 12}),
        ("sd3", "transformer/config.json", {"pooled_projection_dim": 12}),
        ("sd3", "transformer/config.json", {"pos_embed_max_size": 2}),
        ("sd3", "transformer/config.json", {"joint_attention_dim": 30}),
        ("sd3", "transformer/config.json", {"sample_size": 7}),
        ("sd3", "transformer/config.json", {"caption_projection_dim": 8}),
        ("sd3", "scheduler/scheduler_config.json", {"use_dynamic_shifting": True}),
        ("sd3_t5", "transformer/config.json", {"joint_attention_dim": 48}),
        ("sd3_t5", "text_encoder_3/config.json", {"vocab_size": 64}),
        ("sd3_t5", "text_encoder_3/config.json", {"vocab_size": 5000}),
        ("sd3_t5", "text_encoder_3/config.json", {"is_gated_act": True}),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(
    text_checkpoint: Checkpoints, name: str, file: str, changes: dict[str, Any]
) -> None:
    folder = text_checkpoint(name)
    edit_json(folder / file, **changes)
    refusal(folder)


def test_a_tokenizer_of_another_vocabulary_is_one_clear_line(sd: Path) -> None:
    edit_json(sd / "text_encoder/config.json", vocab_size=600)
    assert "tokenizer knows 529 tokens, text_encoder 600" in refusal(sd)
    path = sd / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<cat-toy>", "id": 529})
    path.write_text(json.dumps(content))
    assert "textual inversion" in refusal(sd)


def test_special_tokens_of_the_older_map_are_checked_too(sd: Path) -> None:
    path = sd / "tokenizer/special_tokens_map.json"
    for change in (
        {"additional_special_tokens": ["cat"]},
        {"extra_special_tokens": {"a": "cat"}},
        {"mask_token": "cat"},
    ):
        path.write_text(json.dumps({"bos_token": START, **change}))
        assert "tokenizer" in refusal(sd)
    path.write_text(json.dumps({"bos_token": START, "additional_special_tokens": [END]}))
    inspect_checkpoint(sd)


def test_a_tokenizer_file_that_only_other_versions_of_transformers_read_must_say_the_same(sd: Path) -> None:
    path = sd / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    replace = {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"}
    content["normalizer"]["normalizers"].insert(0, replace)
    path.write_text(json.dumps(content))
    assert "tokenizer.json: the normalizer is" in refusal(sd)
    content["normalizer"]["normalizers"].pop(0)
    split, of_bytes = content["pre_tokenizer"]["pretokenizers"]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
    path.write_text(json.dumps(content))
    inspect_checkpoint(sd)  # as transformers 4 converts it
    of_bytes["add_prefix_space"] = True
    path.write_text(json.dumps(content))
    assert "the pre_tokenizer is" in refusal(sd)
    of_bytes["add_prefix_space"] = False
    for change in ({"dropout": 0.5}, {"ignore_merges": True}, {"end_of_word_suffix": ""}):
        path.write_text(json.dumps({**content, "model": {**content["model"], **change}}))
        assert next(iter(change)) in refusal(sd)


def test_a_vocabulary_with_gaps_or_two_meanings_is_refused(sd: Path) -> None:
    path = sd / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    for token, number in (("a", 1), ("a", 9999), ("a", 2**32 - 1), ("a", -1), ("a", "0"), ("a", True)):
        broken = {**content, "model": {**content["model"], "vocab": {**content["model"]["vocab"], token: number}}}
        path.write_text(json.dumps(broken))
        assert "tokenizer" in refusal(sd)
    for change in ({"type": "Unigram"}, {"vocab": []}, {"vocab": None}, {"merges": ["a b c"]}, {"merges": [["a"]]}):
        path.write_text(json.dumps({**content, "model": {**content["model"], **change}}))
        assert "tokenizer" in refusal(sd)
    swapped = {**content["post_processor"], "sep": content["post_processor"]["cls"]}
    path.write_text(json.dumps({**content, "post_processor": swapped}))
    assert "post_processor" in refusal(sd)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("added_tokens", lambda tokens: [{**tokens[0], "id": 5}, *tokens[1:]]),
        ("added_tokens", lambda tokens: [*tokens, tokens[0]]),
        ("added_tokens", lambda tokens: [{**tokens[0], "surprise": 1}, *tokens[1:]]),
        ("model", lambda model: {**model, "surprise": 1}),
        ("model", lambda model: {**model, "merges": [*model["merges"], model["merges"][0]]}),
        ("pre_tokenizer", lambda steps: {**steps, "surprise": 1}),
        ("post_processor", lambda template: {**template, "surprise": 1}),
    ],
)
def test_what_the_library_passes_over_is_refused(sd: Path, part: str, change: Callable[[Any], Any]) -> None:
    path = sd / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, part: change(content[part])}))
    assert f"the {part} says more than the library reads" in refusal(sd)


@pytest.mark.parametrize(
    "changes",
    [{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, {"added_tokens": None}, {"version": "9"}],
)
def test_a_file_at_which_the_library_stumbles_is_one_clear_line(
    text_checkpoint: Checkpoints, changes: dict[str, Any]
) -> None:
    """Its Rust code panics at the first, with an exception that is no `Exception`."""
    folder = text_checkpoint("sd3_t5")
    edit_json(folder / "tokenizer_3/tokenizer.json", **changes)
    assert "'tokenizer_3/tokenizer.json' cannot be read" in refusal(folder)


def split_tokenizer(folder: Path) -> None:
    """The files that older versions of transformers wrote."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines))


def test_both_forms_of_a_vocabulary_must_agree(sd: Path) -> None:
    split_tokenizer(sd / "tokenizer")
    both = layout_of(inspect_checkpoint(sd))[1].tokenizers["tokenizer"]
    merges = sd / "tokenizer/merges.txt"
    text = merges.read_text()
    merges.write_text(text.replace("t h\n", "h t\n"))
    assert "merges.txt and tokenizer.json disagree" in refusal(sd)
    merges.write_text(text)
    vocabulary = json.loads((sd / "tokenizer/vocab.json").read_text())
    edit_json(sd / "tokenizer/vocab.json", a=vocabulary["b"], b=vocabulary["a"])
    assert "vocab.json and tokenizer.json disagree" in refusal(sd)
    edit_json(sd / "tokenizer/vocab.json", **vocabulary)
    (sd / "tokenizer/tokenizer.json").unlink()
    split = layout_of(inspect_checkpoint(sd))[1].tokenizers["tokenizer"]
    assert (split.vocabulary, split.merges) == (both.vocabulary, both.merges)
    merges.write_bytes(b"\xff\xfe")
    assert "merges.txt" in refusal(sd)


def test_a_sentencepiece_file_is_hashed_and_never_read(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    (folder / "tokenizer_3/spiece.model").write_bytes(b"\x0a\x0c\x0a\x05<unk>\x15\0\0\0\0")
    assert inspect_checkpoint(folder).not_loaded == ("tokenizer_3/spiece.model",)
    (folder / "tokenizer_3/tokenizer.json").unlink()
    assert "tokenizer_3' has no tokenizer.json" in refusal(folder)
    (folder / "tokenizer_3/spiece.model").write_bytes(b"\x80\x04\x95")
    assert "pickle" in refusal(folder)


def test_weights_that_would_not_be_scored_are_refused(sd: Path, tmp_path: Path) -> None:
    weights = load_file(sd / "text_encoder/model.safetensors")
    for name in ("text_encoder/model.fp16.safetensors", "v1-5.safetensors", "unet/pytorch_lora_weights.safetensors"):
        save_file(weights, sd / name)
        assert name in refusal(sd)
        (sd / name).unlink()
    torch.save([Payload(tmp_path / "marker"), torch.zeros(50_000)], sd / "text_encoder/pytorch_model.bin")
    assert "text_encoder/pytorch_model.bin" in refusal(sd)
    again = refusal(sd, allow_pickle=True)
    assert "'text_encoder/pytorch_model.bin' (the same weights again, as a pickle)" in again
    assert again == refusal(sd)
    assert "--allow-pickle" not in again
    (sd / "text_encoder/model.safetensors").unlink()
    assert inspect_checkpoint(sd, allow_pickle=True).pickles == ("text_encoder/pytorch_model.bin",)
    assert not (tmp_path / "marker").exists()


def test_raw_and_averaged_denoisers_side_by_side_are_two_models(text_checkpoint: Checkpoints) -> None:
    for name, denoiser in (("sd1", "unet"), ("sd3", "transformer")):
        folder = text_checkpoint(name)
        shutil.copytree(folder / denoiser, folder / f"{denoiser}_ema")
        assert "two models" in refusal(folder)
        assert inspect_checkpoint(folder, weights="ema").weights == "ema"
        assert inspect_checkpoint(folder, weights="raw").weights == "raw"
        shutil.rmtree(folder / f"{denoiser}_ema")
        with pytest.raises(ModelError, match="no ema"):
            inspect_checkpoint(folder, weights="ema")


def test_every_key_that_transformers_writes_is_known(sd: Path) -> None:
    """Whatever version is installed, and the longer dumps of older ones."""
    written = json.loads(CLIPTextConfig().to_json_string(use_diff=False))
    written = {key: value for key, value in written.items() if not key.startswith("_")}
    own = json.loads((sd / "text_encoder/config.json").read_text())
    (sd / "text_encoder/config.json").write_text(json.dumps({**written, **own, "model_type": "clip_text_model"}))
    inspect_checkpoint(sd)
    old = {"torch_dtype": "float32", "gradient_checkpointing": False, "dropout": 0.0, "typical_p": 1.0, "top_k": 50}
    assert old.keys() <= HARMLESS
    edit_json(sd / "text_encoder/config.json", **old, tie_word_embeddings=True, pruned_heads={}, is_decoder=False)
    inspect_checkpoint(sd)


def test_every_key_of_a_t5_configuration_is_known(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3_t5")
    written = json.loads(T5Config().to_json_string(use_diff=False))
    own = json.loads((folder / "text_encoder_3/config.json").read_text())
    (folder / "text_encoder_3/config.json").write_text(json.dumps({**written, **own}))
    edit_json(folder / "text_encoder_3/config.json", n_positions=512, output_past=True, decoder_start_token_id=0)
    inspect_checkpoint(folder)


@pytest.mark.parametrize(("name", "shift"), [("sd1", 0.25), ("sdxl", 0.25), ("sd3", None)])
def test_a_shift_of_the_latent_that_the_pipeline_would_not_apply_is_refused(
    text_checkpoint: Checkpoints, tmp_path: Path, name: str, shift: float | None
) -> None:
    folder = shutil.copytree(text_checkpoint(name), tmp_path / "model")
    edit_json(folder / "vae/config.json", shift_factor=shift)
    with pytest.raises(ModelError, match="shift_factor"):
        inspect_checkpoint(folder)
    if name != "sd3":
        edit_json(folder / "vae/config.json", shift_factor=0.0)
        inspect_checkpoint(folder)
