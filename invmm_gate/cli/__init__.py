"""The command line. Parses, calls the gate, prints, exits; no decisions. Only `main` exits the process."""

import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final

from invmm_gate.core.errors import BAD_INPUT, INTERNAL_ERROR, INTERRUPTED, GateError

if TYPE_CHECKING:
    from typer import TyperException

_INTERRUPTED: Final = "interrupted: what was finished is kept; give the same command to go on"


def main() -> None:
    """Entry point of `invmm-gate`; ends the process with one of the exit codes in core/errors.py."""
    try:
        exit_code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while `run` itself was being imported
        exit_code = _failed(_INTERRUPTED, INTERRUPTED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn the exit code into a traceback
    sys.exit(exit_code)


def run(arguments: list[str]) -> int:
    """Run one command; its exit code. Every failure is one line on stderr."""
    os.umask(0o077)  # probes and copies of them are private
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # and so is this process's memory
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):
        os.environ.setdefault(name, "true")
    import typer

    from invmm_gate.cli.app import app

    try:
        exit_code = app(args=arguments, prog_name="invmm-gate", standalone_mode=False)
        if exit_code == INTERRUPTED:  # typer makes a returned 130 of Ctrl-C
            raise KeyboardInterrupt
        return exit_code if isinstance(exit_code, int) else 0
    except GateError as error:
        first, *others = error.lines
        return _failed(f"error: {first}", error.exit_code, *others)
    except typer.TyperException as error:
        message = error.format_message()
        return _failed(message if message.startswith("Usage:") else _usage_error(error), BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _failed(_INTERRUPTED, INTERRUPTED)
    except Exception as error:
        if os.environ.get("INVMM_GATE_DEBUG"):
            raise
        line = " ".join(str(error).split())[:300]
        text = f"internal error: {type(error).__name__}: {line}; set INVMM_GATE_DEBUG=1 to see where, and report it"
        return _failed(text, INTERNAL_ERROR)


def _usage_error(error: "TyperException") -> str:
    """One line, with the value that was given, and the command whose help has the option."""
    from pydantic import ValidationError

    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    message = message.split(", unable to parse")[0]
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        given = repr(cause.errors()[0]["input"])[:80]
        message += "" if given in message else f", found {given}"
    context = getattr(error, "ctx", None)
    return f"error: {message}; see `{context.command_path if context else 'invmm-gate'} --help`"


def _failed(line: str, exit_code: int, *others: str) -> int:
    from invmm_gate.cli.show import printable

    for each in (line, *others):
        print(printable(each), file=sys.stderr)
    return exit_code
