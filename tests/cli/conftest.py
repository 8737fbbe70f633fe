"""The worlds of tests/gate."""

from tests.gate.conftest import (  # noqa: F401  (fixtures)
    _elsewhere,
    _one_thread,
    checked,
    finished,
    pristine,
    small_disk,
    world,
)
