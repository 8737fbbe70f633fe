"""Copy metrics on embeddings: SSCD from a TorchScript file (arXiv:2202.10261), and cosine over any encoder."""

import os
import warnings
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.git_lfs import FETCH, is_lfs_pointer

Encoder = Callable[[Float[Tensor, "row 3 height width"]], Float[Tensor, "row feature"]]
ENVIRONMENT_VARIABLE: Final = "INVMM_GATE_SSCD"
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)
_SMALLEST_SIDE: Final = 64
"""At 32 pixels the paper's authors corrected SSCD's hits and misses by hand (arXiv:2405.05846v3, appendix 8.3)."""
_BYTES: Final = 4_000_000_000
"""Most bytes of the file."""


@final
class EncoderCosine:
    """Cosine of an encoder's features; high = copy.

    `encoder` takes images in [-1, 1] and owns its transform, which `name` should say.
    """

    higher_is_copy = True

    def __init__(self, encoder: Encoder, *, name: str, threshold: float, smallest_side: int = 0) -> None:
        self._encoder, self.name, self.threshold = encoder, name, threshold
        self._smallest_side = smallest_side

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Features of unit length."""
        with torch.no_grad():
            features: Tensor = self._encoder(images).float()
        return torch.nn.functional.normalize(features, dim=1)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """Cosine of each pair of rows, in [-1, 1]."""
        return (features * reference).sum(dim=1)

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At or above the threshold; NaN is no copy."""
        return values >= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit where the images are smaller than the encoder can tell apart."""
        if min(height, width) >= self._smallest_side:
            return None
        return f"{self.name} is unreliable at {height}x{width}, below {self._smallest_side} pixels; use pixel_rmse"


def sscd_metric(
    *,
    name: str,
    threshold: float,
    size: int,
    path: Path | None = None,
    expected_sha256: str = "",
    device: str | torch.device = "cpu",
) -> tuple[EncoderCosine, str]:
    """SSCD at `size` x `size` pixels as a cosine metric (high = copy), and its file's sha256.

    The file comes from `path` or the environment variable INVMM_GATE_SSCD. Distance <= 1 in the paper is cosine >= 0.5,
    as d^2 = 2 - 2 cos for unit vectors. Raises ConfigError if the file is missing, is not TorchScript, or has another
    sha256.
    """
    content = _read(_located(path))
    digest = sha256(content).hexdigest()
    if expected_sha256 and digest != expected_sha256:
        raise ConfigError(
            f"SSCD file {_located(path)} has sha256 {digest}",
            expected=expected_sha256,
            do="fetch the file again or correct the policy's sha256",
        )
    network = _load(content, device, _located(path))
    _require_features(network, size, device, _located(path))
    metric = EncoderCosine(
        lambda images: network(transformed(images.to(device), size)),
        name=f"{name}@{size}",
        threshold=threshold,
        smallest_side=_SMALLEST_SIDE,
    )
    return metric, digest


def _require_features(network: torch.jit.ScriptModule, size: int, device: str | torch.device, path: Path) -> None:
    """Some files give a tuple, or class scores for an image of one size: told before hours of measuring."""
    try:
        with torch.no_grad():
            found = network(torch.zeros(2, 3, size, size, device=device))
        what = "" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        if not what and (found.ndim != 2 or len(found) != 2 or not found.is_floating_point()):
            what = f"a tensor of shape {tuple(found.shape)} and type {found.dtype}"
        if not what and not bool(found.isfinite().all()):
            what = "NaN or infinity"
    except RuntimeError as error:
        what = f"an error for images of {size}x{size} ({str(error).strip().splitlines()[-1][:100]})"
    if what:
        raise ConfigError(
            f"SSCD file {path} gives {what} for two images",
            expected="one row of features for each image, (image, feature)",
            do="fetch the .torchscript.pt file that SSCD's authors publish, or correct its size in the policy",
        )


def transformed(images: Float[Tensor, "row 3 height width"], size: int) -> Float[Tensor, "row 3 size size"]:
    """Images in [-1, 1] as SSCD wants them: an exact square, antialiased bilinear, ImageNet mean and deviation."""
    unit = (images.clamp(-1, 1) + 1) / 2
    square = torch.nn.functional.interpolate(
        unit, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    mean = torch.tensor(_MEAN, device=images.device)[:, None, None]
    deviation = torch.tensor(_DEVIATION, device=images.device)[:, None, None]
    return (square - mean) / deviation


def _located(path: Path | None) -> Path:
    named = path or os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise ConfigError(
            "the policy's copy metric is SSCD, and no SSCD file is named",
            expected="the TorchScript file of SSCD",
            do=f"give --sscd FILE or set {ENVIRONMENT_VARIABLE}, or take SSCD from a package (docs/policies.md)",
        )
    return Path(named)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not path.is_file() or path.stat().st_size > _BYTES:
                raise ConfigError(
                    f"SSCD file {path} is no file, or larger than {_BYTES / 1e9:.0f} GB",
                    expected="a TorchScript file",
                    do=f"correct --sscd or {ENVIRONMENT_VARIABLE}",
                )
            return file.read(_BYTES)
    except OSError as error:
        raise ConfigError(
            f"SSCD file {path} cannot be read: {error.strerror}",
            expected="a TorchScript file",
            do=f"correct --sscd or {ENVIRONMENT_VARIABLE}",
        ) from error


def _load(content: bytes, device: str | torch.device, path: Path) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            # torch deprecates TorchScript, which is all that SSCD's authors publish.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load`", DeprecationWarning)
            network: torch.jit.ScriptModule = torch.jit.load(BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if is_lfs_pointer(content):
            raise ConfigError(
                f"SSCD file {path} is a Git LFS pointer, not the file itself", expected="a TorchScript file", do=FETCH
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"SSCD file {path} is not TorchScript: {reason}",
            expected="the .torchscript.pt file that SSCD's authors publish",
            do="fetch that file",
        ) from error
    return network.eval()
