"""A world with one finished check; tests work on copies of it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.stages.remembering import remembering
from tests.stages.world import Called, World, new_world


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other; and the number of threads is part of a run's identity."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults such as reports/ and mlflow.db lie in the working folder: never the repository's."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="package", autouse=True)
def _remembered() -> Iterator[None]:
    """What the demo's network said of an input is not computed again."""
    from diffusers import UNet2DModel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet2DModel, "forward", remembering(UNet2DModel.forward))
        yield


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world where nothing was measured yet."""
    return new_world(tmp_path_factory.mktemp("pristine") / "world")


@pytest.fixture(scope="session")
def checked(pristine: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Called]:
    """A finished check, undisturbed. Not to be changed."""
    world = pristine.copy(tmp_path_factory.mktemp("checked") / "world")
    return world, world.check()


@pytest.fixture
def world(pristine: World, tmp_path: Path) -> World:
    """A world of the test's own, nothing measured."""
    return pristine.copy(tmp_path / "world")


@pytest.fixture
def finished(checked: tuple[World, Called], tmp_path: Path) -> World:
    """A world of the test's own with a finished check."""
    return checked[0].copy(tmp_path / "finished")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a real file system of so many KB; skips where that is not allowed."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk-{kilobytes}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)
