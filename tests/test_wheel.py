"""The built wheel works in an empty environment, from any folder."""

import email
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.policy.policy_builders import clean_run
from tests.stages.stored_runs import stored


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a new environment that holds the wheel and what the wheel declares."""
    built = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(root)],
        check=True,
        capture_output=True,
    )
    (wheel,) = built.glob("*.whl")
    environment = tmp_path_factory.mktemp("empty")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        declared = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    for part in needed(declared):
        link(part, packages)
    for command in (("install", "--quiet", "--no-compile", "--no-deps", "--no-index", wheel), ("check",)):
        subprocess.run([python, "-m", "pip", *command], check=True, capture_output=True)
    return environment / "bin" / "invmm-gate"


def needed(declared: list[str]) -> list[Distribution]:
    """The distributions here that fulfil the requirements, and those that these need in turn."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(text, "") for text in declared]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found[key] = distribution(requirement.name)
                waiting += [(each, wanted) for each in found[key].requires or ()]
    return list(found.values())


def link(part: Distribution, packages: Path) -> None:
    """A link to each module and folder of it, in place of hundreds of MB that are unpacked and compiled anew."""
    tops = {file.parts[0] for file in part.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(part.locate_file(top))))


def run(command: Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, env=environment)


def test_wheel_brings_policies_templates_and_the_command(installed: Path, tmp_path: Path) -> None:
    version = run(installed, "version", folder=tmp_path)
    assert (version.returncode, version.stdout[:10]) == (0, "invmm-gate"), version.stderr

    policy = run(installed, "policy", "show", "strict", folder=tmp_path)
    assert policy.returncode == 0, policy.stderr
    assert "name: strict" in policy.stdout

    stored(clean_run(), tmp_path / "run", judged_by=None)
    report = run(installed, "report", "run", folder=tmp_path)
    assert report.returncode == 0, report.stderr
    assert "NOT JUDGED" in (tmp_path / "run" / "report.html").read_text().upper()

    refused = run(installed, "check", "--model", "nowhere", "--policy", "strict", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: probe set 'probes' is not a folder")
