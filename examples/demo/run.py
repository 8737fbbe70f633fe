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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from probe_set import write_probe_set

MODELS: Final = Path(__file__).parent / "models"
EXPECTED: Final = {"memorizing": "block", "clean": "pass"}
FOLDERS: Final = {"memorizing": Path("runs/ckpt"), "clean": Path("runs/clean")}
PROBES: Final = 32
SIGN_OF_LIFE: Final = 60.0
"""Seconds between two lines off a terminal."""
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
            [*command, "--json"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    return Running(kind, process, log)


def watch(running: list[Running], console: Console) -> None:
    """A bar for each check, from the records that it has written; off a terminal a line a minute."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("probes"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bars:
        tasks = {run.kind: bars.add_task(run.kind, total=PROBES) for run in running}
        began = said = time.monotonic()
        while any(run.process.poll() is None for run in running):
            done = {run.kind: measured(FOLDERS[run.kind].name) for run in running}
            for kind, task in tasks.items():
                bars.update(task, completed=done[kind])
            if not console.is_terminal and time.monotonic() - said >= SIGN_OF_LIFE:
                said = time.monotonic()
                console.print(sign_of_life(done, seconds=said - began), soft_wrap=True)
            time.sleep(1)


def sign_of_life(done: dict[str, int], *, seconds: float) -> str:
    """How far each check is, and when the last one will be measured if it goes on at this pace."""
    parts = ", ".join(f"{kind} {count} of {PROBES} probes measured" for kind, count in done.items())
    slowest = min(done.values())
    left = f"; about {seconds * (PROBES / slowest - 1):.0f} s left to measure" if 0 < slowest < PROBES else ""
    return f"{seconds:.0f} s: {parts}{left}"


def measured(name: str) -> int:
    """Probes in the newest run folder of this model."""
    records = sorted(Path("reports").glob(f"{name}-*/measurements.jsonl"), key=lambda path: path.stat().st_mtime)
    return records[-1].read_bytes().count(b"\n") if records else 0


def finish(run: Running) -> dict[str, Any]:
    output, _ = run.process.communicate()
    if not output:
        sys.exit(f"{run.kind}: no verdict; {run.log.read_text().strip()}")
    result: dict[str, Any] = json.loads(output)
    return result


def side_by_side(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(expand=True)
    for kind in results:
        table.add_column(f"{kind} ({FOLDERS[kind]})", ratio=1)
    table.add_row(
        *[
            f"[bold {COLOURS[r['decision']]}]{r['decision'].upper()}[/], exit code {r['exit_code']}"
            for r in results.values()
        ]
    )
    for words, key in (("inverted", "inverted"), ("made by plain sampling", "confirmed"), ("findings", "blocking")):
        table.add_row(*[f"{r['counts'][key]} {words}" for r in results.values()])
    table.add_row(*[" ".join(r["headline"]) for r in results.values()])
    for number in range(3):
        table.add_row(*[image(r, number) for r in results.values()])
    table.add_row(*[r["report"] for r in results.values()])
    return table


def image(result: dict[str, Any], number: int) -> str:
    """One of the images that come out, the likeliest first."""
    rows: list[dict[str, Any]] = result["images"]
    return f"- {rows[number]['probe']}: {rows[number]['often']}" if number < len(rows) else ""


def main() -> int:
    console = Console()
    began = time.monotonic()
    set_up()
    threads = max(1, (os.cpu_count() or 2) // 2)
    said = "Gating runs/ckpt (memorizing) and runs/clean under policy strict; some minutes on two cores."
    console.print(said, soft_wrap=True)
    running = [start(kind, threads) for kind in EXPECTED]
    watch(running, console)
    results = {run.kind: finish(run) for run in running}
    console.print(side_by_side(results))
    console.print(f"{time.monotonic() - began:.0f} s. Now try: invmm-gate check --model runs/ckpt --policy strict")
    return 0 if {kind: result["decision"] for kind, result in results.items()} == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
