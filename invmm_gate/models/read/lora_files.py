"""LoRA weights that are released on top of a checkpoint: part of its manifest and of its digest.

Their names in the manifest begin with `lora://`, which no file below a checkpoint's folder can.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import CheckpointFiles, refuse_unsafe_name
from invmm_gate.models.read.layout import Layout
from invmm_gate.models.read.weight_files import header_of

PREFIX: Final = "lora://"
PIPELINES_WITH_LORA: Final = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")
"""Those for which diffusers has a LoRA loader."""


def lora_places(loras: Sequence[Path]) -> dict[str, Path]:
    """Name in the manifest -> file. Raises ModelError for anything but a .safetensors file."""
    places: dict[str, Path] = {}
    for number, path in enumerate(loras, start=1):
        refuse_unsafe_name(str(path))
        if path.suffix != ".safetensors" or path.is_dir():
            raise ModelError(
                f"LoRA {str(path)!a} is no .safetensors file",
                expected="the file that save_lora_weights wrote, as pytorch_lora_weights.safetensors",
                do="give the file itself; pickles are never read",
            )
        places[f"{PREFIX}{number}/{path.name}"] = path.resolve()
    return places


def check_loras(files: CheckpointFiles, layout: Layout) -> None:
    """Raises ModelError for a LoRA that no loader can put on this pipeline, or that holds no LoRA at all."""
    if files.elsewhere and layout.pipeline not in PIPELINES_WITH_LORA:
        raise ModelError(f"a LoRA on top of a {layout.pipeline}", expected="one of " + ", ".join(PIPELINES_WITH_LORA))
    for name in files.elsewhere:
        keys = header_of(files, name).tensors
        strange = sorted(key for key in keys if not _is_lora(key))
        if strange or not keys:
            raise ModelError(
                f"{name!a} holds {'no tensors' if not keys else f'the tensor {strange[0]!a}, which is no LoRA weight'}",
                expected="LoRA weights only",
                do="export the adapter with save_lora_weights",
            )


def _is_lora(key: str) -> bool:
    """Down, up and alpha of a module; what diffusers drops with a warning (DoRA) is none."""
    return ("lora" in key or key.endswith(".alpha")) and "dora_scale" not in key and "lora_magnitude" not in key
