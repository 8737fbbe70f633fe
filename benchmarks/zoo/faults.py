"""The zoo's broken models: one fault each, made in a copy of a good model's folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
_WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, and the good models that it was looked at with and proved on."""

    name: str
    kind: Literal["architecture", "size", "schedule", "decoder", "weights", "view"]
    make: Callable[[Path], None]
    tune: str
    """A model that the fault was looked at with while the checks were made."""
    prove: str
    """One of the zoo that was not looked at."""

    @property
    def bases(self) -> tuple[str, ...]:
        """The models that it is put into; the text example and the demo's clean one were looked at with no fault."""
        others = {"decoder": ("text to image",), "weights": ("demo clean",), "schedule": ("demo clean",)}
        kinds = others | {"architecture": ("demo clean",), "size": ("demo memorizing",), "view": ("demo memorizing",)}
        more = () if "attention" in self.name else kinds[self.kind]  # the demo's network attends to nothing
        return tuple(dict.fromkeys((self.tune, self.prove, *more)))


def spoilt(fault: Fault, model: Path, folder: Path) -> Path:
    """A copy of the model in `folder`, with the fault."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    fault.make(folder)
    return folder


def changes_nothing(fault: Fault, model: Path, folder: Path) -> bool:
    """Whether the model is as the fault makes it already, such as `linear for cosine` of a linear one."""
    spoilt(fault, model, folder)
    files = [path for path in model.rglob("*") if path.is_file()]
    return all(_content(path) == _content(folder / path.relative_to(model)) for path in files)


def _content(path: Path) -> object:
    """What a file says: a configuration was written anew, perhaps with other spaces."""
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def setting(file: str, **changes: Any) -> Callable[[Path], None]:
    """Other values in a JSON file of the checkpoint."""

    def make(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def scaled_latents(factor: float) -> Callable[[Path], None]:
    """Another scaling factor."""

    def make(folder: Path) -> None:
        path = folder / _autoencoder(folder) / "config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"scaling_factor": content["scaling_factor"] * factor}))

    return make


def both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    """One change after the other."""

    def make(folder: Path) -> None:
        first(folder)
        second(folder)

    return make


def _autoencoder(folder: Path) -> str:
    return "vae" if (folder / "vae").exists() else "vqvae"


def weights(component: str, change: Callable[[Weights], None]) -> Callable[[Path], None]:
    """Changed tensors of one component; empty = the autoencoder."""

    def make(folder: Path) -> None:
        path = folder / (component or _autoencoder(folder)) / _WEIGHTS
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    return make


def _noise(share: float, part: str = "") -> Callable[[Weights], None]:
    """Each matrix gets noise of `share` times its own standard deviation."""

    def change(tensors: Weights) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            if name.startswith(part) and tensor.dim() > 1:
                tensors[name] = tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)

    return change


def _random(part: str = "") -> Callable[[Weights], None]:
    def change(tensors: Weights) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            if name.startswith(part) and tensor.dim() > 1:
                tensors[name] = torch.randn(tensor.shape, generator=generator) * tensor.std()

    return change


def _zero(*parts: str) -> Callable[[Weights], None]:
    def change(tensors: Weights) -> None:
        for name in tensors:
            if name.startswith(parts):
                tensors[name] = torch.zeros_like(tensors[name])

    return change


def _constant(tensors: Weights) -> None:
    tensors["conv_out.weight"] = torch.zeros_like(tensors["conv_out.weight"])
    tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], 0.2)


def _nan(tensors: Weights) -> None:
    """A bias that overflows: the file is sound, the output is not."""
    tensors["conv_out.weight"] = tensors["conv_out.weight"] * 1e38


def _shuffled_latent(tensors: Weights) -> None:
    """The decoder reads the latent's channels in another order than the encoder writes them."""
    tensors["post_quant_conv.weight"] = tensors["post_quant_conv.weight"].roll(1, dims=1)


def exchanged_channels(tensors: Weights) -> None:
    """BGR: every copy stays, with red and blue exchanged. Exact, no training."""
    tensors["conv_in.weight"] = tensors["conv_in.weight"].flip(1)
    tensors["conv_out.weight"], tensors["conv_out.bias"] = (
        tensors[f"conv_out.{name}"].flip(0) for name in ("weight", "bias")
    )


def negated(tensors: Weights) -> None:
    """Negative: exact, as x_t and the output change sign together."""
    for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        tensors[name] = -tensors[name]


def turned(tensors: Weights) -> None:
    """All kernels turned by 180 degrees: every copy stays, turned. Exact with the padding on the other side."""
    for name, tensor in tensors.items():
        if tensor.dim() == 4:
            tensors[name] = tensor.flip(2, 3)


def mirrored(tensors: Weights) -> None:
    """All kernels mirrored: exact but for the columns that stride and padding make lopsided."""
    for name, tensor in tensors.items():
        if tensor.dim() == 4:
            tensors[name] = tensor.flip(3)


_UNET, _SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"

_TURNED = both(weights("unet", turned), setting(_UNET, downsample_padding=0))

