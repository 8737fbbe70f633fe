"""Before anything is loaded onto a device, the probes are held against the size that the model makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import NewProbes, Options
from invmm_gate.probes.edit import add_probes
from invmm_gate.stages.preflight import prepare
from tests.probes.conftest import TODAY
from tests.stages.world import World, add_picture, draw, new_world


def options_of(world: World) -> Options:
    return Options(model=world.model, policy=str(world.policy()), probes=world.probes)


def wide_model(world: World) -> World:
    """The demo's network, configured to make images of 16 x 32 (height x width)."""
    changed = world.copied_model()
    [config] = changed.model.glob("unet*/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": [16, 32]}))
    return changed


def test_a_probe_that_is_not_exactly_the_models_size_is_refused_unloaded(tmp_path: Path) -> None:
    world = new_world(tmp_path / "world")
    prepare(options_of(world))
    draw(5, size=32).save(tmp_path / "large.png")
    add_probes(world.probes, [tmp_path / "large.png"], NewProbes(group="sensitive", fit="exact", added_on=TODAY))
    with pytest.raises(ProbeSetError, match=r"manifest.csv:7: .*32 x 32 pixels .* and fit exact; expected 16 x 16"):
        prepare(options_of(world))


def test_a_probe_below_the_models_size_is_refused_unloaded(tmp_path: Path) -> None:
    world = new_world(tmp_path / "world")
    add_picture(world, 5, "sensitive", size=12)
    model, policy, probes = (str(path) for path in (world.model, world.policy(), world.probes))
    code = f"""
import sys
from pathlib import Path
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import Options
from invmm_gate.stages.preflight import prepare
try:
    prepare(Options(model=Path({model!r}), policy={policy!r}, probes=Path({probes!r})))
except ProbeSetError as error:
    print(error)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, torch = done.stdout.splitlines()
    assert "has 12 x 12 pixels (width x height); expected at least 16 x 16, the size that the model makes" in said
    assert torch == "False"


def test_the_shape_of_a_probe_is_held_against_the_models_not_against_a_square(tmp_path: Path) -> None:
    world = wide_model(new_world(tmp_path / "world", planted=(), single=(), controls=0))
    for number, identifier in enumerate(("a", "b", "c")):
        draw(number, size=32).resize((64, 32)).save(tmp_path / f"{identifier}.png")
        group = "sensitive" if identifier == "a" else "control"
        add_probes(world.probes, [tmp_path / f"{identifier}.png"], NewProbes(group=group, fit="crop", added_on=TODAY))
    manifest = world.manifest.read_text()
    world.manifest.write_text(manifest.replace(",crop", ","))
    assert [probe.fit for probe in prepare(options_of(world)).probe_set.probes] == ["", "", ""]
    add_picture(world, 7, "sensitive", size=32)
    with pytest.raises(ProbeSetError, match=r"has 32 x 32 pixels .* and no `fit`; expected the shape of 32 x 16"):
        prepare(options_of(world))
