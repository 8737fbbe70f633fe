"""From files to a network: exactly the inspected bytes, exactly the network's tensors, nothing else."""

import io
import json
import math
import os
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import DiffusionModel, NoiseLevel
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models.conftest import edit_json, tiny_unet
from tests.models.test_refusals import Payload

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(path: Path, *, allow_pickle: bool = False) -> DiffusionModel:
    return load_model(inspect_checkpoint(path, allow_pickle=allow_pickle))


def estimate(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(2, *model.latent_shape, generator=generator)
    return model.estimate_x_0(x_t, model.schedule.at(torch.tensor([10, 700])))


def expected(unet: UNet2DModel) -> torch.Tensor:
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([10, 700])
    with torch.no_grad():
        eps = unet.eval()(x_t, times).sample
    alpha_bar = DDPMScheduler().alphas_cumprod[times].view(2, 1, 1, 1)
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def test_every_layout_loads_the_same_network(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    unet = tiny_unet()
    tiny_unet().save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    DDPMScheduler().save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    single = tmp_path / "single.safetensors"
    texts = {"unet_config": unet.to_json_string(), "scheduler_config": DDPMScheduler().to_json_string()}
    save_file(unet.state_dict(), single, metadata=texts)
    for path in (checkpoint("ddpm"), checkpoint("bare"), tmp_path / "sharded", single):
        model = load(path)
        torch.testing.assert_close(estimate(model), expected(unet))
        assert (model.family, model.latent_shape, model.image_size) == ("pixel", (3, 8, 8), (8, 8))


def test_of_raw_and_ema_weights_the_chosen_ones_are_scored(ddpm: Path) -> None:
    ema = EMAModel(tiny_unet(seed=5).parameters(), model_cls=UNet2DModel, model_config=tiny_unet().config)
    ema.save_pretrained(ddpm / "unet_ema")
    for weights, seed in (("ema", 5), ("raw", 0)):
        model = load_model(inspect_checkpoint(ddpm, weights=weights))
        torch.testing.assert_close(estimate(model), expected(tiny_unet(seed=seed)))


def test_half_precision_weights_are_scored_in_float32(ddpm: Path) -> None:
    tiny_unet().half().save_pretrained(ddpm / "unet")
    model = load(ddpm)
    assert estimate(model).dtype == torch.float32
    torch.testing.assert_close(estimate(model), expected(tiny_unet().half().float()))


def test_attention_weights_under_their_old_names_are_understood(ddpm: Path) -> None:
    path = ddpm / "unet" / WEIGHTS
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, tensor in load_file(path).items():
        for new, name in names.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = tensor
    assert any(".query." in key for key in old)
    save_file(old, path)
    torch.testing.assert_close(estimate(load(ddpm)), expected(tiny_unet()))
    save_file({**load_file(path), "mid_block.attentions.0.to_q.weight": torch.zeros(16, 16)}, path)
    with pytest.raises(ModelError, match="old and its new name"):
        load(ddpm)


def test_the_network_is_frozen_and_the_input_gets_a_gradient(ddpm: Path) -> None:
    model = load(ddpm)
    network = model.network  # type: ignore[attr-defined]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    x_t = torch.zeros(1, 3, 8, 8, requires_grad=True)
    model.estimate_x_0(x_t, model.schedule.at(torch.tensor([500]))).square().sum().backward()
    assert x_t.grad is not None
    assert x_t.grad.abs().sum() > 0


def test_loading_leaves_the_global_random_state_alone(ddpm: Path) -> None:
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    load(ddpm)
    assert torch.equal(torch.rand(1), first)


def test_a_checkpoint_without_any_single_tensor_is_refused(one_level: Path) -> None:
    path = one_level / "unet" / WEIGHTS
    tensors = load_file(path)
    for key in tensors:
        save_file({other: tensor for other, tensor in tensors.items() if other != key}, path)
        with pytest.raises(ModelError, match="missing") as caught:
            load(one_level)
        assert key in str(caught.value)


def test_one_number_that_is_none_in_any_tensor_is_refused(one_level: Path) -> None:
    path = one_level / "unet" / WEIGHTS
    tensors = load_file(path)
    for value, (key, tensor) in zip(cycle((math.nan, math.inf, -math.inf)), tensors.items(), strict=False):
        broken = tensor.clone()
        broken.view(-1)[-1] = value
        save_file({**tensors, key: broken}, path)
        with pytest.raises(ModelError, match="NaN or infinity") as caught:
            load(one_level)
        assert key in str(caught.value)


def test_an_autoencoder_must_be_complete_and_finite_too(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("vq")
    path = folder / "vqvae" / WEIGHTS
    tensors = load_file(path)
    codebook = tensors.pop("quantize.embedding.weight")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"vqvae: 1 tensors missing: quantize\.embedding\.weight"):
        load(folder)
    codebook[3, 1] = math.nan
    save_file({**tensors, "quantize.embedding.weight": codebook}, path)
    with pytest.raises(ModelError, match=r"vqvae: .*NaN.*quantize"):
        load(folder)


def test_unexpected_misshapen_and_integer_tensors_are_refused(ddpm: Path) -> None:
    path = ddpm / "unet" / WEIGHTS
    tensors = load_file(path)
    save_file({**tensors, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"1 tensors unexpected: extra\.weight"):
        load(ddpm)
    save_file({**tensors, "\x1b[31mred": torch.zeros(1)}, path)
    with pytest.raises(ModelError) as caught:
        load(ddpm)
    assert str(caught.value).isprintable()
    save_file({**tensors, "conv_in.bias": torch.zeros(9)}, path)
    with pytest.raises(ModelError, match=r"another shape .*conv_in\.bias"):
        load(ddpm)
    save_file({**tensors, "conv_in.bias": torch.zeros(8, dtype=torch.int64)}, path)
    with pytest.raises(ModelError, match="floating-point"):
        load(ddpm)
    save_file({**tensors, "conv_in.bias": torch.full((8,), 1e300, dtype=torch.float64)}, path)
    with pytest.raises(ModelError, match="infinity"):
        load(ddpm)


def test_many_wrong_tensors_are_listed_up_to_ten(ddpm: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(1, 40_000)}, ddpm / "unet" / WEIGHTS)
    with pytest.raises(ModelError, match=r"and \d+ more") as caught:
        load(ddpm)
    assert str(caught.value).count(",") < 15


def test_one_changed_byte_after_inspection_is_refused(ddpm: Path) -> None:
    """In each file that decides the score; a readme may change."""
    manifest = inspect_checkpoint(ddpm)
    for file in manifest.files:
        path = ddpm / file.path
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        with pytest.raises(ModelError, match="changed since") as caught:
            load_model(manifest)
        assert file.path in str(caught.value)
        path.write_bytes(data)
    load_model(manifest)


def test_a_file_swapped_for_a_link_or_removed_after_inspection_is_refused(ddpm: Path, tmp_path: Path) -> None:
    manifest = inspect_checkpoint(ddpm)
    path = ddpm / "unet" / WEIGHTS
    path.rename(tmp_path / "same.safetensors")
    with pytest.raises(ModelError, match=WEIGHTS):
        load_model(manifest)
    path.symlink_to(tmp_path / "same.safetensors")
    with pytest.raises(ModelError, match="symbolic link"):
        load_model(manifest)


def test_another_prediction_type_is_another_digest_and_another_estimate(ddpm: Path) -> None:
    """Nothing in the files contradicts it: an approved digest or the utility floor has to tell."""
    before, digest = estimate(load(ddpm)), inspect_checkpoint(ddpm).digest
    edit_json(ddpm / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert inspect_checkpoint(ddpm).digest != digest
    assert inspect_checkpoint(ddpm).prediction_type == "v_prediction"
    assert (estimate(load(ddpm)) - before).abs().max() > 0.1


def test_torch_load_is_never_called_by_default(ddpm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a payload in each place where diffusers itself would fall back to a pickle."""
    called: list[str] = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: called.append("torch.load"))
    events: list[str] = []
    watching = True

    def hook(event: str, args: tuple[object, ...]) -> None:
        if watching and event == "pickle.find_class":
            events.append(str(args))

    sys.addaudithook(hook)
    try:
        load(ddpm)
        data = io.BytesIO()
        torch.save(Payload(tmp_path / "marker"), data)
        for name in ("unet/diffusion_pytorch_model.bin", "unet/x.safetensors", f"unet/{WEIGHTS}"):
            before = (ddpm / name).read_bytes() if (ddpm / name).exists() else None
            (ddpm / name).write_bytes(data.getvalue())
            with pytest.raises(ModelError):
                load(ddpm)
            (ddpm / name).unlink() if before is None else (ddpm / name).write_bytes(before)
    finally:
        watching = False
    assert called == []
    assert events == []
    assert not (tmp_path / "marker").exists()


def test_an_allowed_pickle_is_loaded_without_running_it(ddpm: Path, tmp_path: Path) -> None:
    path = ddpm / "unet/diffusion_pytorch_model.bin"
    (ddpm / "unet" / WEIGHTS).unlink()
    torch.save(tiny_unet().state_dict(), path)
    torch.testing.assert_close(estimate(load(ddpm, allow_pickle=True)), expected(tiny_unet()))
    torch.save({"state_dict": tiny_unet().state_dict()}, path)
    with pytest.raises(ModelError, match="more than named tensors"):
        load(ddpm, allow_pickle=True)
    torch.save({"conv_in.weight": Payload(tmp_path / "marker"), "x": torch.zeros(50_000)}, path)
    with pytest.raises(ModelError, match="cannot be decoded"):
        load(ddpm, allow_pickle=True)
    assert not (tmp_path / "marker").exists()


def test_a_configuration_that_builds_no_network_is_one_clear_line(ddpm: Path) -> None:
    edit_json(ddpm / "unet/config.json", norm_num_groups=3)
    with pytest.raises(ModelError, match="no network that can be built"):
        load(ddpm)


def test_a_device_that_is_not_there_is_one_clear_line(ddpm: Path) -> None:
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(ConfigError, match=device):
            load_model(inspect_checkpoint(ddpm), device=device)


def test_the_libraries_are_told_to_stay_offline(ddpm: Path) -> None:
    load(ddpm)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] == "true"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_no_code_of_the_package_trusts_remote_code_or_loads_a_pipeline() -> None:
    import invmm_gate.models

    for path in Path(invmm_gate.models.__path__[0]).glob("*.py"):
        text = path.read_text()
        allowed = {"reference.py": 5, "networks.py": 1}  # in a child with limits; tokenizers of a literal table
        assert text.count("from_pretrained(") <= allowed.get(path.name, 0), path
        assert "trust_remote_code=" not in text, path


def test_a_schedule_without_signal_at_its_end_works_where_it_can(ddpm: Path) -> None:
    config = ddpm / "scheduler/scheduler_config.json"
    edit_json(config, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    model = load(ddpm)
    level: NoiseLevel = model.schedule.at(torch.tensor([999]))
    assert level.alpha.item() == 0
    assert level.sigma.item() == 1
    assert model.estimate_x_0(torch.ones(1, 3, 8, 8), level).isfinite().all()
    for change in ({"trained_betas": [1.0] * 1000}, {"trained_betas": [1e-9] * 1000}):
        edit_json(config, rescale_betas_zero_snr=False, prediction_type="epsilon", **change)
        with pytest.raises(ModelError, match="no usable noise schedule"):
            load(ddpm)
    assert json.loads(config.read_text())["trained_betas"]
