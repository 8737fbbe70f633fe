"""LoRA on top of a checkpoint: part of the digest, and of what is scored exactly as diffusers puts it there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from invmm_gate.core.errors import ModelError
from invmm_gate.models.adapters.network_calls import call_of
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import changed_files, inspect_checkpoint
from tests.models import tiny_text
from tests.models.test_text_load import at_size_of, estimate, load

Checkpoints = Callable[[str], Path]
UNET = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "v_proj"]
TRANSFORMER_ALONE = ("z_image", "klein", "qwen_image", "chroma", "lumina", "sana", "aura_flow")
"""Families of whose LoRAs diffusers loads no text encoder."""


def trained(module: Any, targets: list[str], *, seed: int, alpha: int = 8) -> dict[str, torch.Tensor]:
    module.add_adapter(LoraConfig(r=2, lora_alpha=alpha, target_modules=targets), adapter_name="trained")
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(module, adapter_name="trained")
    return {key: torch.randn(tensor.shape, generator=generator) * 0.3 for key, tensor in sorted(state.items())}


def save_lora(name: str, folder: Path) -> Path:
    """A LoRA as diffusers' training scripts save it, for every network that they can train."""
    pipeline = tiny_text.build(name).pipeline
    denoiser = "transformer" if "transformer" in pipeline.components else "unet"
    layers = {f"{denoiser}_lora_layers": trained(getattr(pipeline, denoiser), UNET, seed=1)}
    if name in TRANSFORMER_ALONE:
        type(pipeline).save_lora_weights(folder, **layers)
        return folder / "pytorch_lora_weights.safetensors"
    layers["text_encoder_lora_layers"] = trained(pipeline.text_encoder, TEXT, seed=2)
    if name not in ("sd1", "lcm", "flux"):
        layers["text_encoder_2_lora_layers"] = trained(pipeline.text_encoder_2, TEXT, seed=3)
    type(pipeline).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("name", ["sd1", "lcm", "sdxl", "sd3", "flux", *TRANSFORMER_ALONE])
def test_a_lora_gives_what_the_diffusers_pipeline_with_it_gives(
    text_checkpoint: Checkpoints, tmp_path: Path, name: str
) -> None:
    lora, folder, theirs = save_lora(name, tmp_path / "lora"), text_checkpoint(name), tiny_text.build(name)
    theirs.pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    ours = at_size_of(theirs.model, load(folder, loras=[lora]))
    expected = estimate(load_into(theirs))
    torch.testing.assert_close(estimate(ours), expected, rtol=1e-3, atol=1e-3)
    assert (estimate(at_size_of(theirs.model, load(folder))) - expected).abs().max() > 0.05
    assert not any(parameter.requires_grad for parameter in ours.network.parameters())
    assert not any("lora" in key for key, _ in ours.network.named_modules())


def load_into(tiny: tiny_text.Tiny) -> Any:
    """The gate's model around the modules that diffusers put the LoRA on."""
    object.__setattr__(tiny.model, "unconditional", zero_or_empty(tiny.model))
    return tiny.model


def zero_or_empty(model: Any) -> Any:
    call = call_of(model.network)
    if call.bare_negative:
        return model.prompts.bare([call.negative_prompt])
    return model.unconditional if model.zero_unconditional else model.prompts.encode([call.negative_prompt])


def test_a_lora_with_a_scale_in_its_metadata_is_scaled(sd: Path, tmp_path: Path) -> None:
    pipeline = tiny_text.build("sd1").pipeline
    layers = trained(pipeline.unet, UNET, seed=1, alpha=16)
    metadata = pipeline.unet.peft_config["trained"].to_dict()
    type(pipeline).save_lora_weights(tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)
    lora, theirs = tmp_path / "pytorch_lora_weights.safetensors", tiny_text.build("sd1")
    theirs.pipeline.load_lora_weights(tmp_path)
    expected, scaled = estimate(theirs.model), estimate(load(sd, loras=[lora]))
    torch.testing.assert_close(scaled, expected, rtol=1e-3, atol=1e-3)
    save_file(load_file(lora), tmp_path / "bare.safetensors")
    assert (estimate(load(sd, loras=[tmp_path / "bare.safetensors"])) - expected).abs().max() > 1e-3


