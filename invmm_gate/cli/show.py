"""The output of the commands: a progress bar on a terminal, plain lines elsewhere, JSON where it is asked for."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self, final

from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Verdict

_SIGNS = {"pass": "PASS", "block": "BLOCK", "inconclusive": "INCONCLUSIVE"}
_COLOURS = {"pass": "bold green", "block": "bold red", "inconclusive": "bold yellow"}
_MOST_LINES = 12
_SIGN_OF_LIFE = 60.0
"""Seconds: off a terminal a line as often as this says how far a stage is."""


def printable(text: str) -> str:
    """Text with control characters spelled out, so that no file name or caption can drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@final
class TerminalProgress:
    """A bar with the time left on stderr; off a terminal the notes, and for a long stage a line a minute.

    Used in a `with` block: however the stages end, the terminal gets its cursor back.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing is drawn before a stage begins."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last bar as it stands, on a line of its own."""
        self._bars.stop()

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Show a bar for the stage; that of the stage before is on the screen already."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(stage, total=total, completed=done)
        self._bars.start()

    def advance(self, parts: int, *, in_flight: int = 0) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, parts)
        if not self._console.is_terminal and time.monotonic() - self._said >= _SIGN_OF_LIFE:
            task = self._bars.tasks[-1]
            left = "" if task.time_remaining is None else f", about {_minutes(task.time_remaining)} left"
            flying = f", {in_flight} probes in flight" if in_flight else ""
            self.note(f"{task.description}: {task.percentage:.0f}% done{flying}{left}")

    def end(self) -> None:
        """Fill the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=self._bars.tasks[-1].total or 0)
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        self._said = time.monotonic()
        if not self._quiet:
            self._console.print(printable(text), style="dim", markup=False, soft_wrap=True)


def records_of(run: Path, verdict: Verdict) -> RunData:
    """The records of a run folder that was judged, with the verdict that is to be shown."""
    from invmm_gate.runs.folder import RunFolder

    return replace(RunFolder(run).data(), verdict=verdict)


def show_verdict(verdict: Verdict, data: RunData, *, folder: str = "", published: str = "") -> None:
    """The verdict of a run's records: one sentence, one line for each image, and where the evidence lies."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    counts = verdict.counts
    total = counts["probes"] + counts["controls"]
    console.print(
        Text.assemble(
            (_SIGNS[verdict.decision], _COLOURS[verdict.decision]),
            f"  policy {printable(verdict.policy)}: {total - counts['missing']} of {total} probes measured,"
            f" {counts['inverted']} inverted, {counts['confirmed']} confirmed",
        )
    )
    for line in _found(data):
        console.print(f"  {printable(line)}", markup=False)
    for line in _remarks(verdict, data, folder):
        console.print(f"  {line}", markup=False)
    if folder:
        console.print(f"  report: {printable(folder)}/report.html", markup=False)
    if published:
        console.print(f"  logged: {printable(published)}", markup=False)


def _found(data: RunData) -> Iterator[str]:
    """What a reader who knows nothing of the gate is told; then findings of the whole run, then a line an image."""
    from invmm_gate.report.cleaned import cleaned_findings, cleaner
    from invmm_gate.report.headline import headline
    from invmm_gate.report.image_rows import image_rows, row_line

    clean = cleaner(data, reveal=False)
    findings = cleaned_findings(data, clean)
    rows = image_rows(data, findings, clean)
    yield from headline(data, rows)
    of_run = [finding for finding in findings if finding.probe is None]
    lines = [f"[{'waived' if each.waiver else each.effect}] {each.rule}: {each.message}" for each in of_run]
    lines += [f"[{'found' if row.state == 'none' else row.state}] {row_line(row)}" for row in rows]
    yield from lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        yield f"and {len(lines) - _MOST_LINES:,} more in the report"
    if data.verdict and not data.verdict.findings:
        yield "no findings"


def _remarks(verdict: Verdict, data: RunData, folder: str) -> Iterator[str]:
    """What a reader needs beside the findings."""
    from invmm_gate.policy.evidence import has_labels
    from invmm_gate.report.reach import reach_lines
    from invmm_gate.report.studied import studied

    yield from reach_lines(verdict, studied(data.run.inputs), labels=has_labels(data.run))
    if verdict.tested.seed_chosen:
        yield f"seed {verdict.tested.seed} is not the one that model, probe set and policy give"
    if verdict.weaknesses:
        where = "the report" if folder else "`invmm-gate policy lint`"
        yield f"the policy is weaker than strict in {_settings(verdict)}; {where} lists them"


def _settings(verdict: Verdict) -> str:
    count = len(verdict.weaknesses)
    return f"{count} setting{'s' if count > 1 else ''}"


def summary(folder: Path, verdict: Verdict, data: RunData) -> dict[str, object]:
    """The output of `--json` for a judged run."""
    from invmm_gate.report.cleaned import cleaned_findings, cleaner
    from invmm_gate.report.headline import headline
    from invmm_gate.report.image_rows import image_rows

    clean = cleaner(data, reveal=False)
    rows = image_rows(data, cleaned_findings(data, clean), clean)
    return {
        "headline": list(headline(data, rows)),
        "images": list(map(asdict, rows)),
        "decision": verdict.decision,
        "exit_code": verdict.exit_code,
        "reasons": list(verdict.reasons),
        "counts": verdict.counts,
        "weaknesses": list(verdict.weaknesses),
        "extractable": None if verdict.extractable is None else asdict(verdict.extractable),
        "power": asdict(verdict.power),
        "base_rate": None if verdict.base_rate is None else asdict(verdict.base_rate),
        "run": str(folder),
        "report": str(folder / "report.html"),
    }


def as_json(value: dict[str, object]) -> None:
    """One JSON object on stdout."""
    json.dump(value, sys.stdout, allow_nan=False, indent=2, default=str)
    sys.stdout.write("\n")
