"""LoRA weights on top of a checkpoint, put there by diffusers' own loader and fused into the weights."""

import tempfile
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from invmm_gate.core.errors import GateError, ModelError
from invmm_gate.models.load.weights import refuse_unusable
from invmm_gate.models.networks import diffusers
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.safetensors_header import Header
from invmm_gate.models.read.weight_files import header_of

_LOADERS: Final = {
    "StableDiffusionPipeline": attrgetter("StableDiffusionLoraLoaderMixin"),
    "StableDiffusionXLPipeline": attrgetter("StableDiffusionXLLoraLoaderMixin"),
    "StableDiffusion3Pipeline": attrgetter("SD3LoraLoaderMixin"),
}
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
    options = {"unet_config": networks["unet"].config} if pipeline == "StableDiffusionXLPipeline" else {}
    with tempfile.TemporaryDirectory(prefix="invmm-gate-") as folder:
        (Path(folder) / _FILE).write_bytes(files.read(name))
        state, *alphas, metadata = diffusers_loader.lora_state_dict(
            folder,
            weight_name=_FILE,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
            **options,
        )
    shared = {"adapter_name": _ADAPTER, "metadata": metadata}
    scales = alphas[0] if alphas else None
    if "transformer" in networks:
        diffusers_loader.load_lora_into_transformer(state, transformer=networks["transformer"], **shared)
    else:
        diffusers_loader.load_lora_into_unet(state, network_alphas=scales, unet=networks["unet"], **shared)
    for part in (part for part in ("text_encoder", "text_encoder_2") if part in networks):
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
