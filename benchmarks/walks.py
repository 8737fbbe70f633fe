"""How far one has to walk to follow a command: the files and functions of invmm_gate that it runs through.

    python benchmarks/walks.py [--files] [WALK ..]

Each walk is one command in a process of its own, on the demo's clean checkpoint under a policy that measures next to
nothing. Files and functions are those in which a call was begun, in any thread; importing a module is no call, nor is
what an import runs, such as the bodies of classes. With --files the files are listed in the order in which the command
reaches them. Then the size of each package: files, lines, the median module. Lines are those that git tracks, blank
ones and comments too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "invmm_gate"
DEMO: Final = ROOT / "examples" / "demo"
POLICY: Final = """\
name: next-to-nothing
version: 1
measure:
  profile: gate
  settings: {steps: 2, test_every: 2, batch_size: 1, sampler_steps: 10, test_samples: 2, learning_rate: 0.5}
metric: [{name: pixel_rmse, threshold: 0.1}]
confirm: {plain_sampling: {trials: 16, sampler_steps: 10, confidence: 0.95, probes: all}}
rules: [{rule: confirmed, rate_limit: 0.0}]
coverage: {min_probes: 1, min_controls: 16}
"""
MODEL: Final = str(DEMO / "models" / "clean")
REGISTRY: Final = ("--tracking-uri", "sqlite:///registry.db")
COMMANDS: Final = {
    "check": ("check", "--model", MODEL, "--probes", "probes", "--policy", "policy.yaml", "--out", "run"),
    "judge": ("judge", "run", "--policy", "policy.yaml"),
    "sign": ("sign", "run", "--policy", "policy.yaml", "--key", "gate.key"),
    "verify": (
        "verify", "--model", MODEL, "--attestation", "run/attestation.json", "--policy", "policy.yaml",
        "--roots", "gate.pub",
    ),
    "register": (
        "register", "--model", MODEL, "--name", "birds", "--policy", "policy.yaml", "--probes", "probes",
        "--key", "gate.key", *REGISTRY,
    ),
}  # fmt: skip
"""In this order: each needs what the one before it left."""


def walked(arguments: list[str]) -> list[tuple[str, str]]:
    """(file, function) of every call in this process while the command runs, in the order of the first calls."""
    seen: dict[tuple[str, str], None] = {}
    prefix = str(PACKAGE) + os.sep

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(prefix):
            call = (code.co_filename.removeprefix(prefix), f"{code.co_qualname}:{code.co_firstlineno}")
            if call not in seen and not of_an_import(frame):
                seen[call] = None

    from invmm_gate.cli import run

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        exit_code = run(arguments)
    finally:
        sys.setprofile(None)
    if exit_code:
        sys.exit(f"it ended with {exit_code}, so that the walk is not the whole one")
    return list(seen)


def of_an_import(frame: FrameType | None) -> bool:
    """Whether a module is being imported, in this frame or further up."""
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame is not None and frame.f_globals["__name__"] != "__main__"


def walk(name: str, folder: Path) -> tuple[list[str], int]:
    """Files, in order, and the number of functions of one command, run in a process of its own in `folder`."""
    found = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--walk-into", str(found), "--", *COMMANDS[name]]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if not found.exists():
        sys.exit(f"{name} broke: {ended.stderr.strip()[-500:]}")
    calls = json.loads(found.read_text())
    return list(dict.fromkeys(file for file, _ in calls)), len(calls)


def sizes() -> list[tuple[str, int, int, int]]:
    """(package, files, lines, lines of the median module), largest first."""
    names = subprocess.run(
        ["git", "ls-files", "invmm_gate"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    lines: dict[str, list[int]] = {}
    for path in (Path(name) for name in names if name.endswith(".py")):
        package = path.parts[1] if len(path.parts) > 2 else "(top)"
        lines.setdefault(package, []).append(len((ROOT / path).read_text().splitlines()))
    rows = [(name, len(each), sum(each), int(statistics.median(each))) for name, each in lines.items()]
    every = [count for each in lines.values() for count in each]
    return [*sorted(rows, key=lambda row: -row[2]), ("all", len(every), sum(every), int(statistics.median(every)))]


def in_a_world(show: Callable[[Path], None]) -> None:
    """Runs in a new folder with the demo's probes, the policy and a key."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "policy.yaml").write_text(POLICY)
        subprocess.run([sys.executable, str(DEMO / "probe_set.py"), str(folder / "probes")], check=True)
        gate = [sys.executable, "-m", "invmm_gate"]
        subprocess.run([*gate, "keys", "new", "gate"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        show(folder)


def show_walks(names: list[str], folder: Path, *, listed: bool) -> None:
    print("| walk | files | functions |\n|---|--:|--:|")
    found = {}
    last = max(list(COMMANDS).index(name) for name in names)
    for name in list(COMMANDS)[: last + 1]:  # each builds on those before it
        found[name], functions = walk(name, folder)
        if name in names:
            print(f"| {name} | {len(found[name])} | {functions} |", flush=True)
    for name in names if listed else ():
        print(f"\n{name}:", *found[name], sep="\n  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("walks", nargs="*", help=f"of {', '.join(COMMANDS)}; all by default")
    parser.add_argument("--files", action="store_true", help="list the files of each walk, in order")
    options = parser.parse_args()
    if options.walk_into:
        options.walk_into.write_text(json.dumps(walked(options.walks)))
        return
    in_a_world(lambda folder: show_walks(options.walks or list(COMMANDS), folder, listed=options.files))
    print("\n| package | files | lines | median module |\n|---|--:|--:|--:|")
    for package, files, lines, median in sizes():
        print(f"| {package} | {files} | {lines:,} | {median} |")


if __name__ == "__main__":
    main()
