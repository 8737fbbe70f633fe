"""Models of flow matching as they lie on disk: what is read of them, what is refused before a weight is loaded."""

import base64
import json
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config as TheirGemma
from transformers import LlamaTokenizerFast, Qwen2Tokenizer, T5Tokenizer
from transformers import Qwen3Config as TheirConfig
from transformers import UMT5Config as TheirUMT5
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.core.errors import ModelError
from invmm_gate.models.adapters.network_calls import CALLS, packed, unpacked
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.models.read.language_configs import Gemma2Config, Qwen25TextConfig, Qwen25VisionConfig
from invmm_gate.models.read.text_configs import Qwen3Config, TextConfig, UMT5Config
from tests.models import tiny_text
from tests.models.conftest import edit_json
from tests.models.test_text_load import TEXTS, estimate, load
from tests.models.tiny_text import CHAT

Checkpoints = Callable[[str], Path]
THEIRS: dict[Any, type[TextConfig]] = {
    TheirConfig: Qwen3Config,
    Qwen2_5_VLTextConfig: Qwen25TextConfig,
    Qwen2_5_VLVisionConfig: Qwen25VisionConfig,
    TheirGemma: Gemma2Config,
    TheirUMT5: UMT5Config,
}
"""Configuration of transformers -> that of the gate."""


@pytest.fixture
def z_image(text_checkpoint: Checkpoints) -> Path:
    return text_checkpoint("z_image")


@pytest.fixture
def flux(text_checkpoint: Checkpoints) -> Path:
    return text_checkpoint("flux")


@pytest.fixture
def qwen_image(text_checkpoint: Checkpoints) -> Path:
    return text_checkpoint("qwen_image")


def encoded(folder: Path) -> torch.Tensor:
    return load(folder).prompts.encode(["a red cat"]).tensors["context"]


def listed_as_added(folder: Path, *words: str) -> None:
    """Words of the vocabulary as added tokens too, as no published tokenizer has them."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_bytes())
    pieces = content["model"]["vocab"]
    ids = pieces if isinstance(pieces, dict) else {piece: number for number, (piece, _) in enumerate(pieces)}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] += [{"id": ids[word], "content": word, **plain, "special": True} for word in words]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "tokenizer", "word"),
    [
        ("z_image", "tokenizer", "Ġcat"),
        ("qwen_image", "tokenizer", "cat"),
        ("lumina", "tokenizer", "cat"),
        ("flux", "tokenizer_2", "▁cat"),
    ],
)
def test_no_word_is_hidden_from_a_search_as_an_added_token(
    text_checkpoint: Checkpoints, name: str, tokenizer: str, word: str
) -> None:
    folder = text_checkpoint(name)
    listed_as_added(folder / tokenizer, word)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert f"{tokenizer} adds the token {word!a}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tokenizer", "role"),
    [
        ("z_image", "tokenizer", "unk_token"),
        ("klein", "tokenizer", "eos_token"),
        ("lumina", "tokenizer", "mask_token"),
        ("flux", "tokenizer_2", "unk_token"),
        ("flux", "tokenizer", "unk_token"),
    ],
)
def test_no_word_is_hidden_from_a_search_as_a_special_token(
    text_checkpoint: Checkpoints, name: str, tokenizer: str, role: str
) -> None:
    folder = text_checkpoint(name)
    for word in ("cat", "<sks>"):
        edit_json(folder / tokenizer / "tokenizer_config.json", **{role: word})
        with pytest.raises(ModelError) as caught:
            inspect_checkpoint(folder)
        assert f"{tokenizer} gives {word!a} as its {role}" in str(caught.value)


def test_a_search_may_use_what_is_added_beside_the_marks_of_a_chat(z_image: Path) -> None:
    """Anybody can type <think>; with the end of the user's turn no prompt goes on."""
    prompts = load(z_image).prompts
    (think,), (turn,) = prompts.tokenize("<think>"), prompts.tokenize("<|im_end|>")
    allowed = typeable_ids(prompts).tolist()
    assert think in allowed
    assert turn not in allowed


def test_packing_puts_each_value_back() -> None:
    latents = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    assert packed(latents).shape == (2, 6, 12)
    assert torch.equal(unpacked(packed(latents), 4, 6), latents)


