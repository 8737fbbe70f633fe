"""The demo's network evaluated once for the same weights, configuration and input, however many checks ask for it.

Nearly all tests check the same checkpoint on the same probes with the same seed, and half of a check's time goes into
evaluations that another test has had already. What is given back is what the network itself said, to the bit. Passes
that take gradients are never remembered, nor those of helper processes: whether two runs of the same command leave the
same bytes is found out by benchmarks/kill_resume.py and tests/measure.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

AT_MOST = 6000
"""Results that are kept: about 80 MB of the demo's 4 x 3 x 16 x 16 values."""
_results: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
_networks: "WeakKeyDictionary[nn.Module, tuple[int, str]]" = WeakKeyDictionary()


def remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`UNet2DModel.forward` that gives a known result at once."""

    def remembered(
        network: Any, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        if class_labels is not None or return_dict or (sample.requires_grad and torch.is_grad_enabled()):
            return forward(network, sample, timestep, class_labels, return_dict)
        key = (_identity(network), *_content(sample), *_content(torch.as_tensor(timestep)))
        if key not in _results:
            (_results[key],) = forward(network, sample, timestep, None, False)
        _results.move_to_end(key)
        result = _results[key].clone()
        if len(_results) > AT_MOST:
            _results.popitem(last=False)
        return (result,)

    return remembered


def _identity(network: Any) -> str:
    version = hash(tuple((id(tensor), tensor._version) for tensor in network.parameters()))
    if _networks.get(network, (0, ""))[0] != version:
        content = [[name, *_content(tensor)] for name, tensor in network.state_dict().items()]
        text = json.dumps([dict(network.config), network.training, content], default=str)
        _networks[network] = (version, hashlib.sha256(text.encode()).hexdigest())
    return _networks[network][1]


def _content(tensor: Tensor) -> tuple[str, str]:
    values = tensor.detach().contiguous()
    return (
        f"{values.dtype} {tuple(values.shape)}",
        hashlib.blake2b(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest(),
    )
