"""The worlds of tests/stages."""

from tests.stages.conftest import (  # noqa: F401  (fixtures)
    _elsewhere,
    _one_thread,
    _remembered,
    checked,
    finished,
    pristine,
    small_disk,
    world,
)
