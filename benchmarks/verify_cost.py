"""What `verify` costs beside hashing: wall and CPU seconds of the whole command on a 1 GiB checkpoint.

    python benchmarks/verify_cost.py --repeats 5

The demo's checkpoint with one more tensor of random bytes in its weights, so that inspection reads a real header and a
real configuration; a judged run of it is made by hand and signed. Before each `verify`, in a process of its own as a
deploy job starts it, the same files are hashed by hashlib alone in this process. Files lie in the page cache: a disk
adds to both alike. Prints a Markdown table; ends with 1 if a verification fails.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "demo" / "models" / "memorizing"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CHUNK = 2**20


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def widen(path: Path, size: int) -> None:
    """Make a safetensors file about `size` bytes long with a tensor of random bytes at its end."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    added = (size - len(content)) // CHUNK * CHUNK
    header["padding"] = {"dtype": "F32", "shape": [added // 4], "data_offsets": [len(data), len(data) + added]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
        for _ in range(added // CHUNK):
            file.write(os.urandom(CHUNK))


def signed_run(folder: Path, model: Path) -> list[str]:
    """The arguments of `verify` for a run of this model that was judged and signed."""
    sys.path.insert(0, str(ROOT))
    from invmm_gate.attest.keys import new_key_pair
    from invmm_gate.core.options import Signing
    from invmm_gate.stages.sign import sign_run
    from tests.stages.judged_run import judged_run

    pair = new_key_pair(folder / "gate")
    judged_run(folder / "run", model)
    attestation = sign_run(folder / "run", Signing(key=pair.private), now=datetime.datetime.now(datetime.UTC))
    named = {"--model": model, "--attestation": attestation, "--policy": "strict", "--roots": pair.public}
    return [str(word) for option in named.items() for word in option]


def cost(work: Callable[[], object], who: int) -> Cost:
    """Of this process or of its children, as `who` says."""
    before, began = resource.getrusage(who), time.perf_counter()
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(who)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def hash_all(model: Path) -> None:
    for path in sorted(model.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                file_digest(file, "sha256")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = shutil.copytree(MODEL, Path(name) / "model")
        widen(model / WEIGHTS, options.mib * 2**20)
        command = [sys.executable, "-m", "invmm_gate", "verify", *signed_run(Path(name), model)]
        size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        print(f"{size:,} bytes, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start.\n")
        print("| | hashing alone, wall s | CPU s | verify, wall s | CPU s | beside hashing, wall s | CPU s |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        rows = []
        for number in range(options.repeats + 1):
            hashing = cost(lambda: hash_all(model), resource.RUSAGE_SELF)
            verifying = cost(
                lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), resource.RUSAGE_CHILDREN
            )
            if number:  # the first one warms the page cache
                rows.append((hashing, verifying, verifying - hashing))
                line("", rows[-1])
        columns = zip(*rows, strict=True)
        line("median", [Cost(median(c.wall for c in column), median(c.cpu for c in column)) for column in columns])
    return 0


def line(name: str, costs: tuple[Cost, ...] | list[Cost]) -> None:
    print(f"| {name} | " + " | ".join(f"{c.wall:.2f} | {c.cpu:.2f}" for c in costs) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