def test_a_lora_is_listed_hashed_and_watched(sd: Path, tmp_path: Path) -> None:
    lora, plain = save_lora("sd1", tmp_path / "lora"), inspect_checkpoint(sd)
    manifest = inspect_checkpoint(sd, loras=[lora])
    name = "lora://1/pytorch_lora_weights.safetensors"
    assert manifest.adapters == (str(lora),)
    assert {file.path for file in manifest.files} - {file.path for file in plain.files} == {name}
    assert manifest.digest != plain.digest
    assert changed_files(manifest) == ()
    other = {key: tensor + 1 for key, tensor in load_file(lora).items()}
    save_file(other, lora)
    assert changed_files(manifest) == (name,)
    with pytest.raises(ModelError, match="changed since"):
        load_model(manifest)
    assert inspect_checkpoint(sd, loras=[lora]).digest != manifest.digest


def test_two_loras_are_fused_one_after_the_other(sd: Path, tmp_path: Path) -> None:
    lora = save_lora("sd1", tmp_path / "lora")
    other = tmp_path / "other.safetensors"
    save_file({key: tensor * 0.5 for key, tensor in load_file(lora).items()}, other)
    one, two = load(sd, loras=[lora]), load(sd, loras=[lora, other])
    assert (estimate(one) - estimate(two)).abs().max() > 1e-3
    digests = {inspect_checkpoint(sd, loras=order).digest for order in ([lora, other], [other, lora])}
    assert len(digests) == 2


