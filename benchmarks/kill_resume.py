"""Kills a real check at random moments, goes on with the same command, and compares the records byte by byte.

    python benchmarks/kill_resume.py --kills 20

One undisturbed check of the demo's memorizing checkpoint first; then, for each kill, a check in a folder of its own
that gets SIGKILL at a random moment and is given again until it ends. The kills are spread over a check's records, not
over its time, so that they fall into all of its stages on a busy machine too. Checks run in forked children of one
process that has imported everything, so that a kill costs the check alone. Prints a
Markdown table; ends with 1 if any byte differs.
"""

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork after OpenMP has started threads may hang

import yaml

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "demo" / "models" / "memorizing"
COMPARED = (
    *("measurements.jsonl", "confirmations.jsonl", "likelihoods.jsonl"),
    *("self_checks.jsonl", "verdict.json", "summary.md"),
)
WARM = (
    *("diffusers.models.unets.unet_2d", "diffusers.pipelines.ddpm.pipeline_ddpm"),
    *("invmm_gate.cli.app", "invmm_gate.stages.check", "invmm_gate.stages.measure", "invmm_gate.stages.confirm"),
)


@dataclass(frozen=True)
class Kill:
    """One check that was killed and given again."""

    number: int
    after: float
    """Seconds from the start of the check to the kill."""
    measured: int
    confirmed: int
    """Records on disk at the kill."""
    leftovers: int
    """Temporary files at the kill."""
    leftovers_at_end: int
    different: tuple[str, ...]
    """Files whose bytes differ from those of the undisturbed check."""


def set_up(folder: Path, *, steps: int, probes: int, trials: int) -> None:
    """The probe set and the policy of all checks."""
    sys.path.insert(0, str(ROOT / "examples" / "demo"))
    from datetime import date

    draw = importlib.import_module("draw").draw
    from invmm_gate.core.options import NewProbes
    from invmm_gate.probes.edit import add_probes, init_probe_set

    init_probe_set(folder / "probes")
    for number, group in [
        *((n, "duplicated") for n in range(1, probes - 1)),
        (100_000, "control"),
        (100_001, "control"),
    ]:
        draw(number).save(folder / f"p{number}.png")
        add_probes(folder / "probes", [folder / f"p{number}.png"], NewProbes(group=group, added_on=date(2026, 11, 21)))
    small = {"steps": steps, "test_every": 10, "batch_size": 2, "learning_rate": 0.1, "sampler_steps": 10}
    small |= {"test_samples": 4, "certified_share": 0.5}
    policy = {
        "name": "small",
        "version": 1,
        "measure": {"profile": "gate", "settings": small},
        "metric": [{"name": "pixel_rmse", "threshold": 0.1}],
        "confirm": {"plain_sampling": {"trials": trials, "sampler_steps": 5}},
        "rules": [{"rule": "invmm_below", "threshold": 0.5}, {"rule": "confirmed"}],
        "coverage": {"min_controls": 2},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))


def start(folder: Path, out: Path) -> int:
    """`check` in a forked child; its process id."""
    command = ["check", "--model", MODEL, "--policy", folder / "policy.yaml", "--probes", folder / "probes"]
    child = os.fork()
    if child:
        return child
    with (folder / "log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        from invmm_gate.cli import run

        code = run([*map(str, command), "--out", str(out), "--rows", "4", "--no-track"])
        sys.stdout.flush()
        os._exit(code)


def finish(folder: Path, out: Path) -> float:
    """A check from where it stands to its end; its seconds."""
    began = time.monotonic()
    _, status = os.waitpid(start(folder, out), 0)
    if os.waitstatus_to_exitcode(status) not in (0, 10, 11):
        sys.exit(f"a check ended with {os.waitstatus_to_exitcode(status)}: {(folder / 'log').read_text()[-500:]}")
    return time.monotonic() - began


def is_killed(folder: Path, out: Path, done: int, after: float) -> float | None:
    """The check is killed so many seconds after it has written `done` records: its seconds; None if it ended before."""
    began, child = time.monotonic(), start(folder, out)
    while records(out) < done:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        time.sleep(0.005)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return time.monotonic() - began if os.WIFSIGNALED(status) else None


def records(out: Path) -> int:
    return sum(lines(out / name) for name in COMPARED if name.endswith(".jsonl"))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def leftovers(out: Path) -> int:
    return len(list(out.rglob("*.tmp")))


def kill(folder: Path, number: int, done: int, after: float) -> Kill | None:
    """None where the check had ended before."""
    out, undisturbed = folder / f"killed-{number}", folder / "undisturbed"
    seconds = is_killed(folder, out, done, after)
    if seconds is None:
        return None
    measured, confirmed = lines(out / "measurements.jsonl"), lines(out / "confirmations.jsonl")
    left = leftovers(out)
    finish(folder, out)
    different = [name for name in COMPARED if (out / name).read_bytes() != (undisturbed / name).read_bytes()]
    return Kill(
        number=number,
        after=round(seconds, 2),
        measured=measured,
        confirmed=confirmed,
        leftovers=left,
        leftovers_at_end=leftovers(out),
        different=tuple(different),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=60, help="optimisation steps for each probe")
    parser.add_argument("--probes", type=int, default=8, help="two of them controls")
    parser.add_argument("--trials", type=int, default=64, help="samples for each probe in each way of confirming")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in WARM:
        importlib.import_module(name)
    moments = random.Random(options.seed)
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        set_up(folder, steps=options.steps, probes=options.probes, trials=options.trials)
        seconds = finish(folder, folder / "undisturbed")
        tried, written = 0, records(folder / "undisturbed")
        while len(kills) < options.kills:
            tried += 1
            done, part = divmod((len(kills) + moments.random()) / options.kills * written, 1)
            found = kill(folder, tried, int(done), part * seconds / written)
            kills += [found] if found else []
    if options.json:
        print(json.dumps({"seconds": seconds, "kills": [asdict(found) for found in kills]}))
    else:
        show(kills, seconds, options.probes)
    return 1 if any(found.different or found.leftovers_at_end for found in kills) else 0


def show(kills: list[Kill], seconds: float, probes: int) -> None:
    print(f"An undisturbed check of {probes} probes takes {seconds:.1f} s.\n")
    print("| kill | after | probes measured | confirmed | temporary files | records after going on |")
    print("|---|---|---|---|---|---|")
    for number, found in enumerate(kills, start=1):
        result = f"differ: {', '.join(found.different)}" if found.different else "byte-identical"
        print(
            f"| {number} | {found.after:.2f} s | {found.measured} of {probes} | {found.confirmed} |"
            f" {found.leftovers}, at the end {found.leftovers_at_end} | {result} |"
        )


if __name__ == "__main__":
    sys.exit(main())
