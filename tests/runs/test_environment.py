"""What is installed has one digest: another version of a package, or other code of the gate, is another one."""

import hashlib
import time
from pathlib import Path

from invmm_gate import __version__
from invmm_gate.runs.identity import installed_environment, installed_versions


def distribution(place: Path, name: str, metadata: str) -> list[str]:
    """A path with one distribution on it."""
    folder = place / f"{name.replace('-', '_')}-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(metadata)
    return [str(place)]


def test_a_version_is_that_of_the_distribution_that_comes_first(tmp_path):
    old = distribution(tmp_path / "old", "ftfy", "Name: ftfy\nVersion: 6.2\n")
    new = distribution(tmp_path / "new", "ftfy", "Metadata-Version: 2.1\nName: ftfy\nVersion:  6.3.post1\n\nVersion: 9")
    assert installed_versions(old) == {"ftfy": "6.2"}
    assert installed_versions([*new, *old]) == {"ftfy": "6.3.post1"}
    assert installed_versions(distribution(tmp_path / "odd", "numpy", "Name: numpy\n")) == {"numpy": "unknown"}
    assert installed_versions([str(tmp_path / "none"), ""]) == {}


def test_the_libraries_that_torch_was_compiled_for_count_whatever_cudas_version(tmp_path):
    for name in ("nvidia_cublas_cu12", "nvidia_cudnn_cu13", "some_nvidia"):
        distribution(tmp_path, name, f"Name: {name}\nVersion: 9.1\n")
    assert installed_versions([str(tmp_path)]) == {"nvidia-cublas-cu12": "9.1", "nvidia-cudnn-cu13": "9.1"}


def test_the_environment_of_a_run_is_the_gates_code_and_the_versions_that_it_stands_on():
    found = installed_environment()
    known = {"torch", "diffusers", "safetensors", "numpy", "pillow", "scipy", "pydantic-core", "cryptography"}
    assert known <= set(found.versions)
    assert found.versions == dict(sorted(({"invmm-gate": __version__} | installed_versions()).items()))
    text = "".join(f"{name}\0{version}\n" for name, version in found.versions.items()) + f"code\0{found.code}\n"
    assert found.digest == hashlib.sha256(text.encode()).hexdigest()


def test_looking_at_what_is_installed_costs_little():
    def seconds() -> float:
        began = time.process_time()
        installed_versions()
        return time.process_time() - began

    assert min(seconds() for _ in range(5)) < 0.1, "the best of five: other processes may be busy"
