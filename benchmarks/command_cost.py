"""CPU seconds of the commands that need no model, and which heavy packages each of them imports.

    python benchmarks/command_cost.py [--repeats 3]

Each command runs in a process of its own, with .pyc files, on a run of the demo's clean model under a policy that
measures next to nothing: one warm-up, then the median of the repeats. Prints a Markdown table; ends with 1 if a command
ends with another code than 0.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Final

from walks import COMMANDS, ROOT, in_a_world

HEAVY: Final = ("torch", "diffusers", "mlflow", "great_expectations", "pandas", "scipy", "numpy.f2py", "numpy")
PROGRAM: Final = """
import json, sys
from invmm_gate.cli import run
code = run(json.loads(sys.argv[1]))
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]), file=sys.stderr)
sys.exit(code)
"""
LIGHT: Final = {
    "--help": ("--help",),
    "policy lint": ("policy", "lint", "strict"),
    "probes validate": ("probes", "validate", "probes"),
    "judge": COMMANDS["judge"],
    "verdict": ("verdict", "run"),
    "report": ("report", "run"),
    "sign": COMMANDS["sign"],
    "verify": COMMANDS["verify"],
}


def seconds_and_packages(arguments: tuple[str, ...], folder: Path) -> tuple[float, list[str]]:
    """Of one process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", PROGRAM, json.dumps(arguments), json.dumps(HEAVY)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, json.loads(done.stderr.splitlines()[-1])


def show_costs(folder: Path, repeats: int) -> None:
    print("| command | CPU s | imports |\n|---|--:|---|")
    seconds_and_packages(COMMANDS["check"], folder)
    for command, arguments in LIGHT.items():
        _, packages = seconds_and_packages(arguments, folder)
        spent = [seconds_and_packages(arguments, folder)[0] for _ in range(repeats)]
        print(f"| {command} | {median(spent):.2f} | {', '.join(packages) or 'none of them'} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    in_a_world(lambda folder: show_costs(folder, repeats))


if __name__ == "__main__":
    main()
