"""Which tests a worker of pytest-xdist takes together, and in which order they are handed out."""

from collections import Counter
from typing import Any, Final

import pytest

TOGETHER: Final = ("tests/registry", "tests/tracking")
"""Folders whose files share servers: one worker takes all of them, so that there is one of each server a machine."""
ALONE: Final = ("tests/policy/test_policy_mutation.py", "tests/registry/test_story.py")
"""Files whose tests share nothing that is dear to make: each test is handed out by itself."""
LONGEST: Final = (
    "tests/registry",
    "tests/registry/test_story.py",
    "tests/github/test_action.py",
    "tests/stages/test_resume.py",
    "tests/dvc/test_pipeline.py",
    "tests/measure/test_model_checks.py",
    "tests/cli/test_terminal.py",
    "tests/stages/test_text_to_image.py",
    "tests/stages/test_kohya_how_to.py",
    "tests/stages/test_class_conditional.py",
    "tests/stages/test_flow.py",
    "tests/stages/test_labels.py",
    "tests/stages/test_faults.py",
    "tests/policy/test_policy_mutation.py",
    "tests/dvc/test_example.py",
    "tests/stages/test_other_fits.py",
    "tests/stages/test_prompts_bad_input.py",
    "tests/tracking",
    "tests/test_wheel.py",
    "tests/stages/test_controls.py",
)
"""What takes ten seconds or more although it may have few tests, the longest first: see `--durations`."""


def scope_of(nodeid: str) -> str:
    """What is handed out as one: a file, if nothing else is said of it."""
    file = nodeid.split("::")[0]
    folder = file.rpartition("/")[0]
    if file in ALONE:
        return nodeid
    return folder if folder in TOGETHER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Instead of `--dist loadfile`."""
    from xdist.scheduler import LoadFileScheduling

    class Scopes(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return Scopes(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest first, then the files with the most tests: what comes last is short, and no worker idles.

    By itself xdist goes by the number of tests alone, which leaves a single test of minutes to the end; `make test`
    turns that off.
    """
    if not hasattr(config, "workerinput"):
        return
    tests = Counter(scope_of(item.nodeid) for item in items)
    items.sort(key=lambda item: (_place(scope_of(item.nodeid)), -tests[scope_of(item.nodeid)]))


def _place(scope: str) -> int:
    file = scope.split("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)
