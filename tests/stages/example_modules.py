"""Modules of the examples, which import their neighbours by name."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(folder: Path, name: str) -> ModuleType:
    """A module of an example; each example has a `draw` of its own, and the path is put back as it was."""
    path, saved = list(sys.path), sys.modules.pop("draw", None)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{folder.name}_example_{name}", folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        sys.modules.pop("draw", None)
        if saved is not None:
            sys.modules["draw"] = saved
    return module
