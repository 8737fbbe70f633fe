"""Class-conditional models against diffusers: DiTPipeline, and the loop by which users draw from a `UNet2DModel`."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    Transformer2DModel,
)
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, DiffusionModel, LabelEncoder, label_side, text_side
from invmm_gate.diffusion.sampling import sample
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.models.load.load import load_model
from invmm_gate.models.load.other_readings import other_readings, other_sizes, resized
from invmm_gate.models.read.description import describe
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.models.read.network_configs import DiTConfig, OldDiTConfig
from invmm_gate.stages.export_model import export_model
from tests.models.conftest import edit_json, tiny_kl, tiny_unet
from tests.models.tiny_classes import CLASSES, class_unet, save_all

NAMES = ("dit", "few", "ddpm", "ddim", "bare")
NULL = 1000
"""The class that DiTPipeline leads away from."""


@pytest.fixture(scope="session")
def _saved_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    save_all(root)
    return root


@pytest.fixture
def classes(_saved_classes: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A fresh copy of one of `NAMES`."""
    return lambda name: shutil.copytree(_saved_classes / name, tmp_path / name)


def load(path: Path) -> DiffusionModel:
    return load_model(inspect_checkpoint(path))


def labels_of(model: DiffusionModel) -> LabelEncoder:
    labels = label_side(model)
    assert labels is not None
    assert text_side(model) is None
    return labels


def noise(model: DiffusionModel, rows: int = 2) -> Tensor:
    return torch.randn(rows, *model.latent_shape, generator=torch.Generator().manual_seed(7))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