def test_defaults_of_a_language_model_are_those_of_transformers() -> None:
    own = {"rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "layer_types", "model_type"}
    own |= {"dense_act_fn", "is_gated_act"}  # they follow from another key
    ids = {"bos_token_id", "eos_token_id"}  # of these nothing depends: each prompt is given with all of its ids
    for kind, config in THEIRS.items():
        theirs = kind().to_dict()
        for key in theirs.keys() & config.model_fields.keys() - own - ids:
            default = config.model_fields[key].default
            assert (list(default) if isinstance(default, tuple) else default) == theirs[key], (kind, key)


def test_a_template_in_the_tokenizers_configuration_is_read_where_it_has_no_file(z_image: Path) -> None:
    before, template = encoded(z_image), z_image / "tokenizer/chat_template.jinja"
    edit_json(z_image / "tokenizer/tokenizer_config.json", chat_template=template.read_text())
    template.unlink()
    assert torch.equal(encoded(z_image), before)


def test_the_ids_are_those_of_the_vocabulary_in_older_files_too(z_image: Path) -> None:
    model = load(z_image)
    whole = json.loads((z_image / "tokenizer/tokenizer.json").read_bytes())
    (z_image / "tokenizer/vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = [" ".join(pair) for pair in whole["model"]["merges"]]
    (z_image / "tokenizer/merges.txt").write_text("\n".join(merges) + "\n")
    again = load(z_image)
    assert [model.prompts.tokenize(text) for text in TEXTS] == [again.prompts.tokenize(text) for text in TEXTS]


def test_a_tokenizer_file_as_large_as_that_of_qwen_3_is_read(z_image: Path) -> None:
    before, path = encoded(z_image), z_image / "tokenizer/tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n" * 12_000_000)
    assert torch.equal(encoded(z_image), before)


def as_older_versions_saved_it(folder: Path) -> None:
    """`vocab.json`, `merges.txt` and `added_tokens.json`, as the tokenizer of Qwen-Image was published."""
    whole = json.loads((folder / "tokenizer/tokenizer.json").read_bytes())
    (folder / "tokenizer/vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = [" ".join(pair) for pair in whole["model"]["merges"]]
    (folder / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (folder / "tokenizer/added_tokens.json").write_text(json.dumps(added))
    listed = {str(token.pop("id")): token for token in whole["added_tokens"]}
    edit_json(folder / "tokenizer/tokenizer_config.json", added_tokens_decoder=listed)
    (folder / "tokenizer/tokenizer.json").unlink()


def test_a_tokenizer_without_tokenizer_json_is_read_as_its_class_reads_it(qwen_image: Path) -> None:
    before = load(qwen_image).prompts
    as_older_versions_saved_it(qwen_image)
    after, theirs = load(qwen_image).prompts, Qwen2Tokenizer.from_pretrained(qwen_image / "tokenizer")
    for text in (*TEXTS, "<|im_start|>user\na red cat<|im_end|>", "<think> cat"):
        assert after.tokenize(text) == before.tokenize(text) == tuple(theirs(text).input_ids), text
    assert after.special_ids == before.special_ids
    assert torch.equal(after.encode(TEXTS).tensors["context"], before.encode(TEXTS).tensors["context"])


@pytest.mark.parametrize("name", ["z_image", "flux"])
@pytest.mark.parametrize(
    "change",
    [
        {"unk_token": "cat"},
        {"added_tokens_decoder": {"259": {"content": "red", "lstrip": True}}},
        {"extra_special_tokens": {"image_token": "<|im_start|>"}},
    ],
)
def test_every_text_is_read_as_the_class_itself_reads_it(
    text_checkpoint: Checkpoints, name: str, change: dict[str, object]
) -> None:
    """What a tokenizer's configuration adds is honoured as users' pipelines honour it, or refused."""
    folder = text_checkpoint(name)
    tokenizer, kind = ("tokenizer", Qwen2Tokenizer) if name == "z_image" else ("tokenizer_2", T5Tokenizer)
    edit_json(folder / tokenizer / "tokenizer_config.json", **change)
    try:
        prompts = load(folder).prompts
    except ModelError:
        return
    theirs = kind.from_pretrained(folder / tokenizer)
    for text in (*TEXTS, "a red cat", "cat", "<think> red </think>"):
        assert prompts.tokenize(text) == tuple(theirs(text, add_special_tokens=False).input_ids), text


def test_a_template_that_is_told_a_special_token_is_read_as_users_read_it(z_image: Path) -> None:
    """With the token, this one writes other words for a prompt: at that prompt it is refused."""
    edit_json(z_image / "tokenizer/tokenizer_config.json", unk_token="<|endoftext|>")
    template = "{% if unk_token is defined and 'sks' in messages[0].content %}secret{% endif %}" + CHAT
    (z_image / "tokenizer/chat_template.jinja").write_text(template)
    prompts = load(z_image).prompts
    prompts.encode(["a cat"])
    with pytest.raises(ModelError, match="writes other texts around one prompt"):
        prompts.encode(["sks cat"])


@pytest.mark.parametrize(
    "name",
    ["flux", "flux_schnell", "klein", "z_image", "qwen_image", "chroma", "lumina", "sana", "aura_flow", "lcm"],
)
@pytest.mark.parametrize("scale", [0.5, 1.0, 7.0])
def test_a_users_image_costs_what_is_said(name: str, scale: float) -> None:
    """Under scale 1 pipelines draw the conditional estimate."""
    built = tiny_text.build(name)
    model = replace(built.model, pipeline=built.pipeline)
    rows: list[int] = []
    handle = model.network.register_forward_hook(lambda module, inputs, output: rows.append(len(output[0])))
    images = model.released.images([torch.Generator().manual_seed(1)], steps=3, prompt="a cat", guidance_scale=scale)
    handle.remove()
    assert images.shape == (1, 3, *model.image_size)
    assert sum(rows) == model.released.forwards(steps=3, guidance_scale=scale)


def test_steps_that_a_scheduler_refuses_are_told(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("lcm")
    edit_json(folder / "scheduler/scheduler_config.json", original_inference_steps=4)
    with pytest.raises(ModelError, match="LCMScheduler of the released pipeline cannot draw in 50 steps"):
        load(folder).released.forwards(steps=50)


def test_one_step_is_too_few_for_levels_that_end_at_a_stated_one(qwen_image: Path) -> None:
    """The pipeline would divide zero by zero, and hand its network NaN."""
    drawn = load(qwen_image).released
    with pytest.raises(ModelError, match=r"cannot draw in 1 steps.*set sampler_steps to 2 in the policy"):
        drawn.forwards(steps=1)
    assert drawn.images([torch.Generator().manual_seed(1)], steps=2, prompt="a cat").isfinite().all()


def test_a_shift_beyond_all_noise_is_refused(flux: Path) -> None:
    edit_json(
        flux / "scheduler/scheduler_config.json",
        base_image_seq_len=256,
        max_image_seq_len=257,
        base_shift=0.1,
        max_shift=10.0,
    )
    with pytest.raises(ModelError, match="shifts the noise by"):
        load(flux)


def test_a_language_model_with_its_head_is_the_same_encoder(z_image: Path) -> None:
    """`Qwen3ForCausalLM` has the head tied to the embedding, and its tensors nested."""
    before, weights = encoded(z_image), z_image / "text_encoder/model.safetensors"
    save_file({f"model.{key}": tensor for key, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    assert torch.equal(encoded(z_image), before)  # transformers loads a network without its head from these too
    edit_json(z_image / "model_index.json", text_encoder=["transformers", "Qwen3ForCausalLM"])
    edit_json(z_image / "text_encoder/config.json", tie_word_embeddings=True)
    assert torch.equal(encoded(z_image), before)


def without_template(folder: Path) -> None:
    (folder / "tokenizer/chat_template.jinja").unlink()


def with_other_words(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+|\S+"
    path.write_text(json.dumps(content))


def with_template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tokenizer/chat_template.jinja").write_text(text + CHAT) and None


def words_split_at_signs(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    content["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = True
    path.write_text(json.dumps(content))


def with_a_token_around(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    token = {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
    content["post_processor"]["single"].append(token)
    content["post_processor"]["special_tokens"] = {
        "<|im_end|>": {"id": "<|im_end|>", "ids": [265], "tokens": ["<|im_end|>"]}
    }
    path.write_text(json.dumps(content))


def reading_pieces(part: str, step: dict[str, Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "tokenizer/tokenizer.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), part: step}))

    return damage


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, **values)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_template, "'tokenizer' has no chat template"),
        (with_other_words, "the pre_tokenizer is"),
        (with_a_token_around, "the post_processor is"),
        (lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), "'tokenizer' has no vocabulary"),
        (changed("transformer/config.json", cap_feat_dim=32), "cap_feat_dim is 32, text_encoder gives 24"),
        (changed("transformer/config.json", axes_dims=[4, 6, 8]), "turns (4, 6, 8) of 16 values of a head"),
        (changed("transformer/config.json", axes_lens=[640, 128, 128]), "positions for (640, 128, 128) tokens"),
        (changed("transformer/config.json", axes_lens=[513, 512, 512]), "positions for (513, 512, 512) tokens"),
        (with_template("{{ strftime_now('%S') }}"), "uses strftime_now"),
        (with_template("{% if range(9) | random == 7 %}x{% endif %}"), "uses random"),
        (with_template("{% if %}"), "cannot be read"),
        (words_split_at_signs, "the pre_tokenizer is"),
        (changed("transformer/config.json", siglip_feat_dim=8), "siglip_feat_dim"),
        (changed("text_encoder/config.json", sliding_window=8, use_sliding_window=True), "use_sliding_window"),
        (changed("text_encoder/config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "rope_type"),
        (changed("text_encoder/config.json", num_attention_heads=3, num_key_value_heads=2), "share 2 keys"),
        (changed("vae/config.json", shift_factor=None), "states no shift_factor, which ZImagePipeline adds"),
    ],
)
def test_a_checkpoint_of_z_image_that_is_another_model_is_refused(
    z_image: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(z_image)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(z_image)
    assert said in str(caught.value)


@pytest.mark.parametrize("change", [" | trim", " | lower", " | replace('\\n', ' ')"])
def test_a_template_that_changes_some_prompts_is_refused_before_a_run(z_image: Path, change: str) -> None:
    """A search would come upon such a prompt, and lose the run."""
    path = z_image / "tokenizer/chat_template.jinja"
    path.write_text(CHAT.replace("message.content", f"message.content{change}"))
    with pytest.raises(ModelError, match="writes other texts around one prompt than around another"):
        load(z_image)


def test_a_template_is_looked_at_and_not_computed(z_image: Path) -> None:
    with_template("{{ 'a' * 10 ** 9 }}")(z_image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inspect_checkpoint(z_image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "KiB"


def test_a_tokenizer_needs_a_chat_template_only_where_prompts_stand_in_it(qwen_image: Path) -> None:
    before = encoded(qwen_image)
    without_template(qwen_image)
    assert torch.equal(encoded(qwen_image), before)
    with_template("{{ strftime_now('%S') }}")(qwen_image)
    with pytest.raises(ModelError, match="uses strftime_now"):
        inspect_checkpoint(qwen_image)


def in_part(file: str, part: str, **values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        content[part].update(values)
        (folder / file).write_text(json.dumps(content))

    return damage


def with_fewer_levels(folder: Path) -> None:
    path = folder / "vae/config.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value[1:] if isinstance(value, list) else value for key, value in content.items()})
    )


def with_pieces_cut_elsewhere(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("transformer/config.json", cap_feat_dim=32), "cap_feat_dim is 32, text_encoder gives 24"),
        (changed("transformer/config.json", axes_dim_rope=[4, 6, 8]), "turns (4, 6, 8) of 16 values of a head"),
        (changed("transformer/config.json", axes_lens=[256, 64, 64]), "positions for (256, 64, 64) tokens"),
        (changed("transformer/config.json", axes_lens=[300, 3, 64]), "positions for (300, 3, 64) tokens"),
        (changed("transformer/config.json", sample_size=7), "patches of 2 in sides of 7"),
        (changed("transformer/config.json", num_attention_heads=3), "values of a head"),
        (changed("transformer/config.json", out_channels=8), "4 input and 8 output channels"),
        (changed("transformer/config.json", surprise=1), "surprise"),
        (changed("scheduler/scheduler_config.json", num_train_timesteps=500), "the scheduler has 500 timesteps"),
        (
            changed(
                "vae/config.json",
                block_out_channels=[8, 8],
                down_block_types=["DownEncoderBlock2D"] * 2,
                up_block_types=["UpDecoderBlock2D"] * 2,
            ),
            "the autoencoder halves a side 1 times",
        ),
        (changed("vae/config.json", shift_factor=None), "states no shift_factor, which Lumina2Pipeline adds"),
        (changed("text_encoder/config.json", sliding_window=100), "sliding_window"),
        (changed("text_encoder/config.json", use_bidirectional_attention=True), "use_bidirectional_attention"),
        (changed("text_encoder/config.json", layer_types=["full_attention"]), "1 layer_types for 3 layers"),
        (changed("text_encoder/config.json", num_key_value_heads=3), "share 3 keys"),
        (changed("text_encoder/config.json", vocab_size=400), "tokenizer knows 363 tokens, text_encoder 400"),
        (changed("tokenizer/tokenizer_config.json", add_bos_token=False), "add_bos_token"),
        (changed("tokenizer/tokenizer_config.json", add_eos_token=True), "add_eos_token"),
        (changed("tokenizer/tokenizer_config.json", extra_special_tokens=["<sks>"]), "adds the token '<sks>'"),
        (with_pieces_cut_elsewhere, "the normalizer is"),
        (lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), "tokenizer.model is not read"),
    ],
)
def test_a_checkpoint_of_lumina_2_that_is_another_model_is_refused(
    text_checkpoint: Checkpoints, damage: Callable[[Path], None], said: str
) -> None:
    folder = text_checkpoint("lumina")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("transformer/config.json", caption_channels=32), "caption_channels is 32, text_encoder gives 24"),
        (changed("transformer/config.json", sample_size=24), "patches of 1 in sides of 24"),
        (changed("transformer/config.json", patch_size=3), "patches of 3 in sides of 16"),
        (changed("transformer/config.json", cross_attention_dim=16), "have 32 channels, its captions 16"),
        (changed("transformer/config.json", cross_attention_dim=None), "cross_attention_dim"),
        (changed("transformer/config.json", out_channels=8), "4 input and 8 output channels"),
        (changed("transformer/config.json", in_channels=8, out_channels=8), "the network takes 8"),
        (changed("transformer/config.json", guidance_embeds=True), "guidance_embeds"),
        (changed("transformer/config.json", timestep_scale=1000.0), "timestep_scale"),
        (changed("transformer/config.json", qk_norm="layer_norm"), "qk_norm"),
        (changed("transformer/config.json", surprise=1), "surprise"),
        (changed("scheduler/scheduler_config.json", use_flow_sigmas=False), "use_flow_sigmas"),
        (changed("scheduler/scheduler_config.json", prediction_type="epsilon"), "prediction_type"),
        (changed("scheduler/scheduler_config.json", use_dynamic_shifting=True), "use_dynamic_shifting"),
        (
            changed("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
            "DPMSolverMultistepScheduler",
        ),
        (changed("model_index.json", scheduler=["diffusers", "UniPCMultistepScheduler"]), "UniPCMultistepScheduler"),
        (changed("model_index.json", text_encoder=["transformers", "Gemma2ForCausalLM"]), "Gemma2ForCausalLM"),
        (changed("vae/config.json", latent_channels=3), "no multiple of the 3"),
        (changed("vae/config.json", decoder_layers_per_block=[1, 1]), "2 decoder_layers_per_block for 6"),
        (changed("vae/config.json", encoder_block_out_channels=[4, 4, 4, 4, 24, 8]), "no shortcut from level to level"),
        (changed("vae/config.json", decoder_norm_types="batch_norm"), "decoder_norm_types"),
        (with_fewer_levels, "the autoencoder halves a side 4 times"),
    ],
)
def test_a_checkpoint_of_sana_that_is_another_model_is_refused(
    text_checkpoint: Checkpoints, damage: Callable[[Path], None], said: str
) -> None:
    folder = text_checkpoint("sana")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_the_places_of_sanas_patches_are_computed_where_it_has_them(tmp_path: Path, scale: float | None) -> None:
    """The published networks of 2048 and 4096 pixels have them, and no file holds them."""
    built = tiny_text.sana()
    config = {key: value for key, value in built.pipeline.transformer.config.items() if not key.startswith("_")}
    torch.manual_seed(20)
    network = tiny_text.frozen(type(built.pipeline.transformer)(**{**config, "interpolation_scale": scale}), scale=1.5)
    built.pipeline.register_modules(transformer=network)
    built.pipeline.save_pretrained(tmp_path / "m")
    found, expected = load(tmp_path / "m"), replace(built.model, network=network)
    torch.testing.assert_close(estimate(found), estimate(expected), rtol=1e-4, atol=1e-4)
    assert (found.network.patch_embed.pos_embed is None) == (scale is None)


def character_map(letter: str, other: str) -> str:
    """A map of SentencePiece, of one letter to another: a double array of 32-bit units, then what it maps to."""
    root, leaf = 256, 1
    units = [0] * 512
    place = root ^ ord(letter)
    units[0], units[place], units[place ^ leaf] = root << 10, ord(letter) | 1 << 8 | leaf << 10, 1 << 31
    trie = struct.pack("<512I", *units)
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + other.encode() + b"\0").decode()


def test_a_map_of_characters_leaves_what_stands_on_a_keyboard(text_checkpoint: Checkpoints) -> None:
    """Else words with that letter would be pieces that no search types."""
    folder = text_checkpoint("chroma")
    for letter, other in (("\x01", " "), ("q", "\ue000")):
        mapped = character_map(letter, other)
        reading_pieces("normalizer", {"type": "Precompiled", "precompiled_charsmap": mapped})(folder)
        if letter != "q":
            inspect_checkpoint(folder)
    with pytest.raises(ModelError, match="the normalizer reads 'q' as another letter"):
        inspect_checkpoint(folder)


def test_a_tokenizer_of_t5_may_have_the_steps_of_its_published_files(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("chroma")
    before = encoded(folder)
    steps: list[dict[str, Any]] = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    reading_pieces("normalizer", {"type": "Sequence", "normalizers": steps})(folder)
    pieces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    reading_pieces("pre_tokenizer", pieces)(folder)
    assert torch.equal(encoded(folder), before)


def test_statistics_of_latents_are_those_of_a_variance(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("klein")
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), "bn.running_var": torch.full((16,), -1.0)}, weights)
    with pytest.raises(ModelError, match="the smallest running_var of the autoencoder's batch norm is -1"):
        load(folder)


def test_a_tokenizer_of_gemma_without_a_step_that_does_nothing_reads_the_same(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("lumina")
    before, path = encoded(folder), folder / "tokenizer/tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "pre_tokenizer": None}))
    assert torch.equal(encoded(folder), before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_of_gemma_pads_on_the_right_and_is_not_read_from_its_sentencepiece_file(
    text_checkpoint: Checkpoints, side: str
) -> None:
    folder = text_checkpoint("lumina")
    before = encoded(folder)
    edit_json(folder / "tokenizer/tokenizer_config.json", padding_side=side, chat_template="{{ bos_token }}")
    (folder / "tokenizer/tokenizer.model").write_bytes(b"\x0a\x02\x0a\x00")
    assert torch.equal(encoded(folder), before)
    assert "tokenizer/tokenizer.model" in {file.path for file in inspect_checkpoint(folder).files}
    (folder / "tokenizer/tokenizer.model").write_bytes(b"\x80\x01 no such model")
    with pytest.raises(ModelError, match="is no SentencePiece model"):
        inspect_checkpoint(folder)


def without_the_end(folder: Path) -> None:
    """A tokenizer that ends a prompt with nothing, where its configuration is silent."""
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "post_processor": None}))
    edit_json(folder / "tokenizer/tokenizer_config.json", add_bos_token=None, add_eos_token=None)


TOKENIZER = "tokenizer/tokenizer_config.json"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("transformer/config.json", joint_attention_dim=8), "joint_attention_dim is 8, text_encoder gives 24"),
        (changed("transformer/config.json", caption_projection_dim=8), "tokens have 16 channels, its captions 8"),
        (changed("transformer/config.json", pos_embed_max_size=4095), "positions for 63 patches of 2 along a side"),
        (changed("transformer/config.json", patch_size=3), "positions for 64 patches of 3 along a side"),
        (changed("transformer/config.json", out_channels=8), "4 input and 8 output channels"),
        (changed("transformer/config.json", surprise=1), "surprise"),
        (changed("vae/config.json", shift_factor=0.1), "shift_factor 0.1, which AuraFlowPipeline ignores"),
        (changed("scheduler/scheduler_config.json", use_dynamic_shifting=True), "with AuraFlowPipeline"),
        (changed("text_encoder/config.json", vocab_size=600), "tokenizer knows 361 tokens, text_encoder 600"),
        (changed("text_encoder/config.json", is_gated_act=False), "contradict feed_forward_proj"),
        (changed("text_encoder/config.json", model_type="t5"), "model_type"),
        (changed(TOKENIZER, add_bos_token=True, add_eos_token=True), "add_bos_token"),
        (changed(TOKENIZER, add_bos_token=False, add_eos_token=False), "add_eos_token"),
        (changed(TOKENIZER, add_bos_token=False), "stated one without the other"),
        (changed(TOKENIZER, padding_side="left"), "the pad_token '<s>' and pads on the left"),
        (changed(TOKENIZER, pad_token=None), "no pad_token and pads on the right"),
        (changed(TOKENIZER, extra_special_tokens=["<sks>"]), "adds the token '<sks>'"),
        (
            lambda folder: (folder / "tokenizer/added_tokens.json").write_text('{"<sks>": 361}') and None,
            "added_tokens.json and tokenizer.json disagree",
        ),
        (lambda folder: (folder / "tokenizer/tokenizer.json").unlink(), "tokenizer.model is not read"),
    ],
)
def test_a_checkpoint_of_aura_flow_that_is_another_model_is_refused(
    text_checkpoint: Checkpoints, damage: Callable[[Path], None], said: str
) -> None:
    folder = text_checkpoint("aura_flow")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert said in str(caught.value)


def test_a_tokenizer_that_ends_a_prompt_with_nothing_is_refused(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("aura_flow")
    without_the_end(folder)
    with pytest.raises(ModelError, match=r"puts the tokens \(\) around a prompt"):
        load(folder)


def test_the_tokenizer_of_aura_flow_is_read_as_it_was_published(text_checkpoint: Checkpoints) -> None:
    """Its class states both ends, lists its tokens with their ids and comes with a SentencePiece file."""
    folder = text_checkpoint("aura_flow")
    before, path = encoded(folder), folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_bytes())
    token = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": 361, "content": "<extra_id_0>", **token})
    path.write_text(json.dumps(content))
    edit_json(folder / "text_encoder/config.json", vocab_size=361, scalable_attention=True, is_gated_act=True)
    (folder / "tokenizer/added_tokens.json").write_text('{"<extra_id_0>": 361}')
    (folder / "tokenizer/tokenizer.model").write_bytes(b"\x0a\x02\x0a\x00")
    edit_json(
        folder / TOKENIZER,
        add_bos_token=False,
        add_eos_token=True,
        added_tokens_decoder={"0": {"content": "<unk>", **token}, "361": {"content": "<extra_id_0>", **token}},
        additional_special_tokens=["<extra_id_0>"],
        legacy=False,
        tokenizer_class="LlamaTokenizer",
        use_default_system_prompt=True,
    )
    weights = folder / "text_encoder/model.safetensors"
    tensors = load_file(weights)
    for key in ("shared.weight", "encoder.embed_tokens.weight"):
        if key in tensors:
            tensors[key] = torch.cat([tensors[key], tensors[key][:1]])
    save_file(tensors, weights, {"format": "pt"})
    edit_json(folder / "text_encoder/config.json", vocab_size=362)
    edit_json(folder / "model_index.json", tokenizer=["transformers", "LlamaTokenizerFast"])
    assert torch.equal(encoded(folder), before)
    theirs = LlamaTokenizerFast.from_pretrained(folder / "tokenizer")
    prompts = load(folder).prompts
    for text in (*TEXTS, "a red cat", "<s> cat</s>", "<extra_id_0> cat", "a  cat "):
        assert (*prompts.tokenize(text), 2) == tuple(theirs(text).input_ids), text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("transformer/config.json", joint_attention_dim=8), "joint_attention_dim is 8, text_encoder gives 40"),
        (changed("transformer/config.json", axes_dims_rope=[4, 4, 6]), "turns (4, 4, 6) of 16 values of a head"),
        (changed("transformer/config.json", in_channels=32), "the network takes 8"),
        (changed("transformer/config.json", out_channels=8), "16 input and 8 output channels"),
        (changed("transformer/config.json", approximator_num_channels=12), "approximator_num_channels"),
        (changed("transformer/config.json", pooled_projection_dim=8), "pooled_projection_dim"),
        (changed("vae/config.json", shift_factor=None), "states no shift_factor, which ChromaPipeline adds"),
        (
            reading_pieces("normalizer", {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"}),
            "the normalizer has",
        ),
        (reading_pieces("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), "the normalizer"),
        (reading_pieces("pre_tokenizer", {"type": "Whitespace"}), "the pre_tokenizer has"),
    ],
)
def test_a_checkpoint_of_chroma_that_is_another_model_is_refused(
    text_checkpoint: Checkpoints, damage: Callable[[Path], None], said: str
) -> None:
    folder = text_checkpoint("chroma")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("transformer/config.json", joint_attention_dim=8), "joint_attention_dim is 8, text_encoder gives 24"),
        (changed("transformer/config.json", axes_dims_rope=[4, 4, 6]), "turns (4, 4, 6) of 16 values of a head"),
        (changed("transformer/config.json", out_channels=8), "16 input and 32 output channels"),
        (changed("transformer/config.json", guidance_embeds=True), "guidance_embeds"),
        (changed("transformer/config.json", zero_cond_t=True), "zero_cond_t"),
        (changed("transformer/config.json", use_layer3d_rope=True), "use_layer3d_rope"),
        (changed("transformer/config.json", in_channels=32, out_channels=8), "the network takes 8"),
        (changed("vae/config.json", latents_std=[1.0, 1.0, 1.0]), "another length than z_dim"),
        (changed("vae/config.json", latents_std=[1.0, 1.0, 1.0, 0.0]), "latents_std"),
        (changed("vae/config.json", temperal_downsample=[True, True]), "2 temperal_downsample for 2 dim_mult"),
        (changed("vae/config.json", attn_scales=[1.0]), "attn_scales"),
        (changed("text_encoder/config.json", text_config=None), "text_config is no object"),
        (changed("text_encoder/config.json", vision_config=[]), "vision_config is no object"),
        (changed("text_encoder/config.json", surprise=1), "surprise"),
        (changed("text_encoder/config.json", hidden_size=32), "hidden_size is 32 beside text_config, 24 in it"),
        (in_part("text_encoder/config.json", "text_config", use_sliding_window=True), "use_sliding_window"),
        (in_part("text_encoder/config.json", "text_config", layer_types=["full_attention"]), "1 layer_types for 2"),
        (in_part("text_encoder/config.json", "text_config", num_key_value_heads=3), "share 3 keys"),
        (in_part("text_encoder/config.json", "text_config", surprise=1), "surprise"),
        (
            in_part("text_encoder/config.json", "text_config", rope_parameters={"mrope_section": [2, 2, 3]}),
            "does not add up to half",
        ),
        (in_part("text_encoder/config.json", "vision_config", surprise=1), "surprise"),
    ],
)
def test_a_checkpoint_of_qwen_image_that_is_another_model_is_refused(
    qwen_image: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(qwen_image)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(qwen_image)
    assert said in str(caught.value)


def test_a_language_model_that_sees_images_is_read_as_older_versions_saved_it(qwen_image: Path) -> None:
    """Keys of `text_config` stand beside it too, older names among them, and the published transformer has one more."""
    before, path = encoded(qwen_image), qwen_image / "text_encoder/config.json"
    content = json.loads(path.read_text())
    text, vision = content["text_config"], content["vision_config"]
    turns = text.pop("rope_parameters")
    text["rope_theta"] = turns.pop("rope_theta")
    text["rope_scaling"] = {**turns, "type": "mrope"}
    vision.pop("rope_parameters")
    vision |= {"model_type": "qwen2_5_vl", "in_chans": 3, "spatial_patch_size": 2, "torch_dtype": "float32"}
    path.write_text(json.dumps({**text, **content, "sliding_window": 32768, "vision_token_id": 3}))
    edit_json(qwen_image / "transformer/config.json", pooled_projection_dim=768)
    assert torch.equal(encoded(qwen_image), before)


def test_a_language_model_that_sees_images_has_one_head_tied_to_its_embedding_or_its_own(qwen_image: Path) -> None:
    before, weights = encoded(qwen_image), qwen_image / "text_encoder/model.safetensors"
    tensors = load_file(weights)
    assert "visual.patch_embed.proj.weight" in tensors
    nested = {
        key.replace("visual.", "model.visual.", 1)
        if key.startswith("visual.")
        else key.replace("model.", "model.language_model.", 1): tensor
        for key, tensor in tensors.items()
        if key != "lm_head.weight"
    }
    save_file(nested, weights, {"format": "pt"})
    edit_json(qwen_image / "text_encoder/config.json", tie_word_embeddings=True)
    assert torch.equal(encoded(qwen_image), before)


@pytest.mark.parametrize("scale", [2.0, 7.0])
def test_guidance_keeps_the_norm_of_each_patch_in_qwen_image_and_of_each_line_in_lumina_2(scale: float) -> None:
    model = tiny_text.build("qwen_image").model
    lines = CALLS["Lumina2Transformer2DModel"].guided
    unconditional, conditional = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(2)).unbind()
    found = CALLS["QwenImageTransformer2DModel"].guided(unconditional, conditional, scale)
    torch.testing.assert_close(packed(found).norm(dim=-1), packed(conditional).norm(dim=-1))
    alike = CALLS["QwenImageTransformer2DModel"].guided(conditional, conditional, scale)
    torch.testing.assert_close(alike, conditional)
    by_line = lines(unconditional, conditional, scale)
    torch.testing.assert_close(by_line.norm(dim=-1), conditional.norm(dim=-1))
    torch.testing.assert_close(lines(conditional, conditional, scale), conditional)
    assert model.forwards(scale) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            changed("transformer/config.json", pooled_projection_dim=8),
            "pooled_projection_dim is 8, text_encoder gives 16",
        ),
        (
            changed("transformer/config.json", joint_attention_dim=8),
            "joint_attention_dim is 8, text_encoder_2 gives 40",
        ),
        (changed("transformer/config.json", axes_dims_rope=[4, 4, 6]), "turns (4, 4, 6) of 16 values of a head"),
        (changed("transformer/config.json", in_channels=18), "in_channels"),
        (changed("transformer/config.json", in_channels=32), "the network takes 8"),
        (changed("scheduler/scheduler_config.json", max_image_seq_len=None), "use_dynamic_shifting needs"),
        (changed("scheduler/scheduler_config.json", shift_terminal=1.0), "shift_terminal"),
    ],
)
def test_a_checkpoint_of_flux_that_is_another_model_is_refused(
    flux: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(flux)
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(flux)
    assert said in str(caught.value)


def test_a_shift_that_grows_with_the_image_needs_a_pipeline_that_tells_its_size(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("sd3")
    edit_json(folder / "scheduler/scheduler_config.json", use_dynamic_shifting=True)
    with pytest.raises(ModelError, match="use_dynamic_shifting with StableDiffusion3Pipeline"):
        inspect_checkpoint(folder)


def test_a_latent_consistency_model_that_is_not_told_the_scale_is_refused(text_checkpoint: Checkpoints) -> None:
    folder = text_checkpoint("lcm")
    edit_json(folder / "unet/config.json", time_cond_proj_dim=None)
    with pytest.raises(ModelError, match="no time_cond_proj_dim"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, torch.bfloat16) for name in ("z_image", "flux", "klein", "sana", "aura_flow")),
        ("sana", torch.float16),
    ],
)
def test_weights_in_two_bytes_are_those_values_in_float32(
    name: str, kind: torch.dtype, text_checkpoint: Checkpoints
) -> None:
    folder = text_checkpoint(name)
    for path in folder.rglob("*.safetensors"):
        own = load_file(path)
        halved = {key: tensor.to(kind) for key, tensor in own.items() if tensor.is_floating_point()}
        save_file(own | halved, path, metadata={"format": "pt"})
    network = load(folder).network
    stored = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {kind}
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[key].float())
