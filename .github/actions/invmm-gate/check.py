"""The action's main step: runs the gate and keeps its exit code. Python's standard library alone.

Succeeds whatever the verdict, so that the evidence is published before the job fails; publish.py has the records judged
again before they count. What the gate prints is shown with `details` alone: it names probes.
Outputs: `folder` with all that was written, and `exit-code`.
"""

import os
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from gate import environment, given, program
from job import one_line, say, write_output

OPTIONS: Final = (
    "model",
    "policy",
    "probes",
    "waivers",
    "reviewers",
    "baseline",
    "sscd",
    "weights",
    "seed",
    "device",
    "rows",
)


def main() -> None:
    """Run the gate in a folder of its own; no line of its log is a workflow command."""
    folder = Path(tempfile.mkdtemp(prefix="invmm-gate-", dir=os.environ["RUNNER_TEMP"]))
    write_output("folder", str(folder))
    token = secrets.token_hex(16)
    say(f"::stop-commands::{token}\n".encode())
    shown = os.environ.get("INPUT_DETAILS") == "true"
    if not shown:
        say(b"what the gate prints is kept in its log file, which stays on this machine; see the input `details`\n")
    exit_code = run(command_line(folder / "run"), log=folder / "gate.log", shown=shown)
    say(f"::{token}::\n".encode())
    write_output("exit-code", str(exit_code))


def command_line(run_folder: Path) -> list[str]:
    """The gate's check and its options; an option that was left empty is left to the gate."""
    loras = [f"--lora={line.strip()}" for line in os.environ.get("INPUT_LORA", "").splitlines() if line.strip()]
    server = os.environ.get("INPUT_TRACKING_URI", "")
    tracking = f"--tracking-uri={server}" if server else "--no-track"
    return [*program(), "check", *given(OPTIONS), *loras, tracking, f"--out={run_folder}"]


def run(command: list[str], *, log: Path, shown: bool) -> int:
    """Start the command; what it prints is added to `log`."""
    try:
        gate = subprocess.Popen(  # noqa: S603  (a list, no shell)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
        )
    except (OSError, ValueError) as error:
        refusal = one_line(f"error: {command[0]!r} cannot be run: {error}")
        log.write_text(f"{refusal}\n", encoding="utf-8")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # a job that is cancelled lets the gate end in its own way
        signal.signal(number, lambda received, _: gate.send_signal(received))
    with gate, log.open("ab") as file:
        for line in gate.stdout or ():
            file.write(line)
            file.flush()  # a job that is killed leaves what was said so far
            if shown:
                say(line)
    return gate.returncode if gate.returncode >= 0 else 128 - gate.returncode


if __name__ == "__main__":
    main()