# --- equality with diffusers


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("label", [0, 7, NULL])
def test_a_dit_is_denoised_and_drawn_as_its_pipeline_does(
    classes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, label: int, scale: float
) -> None:
    path = classes("dit")
    pipeline = DiTPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    model = load(path)
    assert model.family == "class_latent"
    x_t, condition = noise(model), labels_of(model).encode([str(label)] * 2)
    seen: list[tuple[int, Tensor, Tensor]] = []
    step = pipeline.scheduler.step

    def noted(output: Tensor, time: Any, latents: Tensor, **named: Any) -> Any:
        result = step(output, time, latents, **named)
        seen.append((int(time), latents[:2], result.pred_original_sample[:2]))
        return result

    monkeypatch.setattr(pipeline.scheduler, "step", noted)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: x_t)
    drawn = pipeline([label] * 2, guidance_scale=scale, num_inference_steps=5, output_type="np").images
    for time, latents, x_0_hat in seen:
        level = model.schedule.at(torch.full((2,), time))
        close(model.estimate_x_0(latents, level, condition=condition, guidance_scale=scale), x_0_hat)
    x_0 = seen[-1][2]  # after the last step of DDIM x_0_hat is all that is left, up to the end of its schedule
    close((model.decode(x_0) + 1) / 2, torch.from_numpy(drawn).permute(0, 3, 1, 2))
    assert label == NULL or not torch.equal(x_0, model.estimate_x_0(latents, level, guidance_scale=scale))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_latents_of_a_dit_after_five_steps_are_those_of_its_pipeline(
    classes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """On the measure's own grid, with the scheduler's last step at alpha 1."""
    path = classes("dit")
    edit_json(path / "scheduler/scheduler_config.json", timestep_spacing="trailing", set_alpha_to_one=True)
    model, pipeline = load(path), DiTPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    x_t, reached = noise(model), list[Tensor]()
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **_: x_t)
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda latents: reached.append(latents) or decode(latents))
    pipeline([3, 3], guidance_scale=scale, num_inference_steps=5, output_type="np")
    condition = labels_of(model).encode(["3", "3"])
    ours = sample(model, x_t, steps=5, condition=condition, guidance_scale=scale)
    close(ours, reached[0] * pipeline.vae.config.scaling_factor)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_unet_is_denoised_under_its_label_as_the_scheduler_does(tmp_path: Path, prediction_type: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    unet = class_unet()
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.family == "class_pixel"
    x_t, labels = noise(model, 3), torch.tensor([0, 1, 2])
    with torch.no_grad():
        output = unet(x_t, 500, class_labels=labels).sample
    step = scheduler.step(output, 500, x_t, generator=torch.Generator().manual_seed(0))
    found = model.estimate_x_0(
        x_t, model.schedule.at(torch.full((3,), 500)), condition=labels_of(model).encode(["0", "1", "2"])
    )
    close(found, step.pred_original_sample)


def test_the_learned_variance_is_left_out(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    unet = class_unet(out_channels=6)
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    model = load_verified(inspect_checkpoint(tmp_path))
    x_t = noise(model)
    with torch.no_grad():
        output = unet(x_t, 300, class_labels=torch.tensor([2, 2])).sample
    step = scheduler.step(output, 300, x_t, generator=torch.Generator().manual_seed(0))
    level = model.schedule.at(torch.tensor([300, 300]))
    close(model.estimate_x_0(x_t, level, condition=labels_of(model).encode(["2"])), step.pred_original_sample)


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_a_unet_is_drawn_by_a_loop_over_the_checkpoints_scheduler(classes: Callable[[str], Path], kind: str) -> None:
    path = classes(kind)
    model = load(path)
    released = model.released
    assert released is not None
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    images = released.images(streams, steps=10, prompt="2")

    pipeline = DDPMPipeline.from_pretrained(path) if kind == "ddpm" else released.pipeline.pipeline
    scheduler, generators = pipeline.scheduler, [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    scheduler.set_timesteps(10)
    x_t = torch.cat([torch.randn(1, 3, 8, 8, generator=each) for each in generators])
    with torch.no_grad():
        for time in scheduler.timesteps:
            output = pipeline.unet(x_t, time, class_labels=torch.tensor([2, 2])).sample
            x_t = scheduler.step(output, time, x_t, generator=generators).prev_sample
    close(images, x_t.clamp(-1, 1))
    assert "SchedulerLoopWithLabels" in released.name
    assert not torch.equal(images, released.images(streams, steps=10, prompt="0"))


def test_a_dit_is_drawn_by_its_pipeline(classes: Callable[[str], Path]) -> None:
    path = classes("dit")
    pipeline, released = DiTPipeline.from_pretrained(path), load(path).released
    pipeline.set_progress_bar_config(disable=True)
    assert released is not None
    images = released.images([torch.Generator().manual_seed(1)], steps=5, prompt="7", guidance_scale=4.0)
    theirs = pipeline([7], generator=torch.Generator().manual_seed(1), num_inference_steps=5, output_type="np").images
    close(images, torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1)
    assert released.forwards(steps=5, guidance_scale=4.0) == 10


@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_what_diffusers_loads(classes: Callable[[str], Path], name: str) -> None:
    load_verified(inspect_checkpoint(classes(name)))


def test_a_dit_as_it_was_published_is_loaded_as_diffusers_loads_it(classes: Callable[[str], Path]) -> None:
    """Its class was Transformer2DModel, and its configuration has that class's keys."""
    path = classes("dit")
    old = {
        "cross_attention_dim": None, "num_vector_embeds": None, "only_cross_attention": False,
        "use_linear_projection": False,
    }  # fmt: skip
    edit_json(path / "transformer/config.json", _class_name="Transformer2DModel", **old)
    edit_json(path / "model_index.json", transformer=["diffusers", "Transformer2DModel"], id2label={"0": "tench, fish"})
    load_verified(inspect_checkpoint(path))


def test_other_classes_of_the_label_give_another_image(classes: Callable[[str], Path]) -> None:
    """What is compared with diffusers depends on the label: a model that ignored it would be found out."""
    path = classes("ddpm")
    model = load(path)
    level = model.schedule.at(torch.tensor([500, 500]))
    zero, one = (model.estimate_x_0(noise(model), level, condition=labels_of(model).encode([each])) for each in "01")
    assert (zero - one).abs().max() > 1e-3


# --- which labels there are, and what is refused


def test_a_dit_has_its_classes_and_one_label_for_none(classes: Callable[[str], Path]) -> None:
    labels = labels_of(load(classes("dit")))
    assert (labels.classes, labels.null, labels.inputs, labels.guided) == (1000, 1000, range(1001), True)
    model = load(classes("ddpm"))
    labels = labels_of(model)
    assert (labels.classes, labels.null, labels.inputs, labels.guided) == (CLASSES, None, range(CLASSES), False)
    assert labels.encode(["2", "0"]).tensors["label"].tolist() == [2, 0]


def test_a_dit_of_fewer_classes_cannot_be_guided_as_its_pipeline_cannot(classes: Callable[[str], Path]) -> None:
    path = classes("few")
    model, pipeline = load(path), DiTPipeline.from_pretrained(path)
    labels = labels_of(model)
    assert (labels.classes, labels.null, labels.guided) == (CLASSES, CLASSES, False)
    with pytest.raises(IndexError):
        pipeline([0], guidance_scale=4.0, num_inference_steps=1)
    with pytest.raises(ModelError, match="guidance_scale 4 for a network that nobody can guide"):
        model.forwards(4.0)


@pytest.mark.parametrize("said", ["", "3", "-1", "1.0", "two", "٢"])
def test_no_other_text_is_a_label(classes: Callable[[str], Path], said: str) -> None:
    with pytest.raises(ModelError, match="is no class of the model"):
        labels_of(load(classes("ddpm"))).encode([said])


def test_a_label_is_never_left_out_or_guided_away(classes: Callable[[str], Path]) -> None:
    model = load(classes("ddpm"))
    x_t, level = noise(model), model.schedule.at(torch.tensor([1, 1]))
    with pytest.raises(ModelError, match="was given no label"):
        model.estimate_x_0(x_t, level)
    with pytest.raises(ModelError, match="nobody can guide"):
        model.estimate_x_0(x_t, level, condition=labels_of(model).encode(["1"]), guidance_scale=2.0)
    with pytest.raises(ModelError, match="labels of 3 rows for 2"):
        model.estimate_x_0(x_t, level, condition=Condition(tensors={"label": torch.tensor([0, 1, 2])}))


def test_a_dit_without_a_label_is_told_no_class(classes: Callable[[str], Path]) -> None:
    model = load(classes("dit"))
    x_t, level = noise(model), model.schedule.at(torch.tensor([500, 500]))
    null = labels_of(model).encode([str(NULL)])
    assert torch.equal(model.estimate_x_0(x_t, level), model.estimate_x_0(x_t, level, condition=null))
    away = model.estimate_x_0(x_t, level, condition=labels_of(model).encode(["3"]), guidance_scale=0.0)
    close(away, model.estimate_x_0(x_t, level, condition=null))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_embed_type": "timestep"}, "'class_embed_type' is 'timestep'"),
        ({"num_class_embeds": 0}, "num_class_embeds"),
    ],
)
def test_classes_of_another_kind_are_refused(
    classes: Callable[[str], Path], change: dict[str, object], said: str
) -> None:
    path = classes("ddpm")
    edit_json(path / "unet/config.json", **change)
    with pytest.raises(ModelError, match=said):
        inspect_checkpoint(path)


def test_classes_in_a_pipeline_that_hands_on_no_label_are_refused(tmp_path: Path) -> None:
    unet = tiny_unet(in_channels=4, out_channels=4, num_class_embeds=3)
    LDMPipeline(tiny_kl(), unet, DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="class-conditional UNet2DModel in LDMPipeline"):
        inspect_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"out_channels": None}, "states no out_channels"),
        ({"out_channels": 6}, "6 output channels"),
        ({"patch_size": 3}, "not a multiple of patch_size"),
        ({"in_channels": 3, "out_channels": 3}, "latent has 4 channels"),
        ({"norm_type": "ada_norm_single"}, "norm_type"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm"),
        ({"num_embeds_ada_norm": 999}, "another shape"),
        ({"caption_channels": 8}, "caption_channels"),
    ],
)
def test_a_dit_whose_parts_do_not_fit_is_refused(
    classes: Callable[[str], Path], change: dict[str, object], said: str
) -> None:
    path = classes("dit")
    edit_json(path / "transformer/config.json", **change)
    with pytest.raises(ModelError, match=said):
        load(path)