def test_a_lora_of_another_model_or_with_unused_weights_is_refused(
    sd: Path, text_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    lora = save_lora("sd1", tmp_path / "lora")
    tensors = load_file(lora)
    first = next(key for key in tensors if key.startswith("unet."))
    spoiled: list[dict[str, torch.Tensor]] = [
        {**tensors, "unet.nowhere.to_q.lora_A.weight": torch.ones(2, 8)},
        {**tensors, "controlnet.to_q.lora_A.weight": torch.ones(2, 8)},
        {key: tensor for key, tensor in tensors.items() if key != first},
        {**tensors, first: torch.ones(2, 9)},
        {**tensors, first: torch.full_like(tensors[first], torch.nan)},
        {key.removeprefix("unet."): tensor for key, tensor in tensors.items() if key.startswith("unet.")},
    ]
    for number, content in enumerate(spoiled):
        path = tmp_path / f"{number}.safetensors"
        save_file(content, path)
        with pytest.raises(ModelError, match=f"lora://1/{number}"):
            load(sd, loras=[path])
    with pytest.raises(ModelError, match="lora://1"):
        load(text_checkpoint("sdxl"), loras=[lora])


def test_a_lora_that_changes_no_weight_is_refused(sd: Path, tmp_path: Path) -> None:
    lora = save_lora("sd1", tmp_path / "lora")
    save_file({key: torch.zeros_like(tensor) for key, tensor in load_file(lora).items()}, lora)
    with pytest.raises(ModelError, match="changes no weight"):
        load(sd, loras=[lora])


def test_what_is_no_lora_is_refused_at_inspection(sd: Path, ddpm: Path, tmp_path: Path) -> None:
    lora = save_lora("sd1", tmp_path / "lora")
    (tmp_path / "lora.bin").write_bytes(b"x")
    save_file({"conv.weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    save_file({"unet.to_q.lora.dora_scale": torch.ones(2)}, tmp_path / "dora.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95 and more of it")
    for name in ("lora.bin", "weights", "dora", "empty", "pickle", "missing"):
        path = tmp_path / (name if "." in name else f"{name}.safetensors")
        with pytest.raises(ModelError, match=name):
            inspect_checkpoint(sd, loras=[path])
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        inspect_checkpoint(sd, loras=[lora.parent])
    with pytest.raises(ModelError, match="DDPMPipeline"):
        inspect_checkpoint(ddpm, loras=[lora])


def test_without_peft_the_install_line_is_given(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = save_lora("sd1", tmp_path / "lora")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'invmm-gate\[lora\]'"):
        load(sd, loras=[lora])


def test_a_lora_of_kohyas_scripts_is_understood(sd: Path, tmp_path: Path) -> None:
    """Names with underscores, down and up, and an alpha for each module."""
    lora = save_lora("sd1", tmp_path / "lora")
    kohya: dict[str, torch.Tensor] = {}
    with safe_open(lora, "pt") as stream:
        keys = [key for key in stream.keys() if key.startswith("unet.")]  # noqa: SIM118
    for key in keys:
        module, _, kind = key.removeprefix("unet.").removesuffix(".weight").rpartition(".")
        module, side = (module.removesuffix(".lora"), kind) if kind in ("down", "up") else (module, kind)
        side = {"lora_A": "down", "lora_B": "up"}.get(side, side)
        name = "lora_unet_" + module.replace(".", "_")
        kohya[f"{name}.lora_{side}.weight"] = load_file(lora)[key]
        kohya[f"{name}.alpha"] = torch.tensor(4.0)
    path = tmp_path / "kohya.safetensors"
    save_file(kohya, path)
    theirs = tiny_text.build("sd1")
    theirs.pipeline.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    torch.testing.assert_close(estimate(load(sd, loras=[path])), estimate(theirs.model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "prefix"), [("qwen_image", ""), ("qwen_image", "diffusion_model."), ("z_image", "diffusion_model.")]
)
def test_a_lora_without_the_names_of_diffusers_is_understood(
    text_checkpoint: Checkpoints, tmp_path: Path, name: str, prefix: str
) -> None:
    """As fast versions of Qwen-Image and trainers of Z-Image are published: down, up, and an alpha for each module."""
    lora, other = load_file(save_lora(name, tmp_path / "lora")), {}
    for key, tensor in lora.items():
        module, _, side = key.removeprefix("transformer.").removesuffix(".weight").rpartition(".")
        other[f"{prefix}{module}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = tensor
        other[f"{prefix}{module}.alpha"] = torch.tensor(1.0)
    save_file(other, tmp_path / "other.safetensors")
    folder, theirs = text_checkpoint(name), tiny_text.build(name)
    theirs.pipeline.load_lora_weights(tmp_path, weight_name="other.safetensors")
    ours = at_size_of(theirs.model, load(folder, loras=[tmp_path / "other.safetensors"]))
    torch.testing.assert_close(estimate(ours), estimate(load_into(theirs)), rtol=1e-3, atol=1e-3)
    plain = at_size_of(theirs.model, load(folder))
    assert (estimate(ours) - estimate(plain)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("unet.to_q.lora_magnitude_vector", "holds DoRA weights"),
        ("unet.to_q.dora_scale", "holds DoRA weights"),
        ("lora_unet_mid_block.hada_w1_a", "holds LoHa weights"),
        ("lora_unet_mid_block.lokr_w1", "holds LoKr weights"),
        ("unet.to_q.oft_blocks", "holds OFT weights"),
        ("unet.to_q.weight", "the tensor 'unet.to_q.weight', which is no LoRA weight"),
        ("mid_block.attn1.processor.to_k_lora.down.weight", "load_lora_weights puts such a file nowhere"),
    ],
)
def test_an_adapter_of_another_kind_is_called_by_its_name(sd: Path, tmp_path: Path, key: str, said: str) -> None:
    save_file({key: torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=said):
        inspect_checkpoint(sd, loras=[tmp_path / "other.safetensors"])


def test_what_save_attn_procs_writes_has_no_place_in_diffusers_either(sd: Path, tmp_path: Path) -> None:
    """The reason for the refusal: load_lora_weights leaves every weight as it was."""
    pipeline = tiny_text.build("sd1").pipeline
    before = {key: tensor.clone() for key, tensor in pipeline.unet.state_dict().items()}
    trained(pipeline.unet, UNET, seed=1)
    state = {key.replace("base_model.model.", ""): tensor for key, tensor in trained_state(pipeline.unet).items()}
    save_file(state, tmp_path / "procs.safetensors")
    with pytest.raises(ModelError, match="puts such a file nowhere"):
        inspect_checkpoint(sd, loras=[tmp_path / "procs.safetensors"])
    plain = tiny_text.build("sd1").pipeline
    plain.load_lora_weights(tmp_path, weight_name="procs.safetensors")
    for key, tensor in plain.unet.state_dict().items():
        assert torch.equal(tensor, before[key])


def trained_state(module: Any) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(module, adapter_name="trained")
