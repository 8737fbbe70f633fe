"""What the gate says of real checkpoint folders, from their configurations and a listing of their files.

    python benchmarks/checkpoint_folders.py CONFIGS [--write]

CONFIGS holds one folder for each repository, with its configuration files and LISTING.tsv: after a first line, for
each file its path, git mode, bytes in git and bytes behind an LFS pointer. Each is built three times, with weights as
sparse files of the stated size: as it lies in the repository; without what `model export` leaves behind; and as
diffusers would save it again. Hashes of weights are replaced by those of name and size. Vocabularies are stand-ins.
`--write` puts the table into docs/studies/checkpoint-folders.md.
"""

import argparse
import hashlib
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from unittest import mock

from tokenizers import Tokenizer, models

sys.path.append(str(Path(__file__).parents[1]))

from invmm_gate.core.errors import GateError
from invmm_gate.core.records import ModelFile
from invmm_gate.models.read import hashed_files
from invmm_gate.models.read.allowed_files import SPIECES
from invmm_gate.models.read.checkpoint_files import hash_file, open_file
from invmm_gate.models.read.inspect import inspect_checkpoint, sort_files
from invmm_gate.models.read.weight_file_names import DIFFUSERS_STEM, TRANSFORMERS_STEM

PAGE: Final = Path(__file__).parents[1] / "docs/studies/checkpoint-folders.md"
WEIGHTS: Final = (".safetensors", ".bin", ".ckpt")
LARGE: Final = 30_000_000_000
"""Bytes of weights whose size no listing states."""
STUBS: Final = {
    ".png": b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xaeB`\x82",
    ".jpg": b"\xff\xd8\xff\xd9",
    ".jpeg": b"\xff\xd8\xff\xd9",
}
VISION: Final = ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight")
TRANSFORMERS: Final = ("text_encoder", "safety_checker", "image_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = list(table(options.configs))
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text()
        begin, end = "<!-- folders -->\n", "<!-- end -->"
        head, tail = page.split(begin)[0], page.split(end, 1)[1]
        PAGE.write_text(head + begin + "\n".join(lines) + "\n" + end + tail)


def table(configs: Path) -> Iterator[str]:
    """A row for each folder: what it is, and what the gate says in each of the three forms."""
    yield "| folder | pipeline | as it lies | after `model export` | saved again |"
    yield "|---|---|---|---|---|"
    for root in sorted({path.parent for path in configs.rglob("model_index.json") if _is_root(path)}):
        name = str(root.relative_to(configs)).replace("__", "/", 1)
        said = [_said(root, build) for build in (_as_listed, _exported, _resaved)]
        kind = json.loads((root / "model_index.json").read_bytes()).get("_class_name", "?")
        yield f"| {name} | {kind} | {' | '.join(said)} |"


def _is_root(index: Path) -> bool:
    return not any((parent / "model_index.json").exists() for parent in list(index.parents)[1:3])


def _said(root: Path, build: Callable[[Path, Path], bool]) -> str:
    """The answer in a few words."""
    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(hashed_files, "hash_file", _quick_hash):
        folder = Path(scratch) / "model"
        folder.mkdir()
        try:
            if not build(root, folder):
                return "no listing"
            manifest = inspect_checkpoint(folder)
        except GateError as error:
            faults = error.faults or (error,)
            return f"refused, {len(faults)}: " + "; ".join(_short(fault.found) for fault in faults)
        return "read" + "".join(f" ({note.split(':')[0]})" for note in manifest.notes)


def _short(found: str) -> str:
    """The beginning of a fault; what belongs to a file's name stays whole."""
    words = found.replace("|", "/").replace("\n", " ")
    return words if len(words) <= 90 else words[:90].rsplit(" ", 1)[0] + " ..."


def _quick_hash(root: Path, path: str) -> tuple[ModelFile, bytes]:
    if not path.endswith(WEIGHTS):
        return hash_file(root, path)
    size = (root / path).stat().st_size
    with open_file(root, path) as stream:
        head = stream.read(512)
    return ModelFile(path=path, size=size, sha256=hashlib.sha256(f"{path}\0{size}".encode()).hexdigest()), head


def _as_listed(root: Path, folder: Path) -> bool:
    """Every file of the listing under its own name."""
    listing = root / "LISTING.tsv"
    if not listing.exists():
        return False
    for line in listing.read_text().splitlines()[1:]:
        path, _, size, behind = [*line.split("\t"), ""][:4]
        _put(root, folder, path, int(behind or size))
    return True


def _exported(root: Path, folder: Path) -> bool:
    if not _as_listed(root, folder):
        return False
    for path in sort_files(folder).others:
        shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()
    return True


def _resaved(root: Path, folder: Path) -> bool:
    """The configurations that model_index.json names, with one plain file of weights for each network."""
    index = json.loads((root / "model_index.json").read_bytes())
    parts = [key for key, value in index.items() if isinstance(value, list) and value != [None, None]]
    for path in [
        "model_index.json",
        *(str(each.relative_to(root)) for part in parts for each in (root / part).glob("*.json")),
    ]:
        if not path.endswith(".index.json"):
            _put(root, folder, path, 0)
    for path in () if any((root / part).is_dir() for part in parts) else root.glob("*config.json"):
        _put(root, folder, path.name, 0)  # a pipeline with all its files in the root
    for config in list(folder.rglob("config.json")):
        stem = TRANSFORMERS_STEM if config.parent.name.startswith(TRANSFORMERS) else DIFFUSERS_STEM
        _weights(config.parent / f"{stem}.safetensors", LARGE)
    for part in (folder / part for part in parts if part.startswith("tokenizer")):
        if part.is_dir():
            _vocabulary(part, root)
    return True


def _put(root: Path, folder: Path, path: str, size: int) -> None:
    """The file itself where the corpus has it, else one of its kind and size."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if (root / path).is_file():
        shutil.copy(root / path, target)
    elif path.endswith(".safetensors"):
        _weights(target, size)
    elif path.endswith((".bin", ".ckpt")):
        with target.open("wb") as file:
            file.write(b"PK\x03\x04")
            file.truncate(max(size, 4))
    elif target.name in ("vocab.json", "merges.txt") or (
        target.name == "tokenizer.json" and _is_t5(root, target.parent)
    ):
        _vocabulary(target.parent, root)
    elif target.name in SPIECES:
        target.write_bytes(b"\x0a\x03\x0a\x01a")  # a model of one piece
    else:
        target.write_bytes(STUBS.get(target.suffix.lower(), b"{}" if target.suffix == ".json" else b"text\n"))


def _weights(target: Path, size: int) -> None:
    """Tensors of as many bytes: what is read of weights before they are loaded is their header."""
    names = ["w"]
    if target.parent.name in ("safety_checker", "image_encoder"):  # of these the names are looked at
        names = [f"vision_model.{name}" for name in VISION]
    each = max(size - 400, 1) // len(names) // 2 * 2 + 2
    tensors = {
        name: {"dtype": "F16", "shape": [each // 2], "data_offsets": [each * place, each * (place + 1)]}
        for place, name in enumerate(names)
    }
    header = json.dumps(tensors).encode()
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + each * len(names))


def _is_t5(root: Path, tokenizer: Path) -> bool:
    stated = json.loads((root / tokenizer.name / "tokenizer_config.json").read_bytes()).get("tokenizer_class", "")
    return bool(stated.startswith("T5"))


def _vocabulary(folder: Path, root: Path) -> None:
    """CLIP's 256 bytes, with and without the end of a word, filled up to the size that the text encoder states."""
    config = root / folder.name.replace("tokenizer", "text_encoder") / "config.json"
    count = json.loads(config.read_bytes()).get("vocab_size", 49408) if config.exists() else 49408
    if _is_t5(root, folder):
        pieces = ["<pad>", "</s>", "<unk>", *(f"p{number}" for number in range(31997))]
        tokenizer = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=2, byte_fallback=False))
        tokenizer.add_special_tokens([*pieces[:3], *(f"<extra_id_{number}>" for number in range(99, -1, -1))])
        tokenizer.save(str(folder / "tokenizer.json"))
        return
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in codes] + [chr(256 + extra) for extra in range(256 - len(codes))]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [f"filler{number}</w>" for number in range(count - len(words) - 2)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


if __name__ == "__main__":
    main()
