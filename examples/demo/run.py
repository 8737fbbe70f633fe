"""`make demo`: gates both checkpoints under policy strict and shows the two verdicts side by side.

Ends with 0 when the memorizing checkpoint is blocked and the clean one passes, else with 1.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from probe_set import write_probe_set
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel

MODELS: Final = Path(__file__).parent / "models"
EXPECTED: Final = {"memorizing": "block", "clean": "pass"}
FOLDERS: Final = {"memorizing": Path("runs/ckpt"), "clean": Path("runs/clean")}
COLOURS: Final = {"pass": "green", "block": "red", "inconclusive": "yellow"}


@dataclass(frozen=True)
class Running:
    kind: str
    process: subprocess.Popen[str]
    log: Path


def set_up() -> None:
    """runs/ckpt, runs/clean and probes/, as a user would have them."""
    for kind, folder in FOLDERS.items():
        shutil.copytree(MODELS / kind, folder, dirs_exist_ok=True)
    if not Path("probes/manifest.csv").exists():
        write_probe_set(Path("probes"))


def start(kind: str, threads: int) -> Running:
    """A check in a process of its own: two processes with half the threads are faster than one after the other."""
    log = Path(f"runs/{kind}.log")
    command = [sys.executable, "-m", "invmm_gate", "check", "--model", str(FOLDERS[kind]), "--policy", "strict"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--json", "--reveal"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    return Running(kind, process, log)


def finish(run: Running) -> dict[str, Any]:
    output, _ = run.process.communicate()
    if not output:
        sys.exit(f"{run.kind}: no verdict; {run.log.read_text().strip()}")
    result: dict[str, Any] = json.loads(output)
    return result


def panel(kind: str, result: dict[str, Any]) -> Panel:
    counts = result["counts"]
    lines = [
        f"[bold {COLOURS[result['decision']]}]{result['decision'].upper()}[/]  (exit code {result['exit_code']})",
        "",
        f"probes {counts['probes']}, controls {counts['controls']}",
        f"inverted {counts['inverted']}, made by plain sampling {counts['confirmed']}",
        "",
        *[f"- {reason}" for reason in result["reasons"][:4]],
        "",
        f"report: {result['report']}",
    ]
    return Panel("\n".join(lines), title=f"{kind} ({FOLDERS[kind]})", width=58)


def main() -> int:
    console = Console()
    began = time.monotonic()
    set_up()
    threads = max(1, (os.cpu_count() or 2) // 2)
    console.print("Gating runs/ckpt (memorizing) and runs/clean under policy strict; about six minutes on two cores.")
    running = [start(kind, threads) for kind in EXPECTED]
    results = {run.kind: finish(run) for run in running}
    console.print(Columns([panel(kind, result) for kind, result in results.items()]))
    console.print(f"{time.monotonic() - began:.0f} s. Now try: invmm-gate check --model runs/ckpt --policy strict")
    return 0 if {kind: result["decision"] for kind, result in results.items()} == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
