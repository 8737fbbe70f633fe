"""How the action starts the gate: program, options, and an environment without GitHub's files and tokens.

Python's standard library alone. Inputs come through the environment and become arguments without a shell.
"""

import os
import shlex
from typing import Final

DEMANDS: Final = ("policy", "reviewers")
"""What a verdict has to be under, whatever the run folder says."""
_WITHHELD: Final = ("GITHUB_", "ACTIONS_", "INPUT_")


def program() -> list[str]:
    """The gate that this action installed, or the command that was named."""
    installed = os.environ.get("INSTALLED", "")
    return [installed] if installed else shlex.split(os.environ["INPUT_COMMAND"])


def given(names: tuple[str, ...]) -> list[str]:
    """The inputs of these names that are not empty, as options."""
    return [f"--{name}={value}" for name in names if (value := os.environ.get(f"INPUT_{name.upper()}", ""))]


def environment() -> dict[str, str]:
    """What the gate may see of this step's environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)}
