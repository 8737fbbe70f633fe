"""The pipeline of examples/dvc, with its waivers, its baseline and SSCD's file: its commands, one after the other."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.stages.world import MEMORIZING, ROOT, call, new_world, policy_with, torchscript

(WRITTEN,) = re.findall(r"```yaml\n(stages:.*?)```", (ROOT / "examples" / "dvc" / "README.md").read_text(), re.DOTALL)
EXAMPLE = yaml.safe_load(WRITTEN.replace("${folder}", "gate"))["stages"]
SHIPPED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OF_OTHERS = {"probes", "train"}
REGRESSION = policy_with(settings={"steps": 10, "test_every": 5}, rules=[{"rule": "regression", "margin": 0.05}])


def words(stage: str) -> list[str]:
    return shlex.split(EXAMPLE[stage]["cmd"])


def outs(stage: str) -> set[str]:
    return {next(iter(out)) for out in (*EXAMPLE[stage].get("outs", ()), *EXAMPLE[stage].get("metrics", ()))}


def test_it_has_the_shipped_pipelines_stages_and_commands():
    assert [name for name in EXAMPLE if name not in OF_OTHERS] == [name for name in SHIPPED if name not in OF_OTHERS]
    for name in EXAMPLE.keys() - OF_OTHERS:
        assert words(name)[:2] == SHIPPED[name]["cmd"].split()[:2], name


@pytest.mark.parametrize("stage", [name for name in EXAMPLE if name not in OF_OTHERS])
def test_a_stage_depends_on_every_file_that_its_command_names(stage):
    options = dict(zip(words(stage), words(stage)[1:], strict=False))
    named = {value for name, value in options.items() if name.startswith("--") and not value.startswith("--")}
    policies = {next(iter(entry)) for entry in EXAMPLE[stage].get("params", ())}
    folder = {options.get("--out"), "gate/run"}
    assert named - folder <= set(EXAMPLE[stage].get("deps", ())) | policies | outs(stage)


def test_its_commands_give_a_verdict_under_the_rule_regression(tmp_path, monkeypatch):
    world = new_world(tmp_path, planted=(1,), single=())
    world.policy(REGRESSION, "policy")
    shutil.copytree(MEMORIZING, tmp_path / "models" / "ckpt")
    torchscript(tmp_path / "sscd.pt")
    (tmp_path / "waivers.yaml").write_text("[]\n")
    assert call("keys", "new", tmp_path / "reviewer").code == 0
    monkeypatch.chdir(tmp_path)

    def run(stage: str) -> int:
        return call(*words(stage)[1:]).code

    assert [run(stage) for stage in ("gate", "validate", "measure")] == [0, 0, 0]
    _bless_a_copy(Path("gate/run"))
    assert [run(stage) for stage in ("confirm", "judge", "report", "verdict")] == [0, 0, 0, 0]
    assert all(Path(out).exists() for stage in EXAMPLE.keys() - OF_OTHERS for out in outs(stage))


def _bless_a_copy(run: Path) -> None:
    """What was measured, approved in another folder: the first baseline of a policy with `regression` has none."""
    shutil.copytree(run, "approved")
    assert call("judge", "approved", "--policy", "policy.yaml", "--exit-zero").code == 0
    why = ("--reason", "the first", "--even-if-blocked", "--baseline", "baseline.yaml")
    assert call("bless", "approved", *why).code == 0
