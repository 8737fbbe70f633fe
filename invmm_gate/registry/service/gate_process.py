"""The gate of one version as a child process: its command line, its run, and the outcome file that it leaves.

An exit code alone does not say whose fault a failure was: 2 is a slip in the gate's own configuration as well as an
unusable checkpoint, and 10 is an attestation that does not hold as well as a block. So the gate also writes a small
file once its work on the version is done, and an exit code is believed only with this file. A receiver that was killed
never learns the exit code of the gate that it left behind: the file alone then says how that gate ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from invmm_gate.core.asked import arguments
from invmm_gate.core.errors import BAD_INPUT, BLOCK, INCONCLUSIVE, PASS, ModelError, RunFolderError
from invmm_gate.core.options import GateChoices
from invmm_gate.files.regular import read_records, write_whole
from invmm_gate.registry.client.webhooks import SECRET_VARIABLE
from invmm_gate.registry.promote.gate_version import Registered
from invmm_gate.registry.promote.measure_version import SameFilesError

SAME_FILES: Final = "same_files"
"""No end: another process gates the same files now, and this version is to be gated after it."""
EXIT_CODES: Final = {
    "pass": PASS,
    "block": BLOCK,
    "inconclusive": INCONCLUSIVE,
    "bad_input": BAD_INPUT,
    SAME_FILES: INCONCLUSIVE,
}
"""`bad_input` = the version's own files cannot be used; nothing else is."""
_OUTCOME_BYTES: Final = 100_000
_LOOK_EVERY: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An end of the gate's work on a version, or what it waits for."""

    name: str
    """One of EXIT_CODES."""
    terms: str = ""
    """What it was judged under (`terms_of`); empty where it was not judged."""


def telling(gate: Callable[[], Registered], file: Path | None) -> Registered:
    """What `gate` returns or raises, with its outcome in the file, where there is one to write."""
    outcome = None
    try:
        done = gate()
        outcome = Outcome(name=done.outcome, terms=done.terms)
        return done
    except SameFilesError:
        outcome = Outcome(name=SAME_FILES)
        raise
    except ModelError as error:
        outcome = None if _is_of_this_machine(error) else Outcome(name="bad_input")
        raise
    finally:
        if file is not None and outcome is not None:
            write_whole(file, json.dumps(asdict(outcome)) + "\n")


def _is_of_this_machine(error: BaseException | None) -> bool:
    """A missing package or an unreadable disk, told as a checkpoint's fault because the checkpoint needed it."""
    while error is not None:
        if isinstance(error, (ImportError, OSError, MemoryError)):
            return True
        error = error.__cause__
    return False


def read_outcome(file: Path, exit_code: int | None = None) -> Outcome | None:
    """The outcome that was written, if it is one of this exit code; of any, where the code was lost with a receiver."""
    try:
        found = Outcome(**json.loads(read_records(file, limit=_OUTCOME_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError, RunFolderError):
        return None  # nothing whole was written, so nothing ended
    expected = EXIT_CODES.get(found.name)
    return found if expected is not None and exit_code in (None, expected) else None


def gate_command(choices: GateChoices) -> tuple[str, ...]:
    """The command of `invmm-gate registry gate` for these choices, without name and version.

    Anybody on the machine can read it: the webhook secret is no part of it, of the key only its path, and the tracking
    URI, which may hold a password, is in the environment.
    """
    given = (*arguments(choices), f"--runs={choices.runs}")
    return (sys.executable, "-m", "invmm_gate", "registry", "gate", *given, "--quiet")


def run_child(
    command: Sequence[str],
    *,
    log: Path,
    lock: int,
    go_on: Callable[[], bool],
    grace: float,
    added: Mapping[str, str],
) -> int | None:
    """The exit code of the command; None if `go_on`, asked several times a second, said no and it was ended.

    It is ended with SIGTERM and, after `grace` seconds, SIGKILL, with all its own children. Its output goes to the log
    file. It has this process's environment with what is `added`, and is not told the webhook secret.
    """
    environment = {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE} | dict(added)
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
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
