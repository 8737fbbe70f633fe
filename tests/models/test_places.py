"""Nothing in a gated folder that was not scored: exact names at each place, and nothing else inside them."""

import io
import json
import os
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from diffusers.models.model_loading_utils import load_state_dict
from PIL import Image

from invmm_gate.core.errors import BAD_INPUT, ModelError
from invmm_gate.models.read.allowed_files import PICTURES, SYSTEM_FILES, is_sentencepiece, magic, picture_fault
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models.conftest import edit_json, tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIECE = b"\x0a\x0c\x0a\x05<unk>\x15\0\0\0\0"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}


def picture(suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", (64, 48), bytes(range(256)) * 36)
    noise.save(buffer, format=FORMATS[suffix], **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def lora(*, zipped: bool = False) -> bytes:
    """LoRA weights as a pickle, as load_lora_weights takes them under any name."""
    buffer = io.BytesIO()
    weights = {"unet.conv_in.lora_A.weight": torch.ones(4, 8)}
    torch.save(weights, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content(name: str) -> bytes:
    """What a file of this name may hold, so that its name alone is at fault."""
    suffix = Path(name).suffix
    known = {".json": b"{}", ".model": PIECE} | {suffix: picture(suffix) for suffix in FORMATS}
    return known.get(suffix, b"words\n")


def refusal(folder: Path, **options: bool) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


ODD = (
    "unet/notes.json", "unet/pytorch_lora_weights.json", "unet/README.md", "unet/sample.png", "unet/LICENSE",
    "unet/scheduler_config.json", "unet/tokenizer.json", "unet/model.safetensors.index.json", "unet/inner/config.json",
    "vae/samples/a.png", "scheduler/config.json", "scheduler/notes.txt", "tokenizer/added.bin", "tokenizer/vocab.txt",
    "tokenizer/learned_embeds.json", "tokenizer/config.json", "tokenizer/spiece.model", "tokenizer/a/vocab.json",
    "text_encoder/generation_config.json", "feature_extractor/config.json", "textual_inversion.json", "weights.txt",
    "config.json", "metrics.json", "scheduler_config.json", "optimizer.txt", "trainer_state.json", "args.yaml",
    "logs/run/events.out.tfevents.1", "logs/metrics.jsonl", "checkpoint-500/README.md", "checkpoint-500/optimizer.json",
    "inner/model_index.json", "controlnet/config.json", "vqvae/config.json", "sample.gif", "handbook.pdf",
    "unet/.gitattributes", "samples/prompts.txt", "readme.json", "LICENSE.safetensors", "license_weights.bin",
    ".git", ".cache/huggingface/lora.txt", ".cache/other.metadata", ".cache/huggingface/download/a.txt",
    "scheduler/.ipynb_checkpoints/scheduler_config-checkpoint.json", "README (1).md", "vae_encoder/config.json",
)  # fmt: skip


def test_a_file_without_a_place_is_refused_wherever_it_lies(sd: Path) -> None:
    for name in ODD:
        path = write(sd / name, content(name))
        for allow_pickle in (False, True):
            assert f"1 file would not be scored: {name!r}" in refusal(sd, allow_pickle=allow_pickle)
        path.unlink()
        inspect_checkpoint(sd)


def test_all_files_without_a_place_are_named_at_once(ddpm: Path) -> None:
    wrong = {
        "unet/model.onnx": "weights", "unet/openvino_model.xml": "no part of a checkpoint", "app.py": "code",
        "sd_xl_base_1.0.safetensors": "weights", f"unet/{WEIGHTS.replace('.', '.fp16.')}": "a variant of weights",
        "pytorch_lora_weights.safetensors": "an adapter", "inner/model_index.json": "the index of another pipeline",
    }  # fmt: skip
    for name in wrong:
        write(ddpm / name, b"x")
    said = refusal(ddpm)
    assert said.startswith("7 files would not be scored: ")
    for name, kind in wrong.items():
        assert f"{name!r} ({kind})" in said
    assert "remove what is named" in said
    for number in range(20):
        write(ddpm / f"notes-{number:02}.txt", b"x")
    assert "'inner/model_index.json'" in refusal(ddpm)
    assert " and 17 more;" in refusal(ddpm)


def test_what_belongs_to_another_pipeline_is_named_at_once_too(sd: Path, ddpm: Path) -> None:
    """Such files have a place in some checkpoint, and none in this one."""
    for part in ("vae", "tokenizer", "safety_checker"):
        if (sd / part).exists():
            shutil.copytree(sd / part, ddpm / part)
    said = refusal(ddpm)
    assert f"'vae/{WEIGHTS}' (weights)" in said
    assert "'tokenizer/tokenizer_config.json'" in said


def test_a_network_that_model_index_leaves_out_is_refused(sd: Path) -> None:
    edit_json(sd / "model_index.json", image_encoder=[None, None])
    write(sd / "image_encoder/config.json", b"{}")
    assert "'image_encoder/config.json'" in refusal(sd)


def test_tokenizers_and_processors_may_stay_under_their_exact_names(text_checkpoint: Callable[[str], Path]) -> None:
    folder = text_checkpoint("sd3_t5")
    edit_json(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    shutil.rmtree(folder / "text_encoder_3")
    write(folder / "feature_extractor/preprocessor_config.json", b"{}")
    inspect_checkpoint(folder)
    write(folder / "tokenizer_3/vocab.json", b"{}")
    assert "'tokenizer_3/vocab.json'" in refusal(folder)


CARD = (
    "README.md", "LICENSE", "LICENSE.md", "license.txt", "LICENSE-CODE", "licence.md", "NOTICE", "COPYING",
    "MODEL_CARD.md", "USE_POLICY.md", "CITATION.cff", ".gitattributes", ".gitignore", "01.png", "comparison.jpg",
    "samples/0009.png", "icon examples/potion.jpeg", "assets/deep/er/a.webp", "SAMPLE.PNG",
    ".cache/huggingface/.gitignore", ".cache/huggingface/CACHEDIR.TAG",
    ".cache/huggingface/download/unet/config.json.metadata", ".cache/huggingface/download/model_index.json.lock",
)  # fmt: skip


def test_a_model_card_and_what_downloaders_and_systems_leave_are_accepted_and_hashed(sd: Path) -> None:
    before = {file.path for file in inspect_checkpoint(sd).files}
    for name in CARD:
        if name not in ("license.txt", "LICENSE.md"):  # one of each name is enough where case makes no difference
            write(sd / name, content(name.lower()))
    for folder in ("", "unet/", "tokenizer/", "samples/"):
        write(sd / folder / ".DS_Store", b"\0\0\0\x01Bud1 and more \0")
        write(sd / folder / "Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0")
        write(sd / folder / "desktop.ini", "\ufeff[.ShellClassInfo]".encode("utf-16-le"))
    found = {file.path for file in inspect_checkpoint(sd).files} - before
    assert len(found) == len(CARD) - 2 + 12
    for name in ("LICENSE.md", "license.txt"):
        write(sd / name, b"words")
    inspect_checkpoint(sd)


def test_every_file_that_diffusers_saves_has_its_place(
    checkpoint: Callable[[str], Path], text_checkpoint: Callable[[str], Path]
) -> None:
    for name in ("ddpm", "vq", "kl", "bare"):
        inspect_checkpoint(checkpoint(name))
    for name in ("sd2", "sdxl", "sd3_t5", "ldm"):
        inspect_checkpoint(text_checkpoint(name))


def test_shards_and_their_index_have_their_place(ddpm: Path) -> None:
    (ddpm / "unet" / WEIGHTS).unlink()
    tiny_unet().save_pretrained(ddpm / "unet", max_shard_size="20KB")
    inspect_checkpoint(ddpm)
    shard = next((ddpm / "unet").glob("*-00001-of-*"))
    shutil.copy(shard, ddpm / "unet/diffusion_pytorch_model-00009-of-00009.safetensors")
    assert "'unet/diffusion_pytorch_model-00009-of-00009.safetensors' (weights)" in refusal(ddpm)


def test_beside_a_single_file_the_same_names_count(sd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "single/model"
    shutil.copytree(sd, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(sd / "unet" / WEIGHTS, tmp_path / "single/model.safetensors")
    write(tmp_path / "single/unrelated.bin", b"x")
    for name in ("README.md", "sample.png"):
        write(folder / name, content(name))
    inspect_checkpoint(tmp_path / "single/model.safetensors")
    for name in ("unet/notes.json", "textual_inversion.json", f"unet/{WEIGHTS}", "inner/model_index.json"):
        write(folder / name, b"{}" if name.endswith("json") else (sd / name).read_bytes())
        assert f"'model/{name}'" in refusal(tmp_path / "single/model.safetensors")
        (folder / name).unlink()


def test_a_single_pickle_is_let_in_by_its_option_alone(tmp_path: Path) -> None:
    write(tmp_path / "model.ckpt", lora())
    assert "'model.ckpt' (a network's weights as a pickle)" in refusal(tmp_path / "model.ckpt")
    assert "pickle by its name (.pt)" in refusal(write(tmp_path / "model.pt", lora()))


# What a file that is accepted by its name may hold


HIDDEN = b"(" * 512 + lora()
"""A pickle that begins as a text: marks, then weights in PyTorch's old format."""


def test_weights_behind_the_first_bytes_of_a_text_are_found(ddpm: Path) -> None:
    path = write(ddpm / "README.md", HIDDEN)
    assert load_state_dict(os.fspath(path)).keys() == {"unet.conv_in.lora_A.weight"}, "so loads load_lora_weights"
    assert "'README.md' is not UTF-8" in refusal(ddpm)


def test_weights_in_a_gif_are_found(ddpm: Path) -> None:
    path = write(ddpm / "sample.gif", b"GIF89a\0\0\0" + lora())
    assert load_state_dict(os.fspath(path)).keys() == {"unet.conv_in.lora_A.weight"}
    assert "'sample.gif'" in refusal(ddpm)


STARTS = (*(start for start, _ in PICTURES.values()), *chain(*SYSTEM_FILES.values()), PIECE[:1])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("start", STARTS)
def test_no_library_reads_weights_from_what_begins_so(tmp_path: Path, start: bytes, zipped: bool) -> None:
    """So these few binary files may lie in a checkpoint, and nothing can be read from them as weights."""
    path = write(tmp_path / "weights.x", start + lora(zipped=zipped))
    with pytest.raises((OSError, ValueError)):
        load_state_dict(os.fspath(path))


@pytest.mark.parametrize(
    "data",
    [b"words" * 200 + b"\0", b"words" * 200 + b"\x80\x02", "Größe".encode("latin-1"), b"words \x1b[31m", lora(),
     lora(zipped=True), "words".encode("utf-16")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["README.md", "LICENSE", ".gitattributes", ".cache/huggingface/CACHEDIR.TAG"])
def test_a_text_is_text_from_its_first_to_its_last_byte(ddpm: Path, name: str, data: bytes) -> None:
    write(ddpm / name, "Größe\tin\r\n\f日本語".encode())
    inspect_checkpoint(ddpm)
    write(ddpm / name, data)
    assert f"{name!r} " in refusal(ddpm)


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_whole_and_nothing_comes_after_it(ddpm: Path, suffix: str) -> None:
    path = ddpm / f"sample{suffix}"
    options = [{}, {"progressive": True, "quality": 95}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}]
    for data in (picture(suffix, **option) for option in options):
        assert picture_fault(data, suffix) is None
        write(path, data)
        inspect_checkpoint(ddpm)
        for tail in (b"x", lora(), lora(zipped=True), data, data[-12:]):
            write(path, data + tail)
            assert f"{path.name!r} holds {len(tail)} bytes after the image's end" in refusal(ddpm)
    for cut in (20, len(data) // 2, len(data) - 1):
        write(path, data[:cut])
        assert f"{path.name!r} is an image that breaks off" in refusal(ddpm)
    for other in (lora(), lora(zipped=True), b"", b"words", picture(".gif")):
        write(path, other)
        assert f"{path.name!r} " in refusal(ddpm)


def test_a_systems_file_is_what_its_name_says(ddpm: Path) -> None:
    shutil.copy(ddpm / "unet" / WEIGHTS, ddpm / "unet/.DS_Store")
    assert "'unet/.DS_Store' is not what its name says" in refusal(ddpm)
    write(ddpm / "unet/.DS_Store", HIDDEN)
    assert "'unet/.DS_Store' is not what its name says" in refusal(ddpm)


def test_a_sentencepiece_model_is_one_from_its_first_to_its_last_byte() -> None:
    long = b"\x12\x80\x01" + b"t" * 128
    assert is_sentencepiece(PIECE * 3 + long)
    assert not any(map(is_sentencepiece, (b"", long, PIECE + b"x", PIECE + lora(), PIECE[:-1], PIECE + b"\x12\xff")))
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    assert not is_sentencepiece(len(header).to_bytes(8, "little") + header + b"\0")


def test_an_old_tar_archive_is_known_by_its_checksum() -> None:
    head = bytearray(512)
    head[:9] = b"RIFF.safe"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    assert magic(bytes(head)) == "a tar archive, as old torch.save wrote it"
    head[0] += 1
    assert magic(bytes(head)) is None


def test_a_huge_text_is_refused_without_being_read(ddpm: Path) -> None:
    with (ddpm / "README.md").open("wb") as file:
        file.truncate(50_000_001)
    assert "'README.md' is larger than 50,000,000 bytes" in refusal(ddpm)