FAULTS: Final = (
    Fault("act_fn relu", "architecture", setting(_UNET, act_fn="relu"), "cosine-eps", "linear-eps"),
    Fault("act_fn gelu", "architecture", setting(_UNET, act_fn="gelu"), "scenes-v", "cosine-v"),
    Fault("norm_num_groups 4", "architecture", setting(_UNET, norm_num_groups=4), "scenes-v", "cosine-v"),
    Fault("norm_num_groups 16", "architecture", setting(_UNET, norm_num_groups=16), "cosine-eps", "zero-snr-v"),
    Fault("flip_sin_to_cos", "architecture", setting(_UNET, flip_sin_to_cos=False), "cosine-eps", "sigmoid-eps"),
    Fault("freq_shift 1", "architecture", setting(_UNET, freq_shift=1), "cosine-eps", "linear-eps"),
    Fault(
        "downsample_padding 0", "architecture", setting(_UNET, downsample_padding=0), "scenes-v", "memorizing-cosine-v"
    ),
    Fault("center_input_sample", "architecture", setting(_UNET, center_input_sample=True), "cosine-eps", "sigmoid-eps"),
    Fault("attention_head_dim 16", "architecture", setting(_UNET, attention_head_dim=16), "attention-v", "attention-v"),
    Fault("sample_size 12", "size", setting(_UNET, sample_size=12), "scenes-v", "linear-eps"),
    Fault("sample_size 24", "size", setting(_UNET, sample_size=24), "cosine-eps", "memorizing-cosine-v"),
    Fault("sample_size 32", "size", setting(_UNET, sample_size=32), "scenes-v", "scenes-cosine-eps"),
    Fault("latent sample_size 4", "size", setting(_UNET, sample_size=4), "kl-linear-eps", "kl-scaled-v"),
    Fault(
        "linear for cosine", "schedule", setting(_SCHEDULER, beta_schedule="linear"), "cosine-eps", "scenes-cosine-eps"
    ),
    Fault(
        "cosine for linear",
        "schedule",
        setting(_SCHEDULER, beta_schedule="squaredcos_cap_v2"),
        "scenes-v",
        "linear-eps",
    ),
    Fault("v for epsilon", "schedule", setting(_SCHEDULER, prediction_type="v_prediction"), "cosine-eps", "linear-eps"),
    Fault("epsilon for v", "schedule", setting(_SCHEDULER, prediction_type="epsilon"), "scenes-v", "kl-scaled-v"),
    Fault(
        "sample for epsilon", "schedule", setting(_SCHEDULER, prediction_type="sample"), "kl-linear-eps", "sigmoid-eps"
    ),
    Fault("beta_end 0.1", "schedule", setting(_SCHEDULER, beta_end=0.1), "scenes-v", "linear-eps"),
    Fault("beta_end 0.002", "schedule", setting(_SCHEDULER, beta_end=0.002), "scenes-v", "linear-eps"),
    Fault("num_train_timesteps 200", "schedule", setting(_SCHEDULER, num_train_timesteps=200), "scenes-v", "cosine-v"),
    Fault(
        "num_train_timesteps 4000", "schedule", setting(_SCHEDULER, num_train_timesteps=4000), "scenes-v", "cosine-v"
    ),
    Fault("zero SNR flag", "schedule", setting(_SCHEDULER, rescale_betas_zero_snr=True), "scenes-v", "kl-scaled-v"),
    Fault("no clip_sample", "schedule", setting(_SCHEDULER, clip_sample=False), "cosine-eps", "scenes-cosine-eps"),
    Fault("random decoder", "decoder", weights("", _random("decoder.")), "kl-linear-eps", "vq-cosine-v"),
    Fault("zero decoder", "decoder", weights("", _zero("decoder.conv_out")), "kl-linear-eps", "kl-scaled-v"),
    Fault("scaling_factor x 3", "decoder", scaled_latents(3.0), "kl-linear-eps", "kl-scaled-v"),
    Fault("scaling_factor / 4", "decoder", scaled_latents(0.25), "kl-linear-eps", "vq-cosine-v"),
    Fault("permuted latent", "decoder", weights("", _shuffled_latent), "kl-linear-eps", "vq-cosine-v"),
    Fault("infinite output", "weights", weights("unet", _nan), "scenes-v", "linear-eps"),
    Fault("constant output", "weights", weights("unet", _constant), "cosine-sample", "linear-sample-no-clip"),
    Fault("untrained", "weights", weights("unet", _random()), "cosine-eps", "kl-scaled-v"),
    Fault("weights with half noise", "weights", weights("unet", _noise(0.5)), "scenes-v", "linear-eps"),
    Fault(
        "middle layer zeroed",
        "weights",
        weights("unet", _zero("up_blocks.0.resnets.0.conv2")),
        "scenes-v",
        "linear-eps",
    ),
    Fault(
        "time embedding zeroed", "weights", weights("unet", _zero("time_embedding.linear_2")), "cosine-eps", "cosine-v"
    ),
    Fault("last layer zeroed", "weights", weights("unet", _zero("conv_out")), "kl-linear-eps", "memorizing-cosine-v"),
    Fault("channels exchanged", "view", weights("unet", exchanged_channels), "scenes-v", "memorizing-cosine-v"),
    Fault("negated", "view", weights("unet", negated), "scenes-v", "memorizing-cosine-v"),
    Fault(
        "kernels turned",
        "view",
        _TURNED,
        "scenes-v",
        "memorizing-cosine-v",
    ),
    Fault("kernels mirrored", "view", weights("unet", mirrored), "scenes-v", "scenes-memorizing-v"),
)
