"""Weights into a network: nothing missing, nothing left over, nothing random, nothing that is not a number.

Each file is read into memory once and hashed there, so what is decoded is what was inspected; a memory map would
leave a window between the two. Peak memory is about three times the largest file. LoRA weights on top are put there by
diffusers' own loader, and fused into the network's own.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from invmm_gate.core.errors import GateError, ModelError
from invmm_gate.files.scratch import scratch_folder
from invmm_gate.models.load.unsaved_values import complete
from invmm_gate.models.load.weight_names import current_names
from invmm_gate.models.networks import diffusers
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.components import Component
from invmm_gate.models.read.weight_files import Header, header_of

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


_COUNTER: Final = ".num_batches_tracked"
"""How often a batch norm was trained; of no effect on a frozen one."""


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> None:
    _refuse(expected.keys() - found.keys(), name, "missing")
    _refuse(found.keys() - expected.keys(), name, "unexpected")
    shapes = [key for key, tensor in expected.items() if tensor.shape != found[key].shape]
    _refuse(shapes, name, "of another shape than config.json says")
    whole = [key for key in expected if found[key].dtype not in _FLOATS and not key.endswith(_COUNTER)]
    _refuse(whole, name, "not of a floating-point type")


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


_LOADERS: Final = {
    "StableDiffusionPipeline": attrgetter("StableDiffusionLoraLoaderMixin"),
    "LatentConsistencyModelPipeline": attrgetter("StableDiffusionLoraLoaderMixin"),
    "StableDiffusionXLPipeline": attrgetter("StableDiffusionXLLoraLoaderMixin"),
    "StableDiffusion3Pipeline": attrgetter("SD3LoraLoaderMixin"),
    "FluxPipeline": attrgetter("FluxLoraLoaderMixin"),
    "ChromaPipeline": attrgetter("FluxLoraLoaderMixin"),
    "Flux2KleinPipeline": attrgetter("Flux2LoraLoaderMixin"),
    "ZImagePipeline": attrgetter("ZImageLoraLoaderMixin"),
    "QwenImagePipeline": attrgetter("QwenImageLoraLoaderMixin"),
    "Lumina2Pipeline": attrgetter("Lumina2LoraLoaderMixin"),
    "SanaPipeline": attrgetter("SanaLoraLoaderMixin"),
    "AuraFlowPipeline": attrgetter("AuraFlowLoraLoaderMixin"),
}
_WITH_ALPHAS: Final = ("FluxPipeline", "ChromaPipeline")
"""Pipelines whose loader hands out the scales of kohya's form beside the weights."""
_ADAPTER: Final = "released"
_FILE: Final = "lora.safetensors"


def fuse_loras(files: CheckpointFiles, pipeline: str, networks: Mapping[str, nn.Module]) -> None:
    """Fuse each LoRA of the checkpoint into the networks, in order. They stay frozen.

    Raises ModelError, naming the LoRA, for weights that have no place, and for a LoRA that changes nothing.
    """
    for name in files.elsewhere:
        _require_peft()
        try:
            _load(files, name, pipeline, networks)
            _refuse_unused(name, header_of(files, name), networks)
            changed = [_fuse(network) for network in networks.values()]
        except GateError:
            raise
        except Exception as error:  # diffusers and peft raise many kinds for weights that do not fit
            raise ModelError(
                f"{name!a} cannot be put on this {pipeline}: {str(error)[:200]}",
                expected="a LoRA that was trained on this kind of model",
            ) from error
        if not any(changed):
            raise ModelError(f"{name!a} changes no weight", expected="a trained LoRA", do="leave out --lora")
        for part, network in networks.items():
            refuse_unusable(network, f"{part} with {name!a}")


def _load(files: CheckpointFiles, name: str, pipeline: str, networks: Mapping[str, Any]) -> None:
    """Load as the pipeline's `load_lora_weights` does, from a private copy of bytes whose sha256 is known."""
    import diffusers.loaders

    diffusers_loader = _LOADERS[pipeline](diffusers.loaders)
    options: dict[str, Any] = {"return_alphas": True} if pipeline in _WITH_ALPHAS else {}
    if pipeline == "StableDiffusionXLPipeline":
        options["unet_config"] = networks["unet"].config
    with scratch_folder() as folder:
        (folder / _FILE).write_bytes(files.read(name))
        state, *alphas, metadata = diffusers_loader.lora_state_dict(
            str(folder),
            weight_name=_FILE,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
            **options,
        )
    shared = {"adapter_name": _ADAPTER, "metadata": metadata}
    scales = alphas[0] if alphas else None
    if "transformer" in networks:
        told = {"network_alphas": scales} if pipeline in _WITH_ALPHAS else {}
        diffusers_loader.load_lora_into_transformer(state, transformer=networks["transformer"], **told, **shared)
    else:
        diffusers_loader.load_lora_into_unet(state, network_alphas=scales, unet=networks["unet"], **shared)
    trained = ("text_encoder", "text_encoder_2") if hasattr(diffusers_loader, "load_lora_into_text_encoder") else ()
    for part in (part for part in trained if part in networks):
        diffusers_loader.load_lora_into_text_encoder(
            state, network_alphas=scales, text_encoder=networks[part], prefix=part, **shared
        )


def _layers(network: nn.Module) -> Iterator[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in network.modules() if isinstance(module, BaseTunerLayer))


def _refuse_unused(name: str, header: Header, networks: Mapping[str, nn.Module]) -> None:
    """Diffusers only logs what it does not use; peft starts what is missing at random or at zero."""
    given = [entry.shape for key, entry in header.tensors.items() if not key.endswith("alpha")]
    numbers = sum(torch.Size(shape).numel() for shape in given)
    put = [
        parameter
        for network in networks.values()
        for key, parameter in network.named_parameters()
        if f".{_ADAPTER}." in key and ".lora_" in key
    ]
    if (len(put), sum(parameter.numel() for parameter in put)) != (len(given), numbers):
        raise ModelError(
            f"{name!a} holds {len(given)} tensors, of which {len(put)} have a place in the networks",
            expected="a LoRA that was trained on this kind of model, all of it used",
            do="check that it belongs to this checkpoint",
        )


def _fuse(network: nn.Module) -> bool:
    """Whether any weight changed. The network has its own layers again afterwards."""
    from diffusers.utils import recurse_remove_peft_layers

    changed = False
    for layer in _layers(network):
        before = layer.get_base_layer().weight.detach().clone()
        layer.merge(safe_merge=True)
        changed = changed or not torch.equal(before, layer.get_base_layer().weight)
    recurse_remove_peft_layers(network)
    if getattr(network, "peft_config", None) is not None:
        del network.peft_config
        network._hf_peft_config_loaded = False  # type: ignore[assignment]
    network.eval().requires_grad_(False)
    return changed


def _require_peft() -> None:
    diffusers()
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"a LoRA needs peft, which cannot be imported: {error}",
            expected="peft beside diffusers",
            do="pip install 'invmm-gate[lora]'",
        ) from error
