"""Copy metrics on the embeddings of an ONNX encoder, through onnxruntime on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from invmm_gate.core.errors import ConfigError, MeasurementError
from invmm_gate.files.git_lfs import FETCH, is_lfs_pointer
from invmm_gate.files.regular import read_small
from invmm_gate.similarity.declared import Declaration, load_declaration, require_weights
from invmm_gate.similarity.sscd import EncoderCosine

Session = Any
"""`onnxruntime.InferenceSession`: the package is an extra."""
Node = Any
"""`onnxruntime.NodeArg`: name, type and shape of an input or output."""
_BYTES: Final = 2_000_000_000
"""Most bytes of the file; a file of ONNX cannot have more."""
_ROWS: Final = 32
"""Images in one call."""
_TOLERANCE: Final = 1e-3
"""Largest difference of a feature, of unit length, that may come from the other rows of a batch."""
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_FEATURES: Final = ("tensor(float)", "tensor(float16)")
_FATAL: Final = 4
"""Severity from which on onnxruntime writes to stderr: what it raises is told in one line."""


def onnx_metric(
    *,
    name: str,
    threshold: float,
    image_size: tuple[int, int],
    weights: Path,
    declaration: Path,
    expected_sha256: str = "",
) -> tuple[EncoderCosine, str]:
    """An ONNX encoder's features as a cosine metric (high = copy), and the sha256 of its declaration.

    The declaration names the sha256 of the weights, so that its own stands for both. `image_size` is (height, width) of
    the images that will be compared. Raises ConfigError for files that cannot be used, or that are not of this name.
    """
    declared, digest = load_declaration(declaration)
    if declared.name != name:
        raise ConfigError(
            f"{declaration} declares the encoder {declared.name}, and the policy's copy metric is {name}",
            expected="the same name: a threshold belongs to one encoder",
            do="correct the file that is named, or calibrate the other with `invmm-gate metric calibrate`",
        )
    if expected_sha256 and digest != expected_sha256:
        raise ConfigError(
            f"{declaration} has sha256 {digest}",
            expected=expected_sha256,
            do="fetch the file again or correct the policy's sha256",
        )
    content = _read(weights)
    require_weights(content, declared, weights=weights, declaration=declaration)
    network = _Network(_session(content, weights, name), declared, side=declared.side(*image_size), file=weights)
    network.require_features(image_size)
    return EncoderCosine(
        network, name=f"{name}@{network.side}", threshold=threshold, smallest_side=declared.smallest_side
    ), digest


@final
class _Network:
    """Images in [-1, 1] -> features of unit length, on the images' device; NaN for a row that has none."""

    def __init__(self, session: Session, declared: Declaration, *, side: int, file: Path) -> None:
        self._session, self._declared, self.side, self._file = session, declared, side, file
        self._input = _input(session, declared, side=side, file=file)
        self._output = _output(session, declared, file=file)
        self._rows = 1 if self._input.shape[0] == 1 else _ROWS

    def __call__(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Raises MeasurementError where onnxruntime cannot go on."""
        try:
            features = self._features(images)
        except Exception as error:  # onnxruntime has a dozen classes of errors without a root of their own
            raise MeasurementError(
                f"{self._file}: onnxruntime cannot go on ({_first_line(error)})",
                do="free memory, and go on with the run",
            ) from error
        return features.to(images.device)

    def require_features(self, image_size: tuple[int, int]) -> None:
        """Raise ConfigError unless two pictures give two rows of finite features that differ, whatever the batch."""
        random = torch.Generator().manual_seed(0)
        pictures = interpolate(torch.rand(2, 3, 4, 4, generator=random) * 2 - 1, size=image_size, mode="bilinear")
        try:
            both = self._features(pictures)
            alone = torch.cat([self._features(pictures[:1]), self._features(pictures[1:])])
        except Exception as error:
            raise self._refused(f"an error for images of {self.side}x{self.side} ({_first_line(error)})") from error
        if both.ndim != 2 or len(both) != 2 or both.shape != alone.shape:
            raise self._refused(f"a tensor of shape {tuple(both.shape)} for two images")
        if not bool(both.isfinite().all() and alone.isfinite().all()):
            raise self._refused("NaN, infinity or nothing but zeros")
        if float((both - alone).abs().max()) > _TOLERANCE:
            raise self._refused("features that change with the other images of the batch")
        if float((both[0] - both[1]).abs().max()) <= _TOLERANCE:
            raise self._refused("the same features for two different images")

    def _features(self, images: Tensor) -> Tensor:
        found = [self._run(rows) for rows in torch.split(images.detach().cpu().float(), self._rows)]
        features = torch.cat(found)
        if features.ndim != 2 or len(features) != len(images):
            return features
        unknown = ~images.cpu().isfinite().flatten(1).all(dim=1) | (features.norm(dim=1) == 0)
        return torch.nn.functional.normalize(features, dim=1).masked_fill(unknown[:, None], torch.nan)

    def _run(self, images: Tensor) -> Tensor:
        (found,) = self._session.run([self._output], {self._input.name: self._pixels(images)})
        return torch.from_numpy(np.asarray(found)).float()

    def _pixels(self, images: Float[Tensor, "row 3 height width"]) -> NDArray[Any]:
        declared, kind = self._declared, _TYPES[self._input.type]
        pixels = resized(images, declared, side=self.side)
        pixels = pixels.flip(1) if declared.channels == "bgr" else pixels
        if kind is np.uint8:
            pixels = (pixels.nan_to_num() * 255).round()
        if declared.mean is not None:
            pixels = pixels - torch.tensor(declared.mean)[:, None, None]
        if declared.std is not None:
            pixels = pixels / torch.tensor(declared.std)[:, None, None]
        pixels = pixels.permute(0, 2, 3, 1) if declared.layout == "nhwc" else pixels
        return np.ascontiguousarray(pixels.numpy().astype(kind))

    def _refused(self, what: str) -> ConfigError:
        return _refusal(self._file, f"gives {what}", "one row of finite features for each image, (image, feature)")


def resized(
    images: Float[Tensor, "row 3 height width"], declared: Declaration, *, side: int
) -> Float[Tensor, "row 3 side side"]:
    """Images in [-1, 1] as squares on [0, 1], resized as declared."""
    unit, size = (images.clamp(-1, 1) + 1) / 2, (side, side)
    if declared.resize == "crop":
        shorter = min(unit.shape[-2:])
        size = (round(unit.shape[-2] * side / shorter), round(unit.shape[-1] * side / shorter))
    whole = interpolate(unit, size=size, mode=declared.interpolation, antialias=True, align_corners=False)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return whole[..., top : top + side, left : left + side].clamp(0, 1)


def _read(path: Path) -> bytes:
    content = read_small(path, what="an ONNX file", limit=_BYTES)
    if is_lfs_pointer(content):
        raise ConfigError(f"{path} is a Git LFS pointer, not the file itself", expected="an ONNX file", do=FETCH)
    if b"location" in content:
        # The key of data in other files, which no version of ONNX spells otherwise. onnxruntime would read it from
        # wherever it says, and no digest would cover it.
        raise _refusal(path, "names a `location`, as weights in another file do", "one file with all of its weights")
    return content


def _session(content: bytes, path: Path, name: str) -> Session:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"the copy metric {name} needs onnxruntime, which is not installed",
            expected="the extra `onnx`",
            do="run `pip install 'invmm-gate[onnx]'`",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # a run's identity has it
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refusal(path, f"cannot be read by onnxruntime ({_first_line(error)})", "an ONNX file") from error


def _input(session: Session, declared: Declaration, *, side: int, file: Path) -> Node:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise _refusal(file, f"has {len(inputs)} inputs ({_listed(inputs)})", "one input, the images")
    (found,) = inputs
    if found.type not in _TYPES:
        raise _refusal(file, f"takes a {found.type}", "an input of float32, float16 or uint8")
    if found.type == "tensor(uint8)" and (declared.mean, declared.std) != (None, None):
        raise _refusal(file, "takes bytes, and its declaration has a mean or a std", "null for both")
    if not _fits(found.shape, declared.layout, side):
        raise _refusal(
            file,
            f"takes images of shape {tuple(found.shape)}",
            f"any number of images or one, three channels in the layout {declared.layout}, and a side of {side} or any",
        )
    return found


def _fits(shape: Sequence[int | str | None], layout: str, side: int) -> bool:
    """Whether an input of this shape takes images; an axis that is no number takes any size."""
    expected, channel = ((1, 3, side, side), 1) if layout == "nchw" else ((1, side, side, 3), 3)
    return (
        len(shape) == len(expected)
        and shape[channel] == 3
        and all(not isinstance(size, int) or size == wanted for size, wanted in zip(shape, expected, strict=True))
    )


def _output(session: Session, declared: Declaration, *, file: Path) -> str:
    outputs = session.get_outputs()
    named = [output for output in outputs if declared.output in (None, output.name)]
    if len(named) != 1:
        asked = "" if declared.output is None else f", and not {declared.output!r}"
        raise _refusal(file, f"has the outputs {_listed(outputs)}{asked}", "`output` to name one of them")
    (found,) = named
    if found.type not in _FEATURES:
        raise _refusal(file, f"gives a {found.type}", "features of float32 or float16")
    return str(found.name)


def _refusal(file: Path, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{file} {found}", expected=expected, do="give another encoder, or correct its declaration")


def _listed(arguments: list[Node]) -> str:
    return ", ".join(str(argument.name) for argument in arguments)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:200]
