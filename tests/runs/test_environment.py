"""What is installed has one digest: equal for equal wheels, another one for anything else that decides a verdict."""

import base64
import hashlib
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from invmm_gate import __version__
from invmm_gate.runs.distributions import NO_RECORD, changed_files, installed_distributions
from invmm_gate.runs.installed import installed_environment, installed_gate

FILES = {"ftfy/__init__.py": "FIXES = 1\n", "ftfy/main.py": "def main(): ...\n"}


def wheel(folder: Path, files: dict[str, str] = FILES, *, name: str = "ftfy") -> Path:
    """A wheel with a console script, as small as one can be."""
    info = f"{name}-6.3.dist-info"
    content = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 6.3\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}.main:main\n",
    }
    lines = [f"{path},sha256={_hash(text)},{len(text)}" for path, text in content.items()]
    folder.mkdir(parents=True)
    place = folder / f"{name}-6.3-py3-none-any.whl"
    with zipfile.ZipFile(place, "w") as file:
        for path, text in content.items():
            file.writestr(path, text)
        file.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return place


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def installed(place: Path, prefix: Path, *options: str) -> list[str]:
    """The wheel as pip installs it; the path that Python would find it on."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-warn-script-location"]
    subprocess.run([*pip, "--prefix", str(prefix), *options, str(place)], check=True)
    return [str(next(prefix.glob("lib*/python*/site-packages")))]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("environment")
    return installed(wheel(folder / "wheels"), folder / "one")


@pytest.fixture
def copied(environment: list[str], tmp_path: Path) -> Path:
    """An environment of the test's own."""
    for path in Path(environment[0]).rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(environment[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def test_the_same_wheel_has_the_same_digest_wherever_and_however_it_was_installed(environment, tmp_path):
    again = installed(wheel(tmp_path / "elsewhere"), tmp_path / "two", "--no-compile")
    records = [next(Path(path[0]).glob("*.dist-info/RECORD")).read_text() for path in (environment, again)]
    assert records[0] != records[1]
    assert "bin/ftfy" in records[0]
    assert ".pyc" in records[0]
    assert "direct_url.json" in records[0]
    assert installed_distributions(environment) == installed_distributions(again)
    assert installed_distributions(again)[0].files == 5


def test_another_file_in_a_wheel_of_the_same_version_is_another_digest(environment, tmp_path):
    other = wheel(tmp_path / "wheels", FILES | {"ftfy/__init__.py": "FIXES = 2\n"})
    before, after = installed_distributions(environment)[0], installed_distributions(installed(other, tmp_path))[0]
    assert (before.name, before.version) == (after.name, after.version) == ("ftfy", "6.3")
    assert before.record != after.record


def test_a_distribution_without_a_record_is_said_to_have_none(copied):
    next(copied.glob("*.dist-info/RECORD")).unlink()
    (found,) = installed_distributions([str(copied)])
    assert (found.version, found.record, found.files) == ("6.3", NO_RECORD, 0)
    assert changed_files([str(copied)]) == ["ftfy: no RECORD"]


def test_the_libraries_that_torch_was_compiled_for_count_whatever_cudas_version(tmp_path):
    for name in ("nvidia_cublas_cu12", "nvidia_cudnn_cu13", "some_nvidia"):
        folder = tmp_path / f"{name}-9.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 9.1\n")
        (folder / "RECORD").write_text(f"nvidia/{name}.so,sha256=AAAA,4\n")
    found = installed_distributions([str(tmp_path)])
    assert [item.name for item in found] == ["nvidia-cublas-cu12", "nvidia-cudnn-cu13"]


def test_a_file_that_changed_or_went_since_it_was_installed_is_named(environment, copied):
    assert changed_files(environment) == []
    (copied / "ftfy" / "__init__.py").write_text("FIXES = 2\n")
    (copied / "ftfy" / "main.py").unlink()
    assert changed_files([str(copied)]) == ["ftfy: ftfy/__init__.py", "ftfy: ftfy/main.py"]
    assert installed_distributions([str(copied)]) == installed_distributions(environment), "RECORD says what it said"


def test_a_package_that_would_be_imported_in_place_of_the_installed_one_is_named(environment, tmp_path):
    shadow = tmp_path / "ftfy.py"
    shadow.touch()
    (clean,), (found,) = installed_distributions(environment), installed_distributions([str(tmp_path), *environment])
    assert (clean.shadowed_by, found.shadowed_by) == ("", str(shadow))
    assert found.record == clean.record, "RECORD alone does not tell"


def test_a_package_that_went_would_be_imported_from_nowhere(copied):
    (copied / "ftfy" / "__init__.py").unlink()
    (copied / "ftfy" / "main.py").unlink()
    (copied / "ftfy").rename(copied / "gone")
    (found,) = installed_distributions([str(copied)])
    assert found.shadowed_by == "nothing"


def test_a_link_to_the_environment_shadows_nothing(environment, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(environment[0])
    (found,) = installed_distributions([str(link), *environment])
    assert found.shadowed_by == ""


def test_an_editable_package_is_said_to_have_no_record(copied):
    record = next(copied.glob("*.dist-info/RECORD"))
    kept = [line for line in record.read_text().splitlines() if not line.startswith("ftfy/")]
    record.write_text("\n".join([*kept, "__editable__.ftfy-6.3.pth,sha256=AAAA,30"]))
    (found,) = installed_distributions([str(copied)])
    assert (found.record, found.shadowed_by) == (NO_RECORD, "")


@pytest.mark.parametrize("claim", ["md5=AAAA", "sha256", "nothing=AAAA"])
def test_a_claim_that_cannot_be_checked_is_none_that_holds(copied, claim):
    record = next(copied.glob("*.dist-info/RECORD"))
    record.write_text(f"ftfy/main.py,{claim},4\n")
    assert changed_files([str(copied)]) == ["ftfy: ftfy/main.py"]


def test_the_environment_of_a_run_is_the_gates_code_and_what_it_stands_on():
    found, inputs = installed_environment(), installed_gate()
    names = {item.name for item in found.distributions}
    assert {"torch", "diffusers", "safetensors", "numpy", "pillow", "scipy", "pydantic-core", "cryptography"} <= names
    lines = [(item.name, item.version, item.record) for item in found.distributions]
    lines = sorted([*lines, ("invmm-gate", __version__, found.code)])
    text = "".join(f"{name}\0{version}\0{record}\n" for name, version, record in lines)
    assert found.digest == hashlib.sha256(text.encode()).hexdigest() == inputs["environment"]
    assert inputs["distributions"] == {item.name: item.record for item in found.distributions}


def test_looking_at_what_is_installed_costs_little():
    def seconds() -> float:
        began = time.process_time()
        installed_distributions()
        return time.process_time() - began

    assert min(seconds() for _ in range(5)) < 0.1, "the best of five: other processes may be busy"
