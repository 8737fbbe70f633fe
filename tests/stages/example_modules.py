"""Modules of the examples, which import their neighbours by name."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(folder: Path, name: str) -> ModuleType:
    """A module of an example. Names such as `draw` mean another file in each: the path and they are put back."""
    path, saved, before = list(sys.path), sys.modules.pop("draw", None), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{folder.name}_example_{name}", folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        for added in set(sys.modules) - before:
            if str(getattr(sys.modules[added], "__file__", None)).startswith(str(folder.parent)):
                del sys.modules[added]
        if saved is not None:
            sys.modules["draw"] = saved
    return module
