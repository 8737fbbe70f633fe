"""`LDMTextToImagePipeline`: what inspection accepts and refuses, and what loading gives."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LDMTextToImagePipeline, UNet2DModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from invmm_gate.core.errors import ModelError
from invmm_gate.models.load.load import Source
from invmm_gate.models.networks import on_meta
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from invmm_gate.models.read.text_configs import LDMBertConfig as StrictLDMBertConfig
from tests.models.conftest import edit_json, tiny_vq
from tests.models.test_refusals import Payload, refusal
from tests.models.test_text_layout import without_key
from tests.models.test_text_load import TEXTS, estimate, load

MORE_TEXTS = [*TEXTS, "[SEP] red [PAD]", "I do not, 红 cat\t猫", "x" * 100, "x" * 101, "ça n't cat's"]


@pytest.fixture
def ldm(text_checkpoint: Callable[[str], Path]) -> Path:
    return text_checkpoint("ldm")


def tokenizer_of(folder: Path) -> Any:
    files, layout = layout_of(inspect_checkpoint(folder))
    return Source(files, frozenset(), torch.device("cpu"), layout).tokenizers["tokenizer"]


def split(folder: Path, *, keep_json: bool = False) -> Path:
    """The files that transformers 4 wrote, as the published checkpoint has them."""
    path = folder / "tokenizer/tokenizer.json"
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    (folder / "tokenizer/vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "UNK", "PAD", "MASK")}
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps(special))
    config = {
        **special, "do_basic_tokenize": True, "do_lower_case": True, "model_max_length": 77, "never_split": None,
        "name_or_path": "bert-base-uncased", "special_tokens_map_file": None, "strip_accents": None,
        "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer",
    }  # fmt: skip
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    if not keep_json:
        path.unlink()
    return folder / "tokenizer/vocab.txt"


def test_it_is_accepted_with_every_file_in_the_manifest(ldm: Path) -> None:
    manifest = inspect_checkpoint(ldm)
    assert (manifest.pipeline, manifest.prediction_type) == ("LDMTextToImagePipeline", "epsilon")
    assert {file.path for file in manifest.files} == {
        str(path.relative_to(ldm)) for path in ldm.rglob("*") if path.is_file()
    }


def test_inspection_needs_no_torch(ldm: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from invmm_gate.models.read.inspect import inspect_checkpoint;"
        "inspect_checkpoint(Path(sys.argv[1]));"
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, ldm]).returncode == 0


def test_each_component_and_each_file_of_it_is_needed(ldm: Path) -> None:
    index = json.loads((ldm / "model_index.json").read_text())
    for part in ("bert", "tokenizer", "unet", "vqvae", "scheduler"):
        edit_json(ldm / "model_index.json", **{part: [None, None]})
        assert part in refusal(ldm)
        edit_json(ldm / "model_index.json", **index)
    for path in sorted(path for path in ldm.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.unlink()
        refusal(ldm)
        path.write_bytes(data)
    inspect_checkpoint(ldm)


def test_the_ids_are_those_of_the_deployed_tokenizer(ldm: Path) -> None:
    ours, theirs = tokenizer_of(ldm), BertTokenizer.from_pretrained(ldm / "tokenizer")
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    assert ours(MORE_TEXTS, **options).input_ids == theirs(MORE_TEXTS, **options).input_ids
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.get_vocab() == theirs.get_vocab()


@pytest.mark.parametrize("keep_json", [True, False])
def test_a_tokenizer_as_the_published_checkpoint_has_it_gives_the_same_ids(ldm: Path, keep_json: bool) -> None:
    before = tokenizer_of(ldm)(MORE_TEXTS).input_ids
    split(ldm, keep_json=keep_json)
    assert tokenizer_of(ldm)(MORE_TEXTS).input_ids == before
    assert BertTokenizer.from_pretrained(ldm / "tokenizer")(MORE_TEXTS).input_ids == before


def test_decoding_tidies_no_spaces_away(ldm: Path) -> None:
    """`BertTokenizer` of transformers 5 does, whatever it is told."""
    tokenizer = tokenizer_of(ldm)
    ids = tokenizer("i do not !", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "i do not !"
    assert load(ldm).prompts.decode(ids) == "i do not !"


def test_a_vocabulary_file_that_says_two_things_is_refused(ldm: Path) -> None:
    path = split(ldm, keep_json=True)
    text = path.read_text()
    for broken, message in (
        (text.replace("cat\nred\n", "red\ncat\n"), "vocab.txt and tokenizer.json disagree"),
        (text + "cat\n", "twice"),
        (text + "\n", "line 62"),
        (text.replace("cat\n", "cat \n"), "line 6"),
        (text.replace("\n", "\r\n"), "line 1"),
        ("", "line 1|does not map"),
    ):
        path.write_bytes(broken.encode())
        assert any(part in refusal(ldm) for part in message.split("|")), message
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(ldm)
    path.unlink()
    (ldm / "tokenizer/tokenizer.json").unlink()
    assert "tokenizer.json or vocab.txt" in refusal(ldm)


def test_another_vocabulary_is_one_clear_line(ldm: Path) -> None:
    edit_json(ldm / "bert/config.json", vocab_size=62)
    assert "tokenizer knows 61 tokens, bert 62" in refusal(ldm)
    edit_json(ldm / "bert/config.json", vocab_size=61)
    path = split(ldm)
    path.write_text(path.read_text() + "dog\n")
    assert "tokenizer knows 62 tokens, bert 61" in refusal(ldm)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("normalizer", {"lowercase": False}),
        ("normalizer", {"strip_accents": False}),
        ("normalizer", {"handle_chinese_chars": False}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("post_processor", {"single": []}),
        ("post_processor", {"type": "ByteLevel"}),
        ("post_processor", {"special_tokens": {}}),
        ("model", {"type": "BPE"}),
        ("model", {"unk_token": "[PAD]"}),
        ("model", {"continuing_subword_prefix": "@@"}),
        ("model", {"max_input_chars_per_word": 4}),
        ("model", {"vocab": []}),
        ("model", {"surprise": 1}),
    ],
)
def test_a_tokenizer_that_reads_texts_in_another_way_is_refused(ldm: Path, part: str, change: dict[str, Any]) -> None:
    path = ldm / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, part: {**content[part], **change}}))
    assert "tokenizer.json" in refusal(ldm)
    path.write_text(json.dumps({**content, part: None}))
    assert "tokenizer.json" in refusal(ldm)


def test_added_tokens_are_the_special_ones_and_found_as_the_configuration_says(ldm: Path) -> None:
    path = ldm / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    first, *rest = content["added_tokens"]
    path.write_text(json.dumps({**content, "added_tokens": [{**first, "lstrip": True}, *rest]}))
    assert "an added token" in refusal(ldm)
    path.write_text(json.dumps({**content, "added_tokens": [*rest, {**first, "content": "cat", "id": 5}]}))
    assert "textual inversion" in refusal(ldm)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("bert/config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("bert/config.json", {"model_type": "bert"}),
        ("bert/config.json", {"surprise": 1}),
        ("bert/config.json", {"hidden_size": 8}),
        ("bert/config.json", {"num_attention_heads": 4}),
        ("bert/config.json", {"num_hidden_layers": 3}),
        ("bert/config.json", {"encoder_layers": 10**6}),
        ("bert/config.json", {"d_model": 32}),
        ("bert/config.json", {"encoder_ffn_dim": 60_000}),
        ("bert/config.json", {"activation_function": "os.system"}),
        ("bert/config.json", {"scale_embedding": True}),
        ("bert/config.json", {"max_position_embeddings": 76}),
        ("bert/config.json", {"pruned_heads": {"0": [1]}}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.py", None]}}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}),
        ("tokenizer/tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer/tokenizer_config.json", {"strip_accents": True}),
        ("tokenizer/tokenizer_config.json", {"tokenize_chinese_chars": False}),
        ("tokenizer/tokenizer_config.json", {"do_basic_tokenize": False}),
        ("tokenizer/tokenizer_config.json", {"never_split": ["cat"]}),
        ("tokenizer/tokenizer_config.json", {"additional_special_tokens": ["cat"]}),
        ("tokenizer/tokenizer_config.json", {"extra_special_tokens": ["cat"]}),
        ("tokenizer/tokenizer_config.json", {"extra_special_tokens": {"a": "cat"}}),
        ("tokenizer/tokenizer_config.json", {"eos_token": "[SEP]"}),
        ("tokenizer/tokenizer_config.json", {"cls_token": "[SEP]"}),
        ("tokenizer/tokenizer_config.json", {"sep_token": "<nowhere>"}),
        ("tokenizer/tokenizer_config.json", {"surprise": 1}),
        ("unet/config.json", {"cross_attention_dim": 32}),
        ("unet/config.json", {"time_cond_proj_dim": 8}),
        ("unet/config.json", {"addition_embed_type": "text_time"}),
        ("unet/config.json", {"_class_name": "UNet2DModel"}),
        ("vqvae/config.json", {"_class_name": "VQModel"}),
        ("vqvae/config.json", {"latent_channels": 3}),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        ("model_index.json", {"bert": ["transformers", "BertModel"]}),
        ("model_index.json", {"bert": ["transformers", "LDMBertModel"]}),
        ("model_index.json", {"bert": ["diffusers", "LDMBertModel"]}),
        ("model_index.json", {"bert": ["evil", "LDMBertModel"]}),
        ("model_index.json", {"tokenizer": ["latent_diffusion", "BertTokenizer"]}),
        ("model_index.json", {"tokenizer": ["transformers", "CLIPTokenizer"]}),
        ("model_index.json", {"unet": ["diffusers", ["UNet2DModel"]]}),
        ("model_index.json", {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}),
        ("model_index.json", {"_class_name": "LDMPipeline"}),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}),
    ],
)  # fmt: skip
def test_a_configuration_that_lies_is_refused(ldm: Path, file: str, changes: dict[str, Any]) -> None:
    edit_json(ldm / file, **changes)
    refusal(ldm)


def test_special_tokens_of_the_older_map_are_checked_too(ldm: Path) -> None:
    split(ldm)
    path = ldm / "tokenizer/special_tokens_map.json"
    for change in ({"additional_special_tokens": ["cat"]}, {"bos_token": "[CLS]"}, {"mask_token": "<nowhere>"}):
        kept = path.read_text()
        edit_json(path, **change)
        assert "tokenizer" in refusal(ldm)
        path.write_text(kept)
    inspect_checkpoint(ldm)


def test_the_older_map_hides_nothing_that_the_configuration_adds(ldm: Path) -> None:
    split(ldm)
    edit_json(ldm / "tokenizer/tokenizer_config.json", additional_special_tokens=["cat"])
    edit_json(ldm / "tokenizer/special_tokens_map.json", additional_special_tokens=[])
    assert "adds the token 'cat'" in refusal(ldm)


def test_a_vq_autoencoder_is_refused_and_the_line_says_why(ldm: Path) -> None:
    pipeline = LDMTextToImagePipeline.from_pretrained(ldm)
    pipeline.register_modules(vqvae=tiny_vq(latent_channels=4))
    shutil.rmtree(ldm)
    pipeline.save_pretrained(ldm)
    message = refusal(ldm)
    assert "'VQModel'" in message
    assert "AutoencoderKL" in message
    assert "VQ autoencoder beside prompts is not supported" in message


def test_a_network_without_prompts_is_refused_and_the_line_says_why(ldm: Path) -> None:
    shutil.rmtree(ldm / "unet")
    UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    ).save_pretrained(ldm / "unet")
    edit_json(ldm / "model_index.json", unet=["diffusers", "UNet2DModel"])
    message = refusal(ldm)
    assert "UNet2DConditionModel" in message
    assert "takes no prompt" in message


def test_every_key_that_transformers_writes_is_known(ldm: Path) -> None:
    written = json.loads(LDMBertConfig().to_json_string(use_diff=False))
    written = {key: value for key, value in written.items() if not key.startswith("_")}
    own = json.loads((ldm / "bert/config.json").read_text())
    (ldm / "bert/config.json").write_text(json.dumps({**written, **own}))
    inspect_checkpoint(ldm)
    without_key(ldm / "bert/config.json", "num_hidden_layers")
    assert load(ldm).prompts.vocabulary == 61


def test_the_configuration_describes_no_more_weights_than_there_are(ldm: Path) -> None:
    component = layout_of(inspect_checkpoint(ldm))[1].components["bert"]
    fewest = component.config.fewest_weights  # type: ignore[union-attr]
    count = sum(tensor.numel() for tensor in on_meta(component).state_dict().values())
    assert 0.5 * count < fewest < count
    assert StrictLDMBertConfig().fewest_weights < 600_000_000


@pytest.mark.parametrize("part", ["bert/model", "vqvae/diffusion_pytorch_model", "unet/diffusion_pytorch_model"])
def test_a_single_missing_tensor_is_refused(ldm: Path, part: str) -> None:
    path = ldm / f"{part}.safetensors"
    tensors = load_file(path)
    missing = max(tensors)
    save_file({key: tensor for key, tensor in tensors.items() if key != missing}, path)
    with pytest.raises(ModelError, match=f"1 tensors missing: {missing}"):
        load(ldm)


def test_any_tensor_of_the_encoder_too_many_or_without_a_number_is_refused(ldm: Path) -> None:
    path = ldm / "bert/model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.extra": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="unexpected"):
        load(ldm)
    save_file({**tensors, "to_logits.bias": torch.full_like(tensors["to_logits.bias"], torch.nan)}, path)
    with pytest.raises(ModelError, match="NaN"):
        load(ldm)


def test_a_pickled_encoder_is_loaded_only_if_allowed_and_never_run(ldm: Path, tmp_path: Path) -> None:
    """The published checkpoint has `pytorch_model.bin`."""
    before, path = estimate(load(ldm)), ldm / "bert/model.safetensors"
    pickled = ldm / "bert/pytorch_model.bin"
    torch.save(load_file(path), pickled)
    path.unlink()
    assert "--allow-pickle" in refusal(ldm)
    assert torch.equal(estimate(load(ldm, allow_pickle=True)), before)
    torch.save([Payload(tmp_path / "marker"), torch.zeros(50_000)], pickled)
    with pytest.raises(ModelError, match="cannot be decoded"):
        load(ldm, allow_pickle=True)
    assert not (tmp_path / "marker").exists()


def test_a_diffusers_without_the_encoder_is_one_clear_line(ldm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion", None)
    with pytest.raises(ModelError, match="diffusers has no LDMBertModel"):
        load(ldm)


def test_a_lora_has_no_loader_for_this_pipeline(ldm: Path, tmp_path: Path) -> None:
    save_file({"unet.a.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="a LoRA on top of a LDMTextToImagePipeline"):
        inspect_checkpoint(ldm, loras=[tmp_path / "lora.safetensors"])
