"""The gate as a child process: its command line, and its run, which is never left behind on purpose."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from invmm_gate.core.options import GateChoices, arguments
from invmm_gate.registry.client.webhook_signature import SECRET_VARIABLE

TRACKING_URI: Final = "INVMM_GATE_TRACKING_URI"
_LOOK_EVERY: Final = 0.2


def gate_command(choices: GateChoices) -> tuple[str, ...]:
    """The command of `invmm-gate registry gate` for these choices, without name and version.

    Anybody on the machine can read it: the webhook secret is no part of it, of the key only its path, and the tracking
    URI, which may hold a password, is in the environment (TRACKING_URI).
    """
    given = (*arguments(choices), f"--runs={choices.runs}")
    return (sys.executable, "-m", "invmm_gate", "registry", "gate", *given, "--quiet")


def run_child(
    command: Sequence[str],
    *,
    log: Path,
    lock: int,
    go_on: Callable[[], bool],
    grace: float = 10.0,
    added: Mapping[str, str] = MappingProxyType({}),
) -> int | None:
    """The exit code of the command; None if `go_on`, asked several times a second, said no and it was ended.

    It is ended with SIGTERM and, after `grace` seconds, SIGKILL, with all its own children. Its output goes to the log
    file. It has this process's environment with what is `added`, and is not told the webhook secret.
    """
    environment = {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE}
    environment |= added
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as output:
        child = subprocess.Popen(  # noqa: S603  (no shell; names were matched against their pattern)
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(lock,),
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_EVERY)
            if not go_on():
                return None
    finally:
        _end(child, grace)


def _end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """Ends the child's process group, which may outlive the child itself."""
    until = time.monotonic() + grace
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
