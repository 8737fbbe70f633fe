"""In which order the files of tests are handed to the workers of pytest-xdist."""

from collections import Counter

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those with the most tests: the last file is a short one, and no worker idles.

    By itself xdist goes by the number of tests alone, which leaves a single test of minutes to the end; `make test`
    turns that off.
    """
    if not hasattr(config, "workerinput"):
        return
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))
