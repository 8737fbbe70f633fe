"""What the self-checks of the model say about good models and about broken ones.

    python benchmarks/zoo/train.py --out DIR
    python benchmarks/self_checks.py good --models DIR [--other FOLDER ..]
    python benchmarks/self_checks.py broken --models DIR

`good` looks at every trained model: those of the zoo in DIR, the examples' own and each FOLDER. `broken` makes copies
of models with each fault (benchmarks/zoo/faults.py), some that were looked at while the checks were made, and others. A
model that is not trained yet is left out and named. Each line is one model through the gate's own session: its probe
set, its sampler, its size.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from invmm_gate.core.errors import GateError
from invmm_gate.core.options import NewProbes, Options
from invmm_gate.core.records import SelfCheck
from invmm_gate.policy.coverage import POSITIVE_CONTROL
from invmm_gate.probes.edit import add_probes, init_probe_set
from invmm_gate.stages.preflight import prepare
from invmm_gate.stages.self_checks import CHECKS, run_check
from invmm_gate.stages.session import open_session

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "zoo"))

from faults import FAULTS, Fault, changes_nothing, spoilt  # noqa: E402
from pictures import CONTROLS, FEW, PLANTED, pictures  # noqa: E402
from recipes import BY_NAME, CONVENTIONS, GOOD  # noqa: E402

EXAMPLES: Final = {
    "demo memorizing": ROOT / "examples/demo/models/memorizing",
    "demo clean": ROOT / "examples/demo/models/clean",
    "text to image": ROOT / "examples/text_to_image/model",
}
ADDED_ON: Final = datetime.date(2026, 11, 28)
Look = Callable[[str, Path], list[SelfCheck]]
"""The self-checks of a model folder that knows a kind of pictures."""
SHOWN: Final = tuple(name for name in CHECKS if name != POSITIVE_CONTROL)


def write_probes(kind: str, folder: Path, controls: int) -> Path:
    """The probe set of a kind of pictures: controls, half as many planted ones, and as many of the few."""
    if kind == "text":
        script = ROOT / "examples/text_to_image/probe_set.py"
        subprocess.run([sys.executable, str(script), str(folder), "--each", "4"], check=True, stdout=subprocess.DEVNULL)
        return folder
    init_probe_set(folder)
    half = controls // 2
    members = (("duplicated", PLANTED[:half]), ("sensitive", FEW[:half]), ("control", CONTROLS[:controls]))
    with tempfile.TemporaryDirectory() as scratch:
        for group, numbers in members:
            paths = [Path(scratch) / f"{group}-{number}.png" for number in numbers]
            for path, image in zip(paths, pictures(kind, numbers), strict=True):
                pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(path)
            add_probes(
                folder, paths, NewProbes(group=group, source="benchmarks/zoo", licence="Apache-2.0", added_on=ADDED_ON)
            )
    return folder


def checks_of(policy: str, model: Path, probes: Path) -> list[SelfCheck]:
    """The self-checks of one model, as `check` makes them. Raises GateError for what is refused."""
    session = open_session(prepare(Options(model=model, policy=policy, probes=probes)))
    return [run_check(session, name) for name in SHOWN]


def line(name: str, made: Callable[[], list[SelfCheck]]) -> bool:
    """Print one row; whether the model got past all checks."""
    began = time.process_time()
    try:
        checks = made()
    except GateError as error:
        print(f"| {name} | refused: {str(error)[:90]} |" + " |" * (len(SHOWN)), flush=True)
        return False
    values = " | ".join(f"{_number(check.value)}{'' if check.passed else ' **stopped**'}" for check in checks)
    passed = all(check.passed for check in checks)
    print(f"| {name} | {'past' if passed else 'stopped'} | {values} | {time.process_time() - began:.1f} |", flush=True)
    for check in checks:
        if not check.passed:
            print(f"<!-- {name}: {check.detail[:200]} -->", flush=True)
    return passed


def _number(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.2f}"


def header() -> None:
    print(f"| model | | {' | '.join(SHOWN)} | CPU s |")
    print("|---|---|" + "--:|" * (len(SHOWN) + 1))


def kind_of(name: str) -> str:
    """The kind of pictures that a model of the zoo knows; the demo's shapes for other folders."""
    if name in BY_NAME:
        return BY_NAME[name].pictures
    return "text" if name in ("text to image", EXAMPLES["text to image"].name) else "shapes"


def good(models: Path, others: list[Path], look: Look) -> None:
    """Every good model must get past; those whose trainer read its pictures otherwise must not."""
    header()
    folders = {recipe.name: models / recipe.name for recipe in GOOD} | EXAMPLES | {path.name: path for path in others}
    passed = [_looked_at(name, folder, look) for name, folder in folders.items() if folder.exists()]
    conventions = [recipe.name for recipe in CONVENTIONS if (models / recipe.name).exists()]
    stopped = [not _looked_at(name, models / name, look) for name in conventions]
    missing = [name for name in BY_NAME if not (models / name).exists()]
    print(f"\n{sum(passed)} of {len(passed)} good models get past; {sum(stopped)} of {len(stopped)} that read their")
    print(f"pictures otherwise are stopped. Not trained yet: {', '.join(missing) or 'none'}")


def _looked_at(name: str, folder: Path, look: Look) -> bool:
    split = f" ({BY_NAME[name].split})" if name in BY_NAME else ""
    return line(name + split, partial(look, kind_of(name), folder))


def broken(models: Path, look: Look) -> None:
    """Every fault in each of its models must be stopped."""
    header()
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for fault, base in [(each, base) for each in FAULTS for base in each.bases]:
            folder = EXAMPLES.get(base, models / base)
            name, place = f"{fault.name}: {base}", Path(scratch) / "model"
            if folder.exists() and not changes_nothing(fault, folder, place):
                results[name] = not line(name, partial(_spoilt_checks, look, fault, folder, place))
    missed = [name for name, stopped in results.items() if not stopped]
    print(f"\n{len(results) - len(missed)} of {len(results)} broken models are stopped. Missed:")
    print(", ".join(missed) or "none")


def _spoilt_checks(look: Look, fault: Fault, model: Path, place: Path) -> list[SelfCheck]:
    return look(kind_of(model.name), spoilt(fault, model, place))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["good", "broken"])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--other", nargs="*", type=Path, default=[], help="other models of the demo's pictures")
    parser.add_argument("--policy", default="strict")
    parser.add_argument("--controls", type=int, default=16, help="of the zoo's pictures and the demo's; at most 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made: dict[str, Path] = {}

        def probes(kind: str) -> Path:
            if kind not in made:
                made[kind] = write_probes(kind, Path(scratch) / kind, options.controls)
            return made[kind]

        def look(kind: str, model: Path) -> list[SelfCheck]:
            return checks_of(options.policy, model, probes(kind))

        if options.which == "good":
            good(options.models, options.other, look)
        else:
            broken(options.models, look)


if __name__ == "__main__":
    main()