@pytest.mark.parametrize("names", [["tench"], {"a": "tench"}, {"0": 1}])
def test_names_of_classes_that_diffusers_cannot_read_are_refused(classes: Callable[[str], Path], names: object) -> None:
    path = classes("dit")
    edit_json(path / "model_index.json", id2label=names)
    with pytest.raises(ModelError, match="'id2label'"):
        inspect_checkpoint(path)


@pytest.mark.parametrize("name", ["dit", "ddpm"])
def test_other_readings_and_sizes_of_the_weights_keep_their_labels(classes: Callable[[str], Path], name: str) -> None:
    manifest = inspect_checkpoint(classes(name))
    model = load_model(manifest)
    readings = dict(other_readings(manifest, model))
    assert any("attention_head_dim" in reading for reading in readings)
    for other in (*readings.values(), *(resized(model, size) for size in other_sizes(manifest, model))):
        level = other.schedule.at(torch.tensor([500]))
        estimate = other.estimate_x_0(noise(other, 1), level, condition=labels_of(other).encode(["1"]))
        assert estimate.shape == (1, *other.latent_shape)


@pytest.mark.parametrize("name", ["dit", "ddpm"])
def test_a_clean_copy_is_what_is_checked(classes: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path = classes(name)
    (path / "app.py").write_text("print()")
    export_model(path, tmp_path / "clean")
    load_verified(inspect_checkpoint(tmp_path / "clean"))


def test_its_description_says_what_it_is(classes: Callable[[str], Path]) -> None:
    said = describe(inspect_checkpoint(classes("dit")))
    assert (said.pipeline, said.family, said.height, said.width) == ("DiTPipeline", "class_latent", 16, 16)
    assert describe(inspect_checkpoint(classes("bare"))).family == "class_pixel"


def test_keys_and_defaults_are_those_of_diffusers() -> None:
    for theirs, ours in ((DiTTransformer2DModel, DiTConfig), (Transformer2DModel, OldDiTConfig)):
        assert set(ours.model_fields) == set(inspect.signature(theirs.__init__).parameters) - {"self"}
    defaults = inspect.signature(DiTTransformer2DModel.__init__).parameters
    for key, field in DiTConfig.model_fields.items():
        assert field.default == defaults[key].default, key


def test_each_tensor_of_a_dit_is_needed(classes: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = classes("few") / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, path)
        with pytest.raises(ModelError, match="missing"):
            load(path.parents[1])


def test_each_component_of_a_dit_is_needed(classes: Callable[[str], Path]) -> None:
    for part in ("transformer", "vae", "scheduler"):
        path = classes("few")
        shutil.rmtree(path / part)
        with pytest.raises(ModelError):
            inspect_checkpoint(path)
        shutil.rmtree(path)
        index = classes("few") / "model_index.json"
        content = json.loads(index.read_text())
        del content[part]
        index.write_text(json.dumps(content))
        with pytest.raises(ModelError, match=part):
            inspect_checkpoint(index.parent)
        shutil.rmtree(index.parent)
