"""The demo's network evaluated once for the same weights, configuration and input, however many checks ask for it.

Nearly all tests check the same checkpoint on the same probes with the same seed, and most of a check's time goes into
evaluations that another test has had already. What is given back is what the network itself said, to the bit, and so
are gradients. What helper processes evaluate is never remembered: whether two runs of the same command leave the same
bytes is found out by benchmarks/kill_resume.py and tests/measure.
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
Key = tuple[str, ...]
_results: OrderedDict[Key, Tensor] = OrderedDict()
_networks: "WeakKeyDictionary[nn.Module, Known]" = WeakKeyDictionary()


def remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`UNet2DModel.forward` that gives a known result at once."""
    from diffusers.models.unets.unet_2d import UNet2DOutput

    def remembered(
        network: Any, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        known = _known(network)
        if class_labels is not None or known.trains:
            return forward(network, sample, timestep, class_labels, return_dict)

        def evaluated(given: Tensor) -> Tensor:
            (result,) = forward(network, given, timestep, None, False)
            return result  # type: ignore[no-any-return]

        differentiated = sample.requires_grad and torch.is_grad_enabled()
        key = (str(differentiated), known.digest, *_content(sample), *_content(torch.as_tensor(timestep)))
        if differentiated:
            result = _Remembered.apply(sample, evaluated, key)
        else:
            result = _result(key, lambda: evaluated(sample))
        return UNet2DOutput(sample=result) if return_dict else (result,)

    return remembered


class _Remembered(torch.autograd.Function):
    """The network with its gradient; evaluated again where only the result is known."""

    @staticmethod
    def forward(context: Any, sample: Tensor, evaluated: Callable[[Tensor], Tensor], key: Key) -> Tensor:
        context.of, context.key, context.graph = (sample.detach(), evaluated), key, None

        def result() -> Tensor:
            context.graph = _graph(*context.of)
            return context.graph[1].detach()  # type: ignore[no-any-return]

        return _result(key, result)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        def result() -> Tensor:
            leaf, output = context.graph or _graph(*context.of)
            return torch.autograd.grad(output, leaf, gradients)[0]

        return _result((*context.key, *_content(gradients[0])), result), None, None


def _graph(sample: Tensor, evaluated: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    leaf = sample.clone().requires_grad_()
    with torch.enable_grad():
        return leaf, evaluated(leaf)


def _result(key: Key, evaluated: Callable[[], Tensor]) -> Tensor:
    if key not in _results:
        _results[key] = evaluated()
    _results.move_to_end(key)
    if len(_results) > AT_MOST:
        _results.popitem(last=False)
    return _results[key].clone()


class Known:
    """What a network was when its content was hashed: its tensors, their versions, and the places they stand in."""

    def __init__(self, network: Any) -> None:
        modules = list(network.modules())
        self._tables = [table for module in modules for table in (module._parameters, module._buffers, module._modules)]
        self._before = self._now()
        self.trains = any(parameter.requires_grad for parameter in network.parameters())
        content = [[name, *_content(tensor)] for name, tensor in network.state_dict().items()]
        text = json.dumps([dict(network.config), network.training, content], default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def holds(self) -> bool:
        """Whether nothing was replaced, added or written to since."""
        now = self._now()
        return len(now) == len(self._before) and all(
            item is before and state == was for (item, state), (before, was) in zip(now, self._before, strict=True)
        )

    def _now(self) -> list[tuple[object, object]]:
        return [
            (item, (item._version, item.requires_grad) if isinstance(item, Tensor) else None)
            for table in self._tables
            for item in table.values()
        ]


def _known(network: Any) -> Known:
    known = _networks.get(network)
    if known is None or not known.holds():
        known = _networks[network] = Known(network)
    return known


def _content(tensor: Tensor) -> tuple[str, str]:
    values = tensor.detach().contiguous()
    return (
        f"{values.dtype} {tuple(values.shape)}",
        hashlib.blake2b(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest(),
    )
