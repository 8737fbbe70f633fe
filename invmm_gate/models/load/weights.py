"""Weights into a network: nothing missing, nothing left over, nothing random, nothing that is not a number.

Each file is read into memory once and hashed there, so what is decoded is what was inspected; a memory map would
leave a window between the two. Peak memory is about three times the largest file.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from invmm_gate.core.errors import ModelError
from invmm_gate.models.load.weight_names import complete, current_names
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.components import Component

_FLOATS: Final = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


def fill(network: nn.Module, files: CheckpointFiles, component: Component, *, pickles: Iterable[str]) -> nn.Module:
    """`network`, built on the meta device, with the component's weights: frozen, float32, ready to evaluate.

    `pickles` are the files that --allow-pickle let in. Raises ModelError listing the first ten wrong tensors.
    """
    tensors = current_names(_read(files, component, frozenset(pickles)), network, component)
    _compare(network.state_dict(), tensors, component.name)
    network.load_state_dict(
        {key: tensor.to(torch.float32) for key, tensor in tensors.items()}, strict=True, assign=True
    )
    complete(network)
    refuse_unusable(network, component.name)
    return network.eval().requires_grad_(False)


def refuse_unusable(network: nn.Module, name: str) -> None:
    """Raises ModelError for a parameter or buffer that holds no values, NaN or infinity."""
    unusable = [
        key
        for key, tensor in (*network.named_parameters(), *network.named_buffers())
        if tensor.is_meta or (tensor.is_floating_point() and not bool(tensor.isfinite().all()))
    ]
    _refuse(unusable, name, "without values, or with NaN or infinity in them")


def _read(files: CheckpointFiles, component: Component, pickles: frozenset[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in component.weights:
        part = _unpickled(files, path) if path in pickles else _safetensors(files, path)
        _refuse(tensors.keys() & part.keys(), component.name, "held by two files")
        tensors.update(part)
    return tensors


def _safetensors(files: CheckpointFiles, path: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(files.read(path))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _undecodable(path, error) from error


def _unpickled(files: CheckpointFiles, path: str) -> dict[str, Tensor]:
    """Only where the user passed --allow-pickle, and even then with torch's restricted unpickler."""
    data = files.read(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the file makes it raise
        raise _undecodable(path, error) from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ModelError(f"{path!r} holds more than named tensors", expected="a network's state_dict")
    return content


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> None:
    _refuse(expected.keys() - found.keys(), name, "missing")
    _refuse(found.keys() - expected.keys(), name, "unexpected")
    shapes = [key for key, tensor in expected.items() if tensor.shape != found[key].shape]
    _refuse(shapes, name, "of another shape than config.json says")
    _refuse([key for key in expected if found[key].dtype not in _FLOATS], name, "not of a floating-point type")


def _refuse(keys: Iterable[str], name: str, what: str) -> None:
    wrong = sorted(key if key.isprintable() else ascii(key) for key in keys)
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ModelError(
            f"{name}: {len(wrong)} tensors {what}: {', '.join(wrong[:10])}{more}",
            expected="exactly the network's tensors, all finite",
            do="save the checkpoint again, or check that config.json belongs to it",
        )


def _undecodable(path: str, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ModelError(f"{path!r} cannot be decoded: {reason}", expected="weights of a network")
