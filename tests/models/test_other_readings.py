"""The same weights at other sizes and under other configurations: what the self-check of views is given."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from invmm_gate.core.records import ModelManifest, SelfCheck
from invmm_gate.measure.natural_view import Alternatives, natural_view
from invmm_gate.models.load.load import load_model
from invmm_gate.models.load.other_readings import other_readings, other_sizes, resized
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.measure.trained import CONTROLS, EXAMPLES, drawn, seen_by
from tests.stages.world import MEMORIZING


def stated(folder: Path, **changes: Any) -> Path:
    """The memorizing checkpoint with other values in unet/config.json."""
    shutil.copytree(MEMORIZING, folder)
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def check_of(checkpoint: Path) -> SelfCheck:
    manifest = inspect_checkpoint(checkpoint)
    model = load_model(manifest)
    controls = seen_by(model, drawn(CONTROLS))
    names = [f"c{number}" for number in CONTROLS]
    return natural_view(
        controls, names, len(names), root_seed=0, others=Alternatives(readings=other_readings(manifest, model))
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"act_fn": "relu"}, "act_fn silu"),
        ({"norm_num_groups": 16}, "norm_num_groups 8"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos True"),
        ({"freq_shift": 1}, "freq_shift 0"),
        ({"center_input_sample": True}, "center_input_sample False"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_configuration_that_is_not_the_training_ones_is_found(
    changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    check = check_of(stated(tmp_path / "model", **changes))
    assert not check.passed
    assert f"better with {found} than as they are given" in check.detail
    assert check.detail.endswith("hold the configurations of scheduler and networks against the training")


def test_no_other_reading_of_a_trained_checkpoint_is_better() -> None:
    assert check_of(MEMORIZING).passed


def test_readings_share_the_weights_and_leave_the_model_as_it_is() -> None:
    manifest = inspect_checkpoint(MEMORIZING)
    model: Any = load_model(manifest)
    readings = list(other_readings(manifest, model))
    assert [name for name, _ in readings if "attention" in name] == [], "the network has no attention"
    assert len({name for name, _ in readings}) == len(readings) >= 7
    for _, read in readings:
        reading: Any = read
        assert reading.network.conv_in.weight.data_ptr() == model.network.conv_in.weight.data_ptr()
        assert not reading.network.training
        assert reading.schedule is model.schedule


def runs_at(manifest: ModelManifest, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The other sizes, each tried."""
    model = load_model(manifest)
    sizes = other_sizes(manifest, model)
    assert model.image_size == image_size
    assert image_size not in sizes
    for size in sizes:
        other = resized(model, size)
        assert other.image_size == size
        x_0 = other.encode(torch.zeros(1, 3, *size))
        assert x_0.shape[1:] == other.latent_shape
        level = other.schedule.at(torch.tensor([500]))
        assert other.estimate_x_0(x_0, level).shape == x_0.shape
    return sizes


def test_sizes_near_the_stated_one_are_those_that_the_network_can_run_at() -> None:
    for folder, side in (("demo/models/memorizing", 16), ("text_to_image/model", 32)):
        sizes = runs_at(inspect_checkpoint(EXAMPLES / folder), (side, side))
        assert {(side // 2, side // 2), (side * 2, side * 2)} <= set(sizes)


def test_an_oblong_model_is_seen_at_the_squares_of_its_sides(tmp_path: Path) -> None:
    path = stated(tmp_path / "m", sample_size=[16, 8])
    assert {(16, 16), (8, 8), (32, 16)} <= set(runs_at(inspect_checkpoint(path), (16, 8)))


def test_a_transformer_is_seen_at_the_sizes_that_it_has_positions_for(text_checkpoint: Callable[[str], Path]) -> None:
    """Eight positions a side of two latent pixels each, two image pixels a latent one: up to 32 pixels."""
    sizes = runs_at(inspect_checkpoint(text_checkpoint("sd3")), (16, 16))
    assert set(sizes) == {(8, 8), (12, 12), (20, 20), (24, 24), (32, 32)}


def test_a_transformer_is_read_with_other_heads(text_checkpoint: Callable[[str], Path]) -> None:
    """Nothing in its weights tells how its 16 channels are cut into heads."""
    manifest = inspect_checkpoint(text_checkpoint("sd3"))
    model: Any = load_model(manifest)
    readings: Any = dict(other_readings(manifest, model))
    assert list(readings) == [
        "with attention_head_dim 4 and num_attention_heads 4",
        "with attention_head_dim 16 and num_attention_heads 1",
    ]
    x_0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    level = model.schedule.at(torch.tensor([500]))
    own = model.estimate_x_0(x_0, level)
    for read in readings.values():
        assert read.network.proj_out.weight.data_ptr() == model.network.proj_out.weight.data_ptr()
        assert not torch.allclose(read.estimate_x_0(x_0, level), own, atol=1e-3)
