"""The gate at a model registry, all of it real and on this machine: `python examples/registry/run.py [--fast]`.

Starts an MLflow server behind the guard and the receiver of its webhooks. Then: a memorizing checkpoint is registered
and the receiver is killed while it is being gated; a clean checkpoint is registered while nobody listens, so that its
webhook is lost; a protected alias and a verdict tag are set by hand. In the end every version has a verdict, only the
clean one is released, and what was released verifies. Ends with 0 if all of that came true, else with 1.

`--fast` measures next to nothing of a few probes and only draws plain samples, for tests. It needs the extra `server`.
"""

import argparse
import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from invmm_gate.attest.demands import demands_named
from invmm_gate.attest.keys import new_key_pair
from invmm_gate.cli import run as run_command
from invmm_gate.core.errors import RegistryError
from invmm_gate.core.options import Conditions
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import DECISIONS, PENDING, STATE, VERDICT
from invmm_gate.registry.promote.choices import utc_now
from invmm_gate.stages.sign import verify_model

DEMO: Final = Path(__file__).resolve().parents[1] / "demo"
sys.path.insert(0, str(DEMO))
from probe_set import write_probe_set  # noqa: E402  (the demo's own images)

CONSOLE: Final = Console(soft_wrap=True, highlight=False)
MODEL: Final = "birds"
FAST: Final = """\
name: fast
version: 1
measure:
  profile: gate
  settings: {steps: 2, test_every: 2, batch_size: 1, sampler_steps: 10, test_samples: 2, learning_rate: 0.5}
metric: [{name: pixel_rmse, threshold: 0.1}]
confirm: {plain_sampling: {trials: 32, sampler_steps: 10, confidence: 0.95, probes: all}}
rules: [{rule: confirmed, rate_limit: 0.0}]
coverage: {min_probes: 1, min_controls: 2}
"""
"""Enough to tell the demo's two models apart, and no more."""


@dataclass(frozen=True)
class Place:
    """Where everything lies, and which ports are used."""

    folder: Path
    policy: str
    registry_port: int
    receiver_port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.registry_port}"

    @property
    def hook(self) -> str:
        return f"http://127.0.0.1:{self.receiver_port}"

    @property
    def gating(self) -> tuple[str, ...]:
        """How versions are gated, whoever does it."""
        paths = ("--probes", str(self.folder / "probes"), "--key", str(self.folder / "gate.key"))
        return ("--tracking-uri", self.uri, "--policy", self.policy, *paths, "--state", str(self.folder / "state"))


def set_up(folder: Path, *, fast: bool) -> Place:
    """Models, probe set, signing key, webhook secret and policy, as a user would have them."""
    write_probe_set(folder / "probes", at_most=2 if fast else 16)
    new_key_pair(folder / "gate")
    policy = folder / "fast.yaml"
    policy.write_text(FAST)
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    for kind in ("memorizing", "clean"):
        shutil.copytree(DEMO / "models" / kind, folder / "models" / kind)
    return Place(folder, str(policy) if fast else "strict", free_port(), free_port())


@contextmanager
def process(name: str, *arguments: str, place: Place, ready: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of the gate as a process of its own, once it answers; ended when the block is left, however it is."""
    log = place.folder / f"{name}.log"
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",  # a receiver on this machine, without TLS
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2))),
    }
    command = [sys.executable, "-m", "invmm_gate", "registry", *arguments]
    with log.open("ab") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until(lambda: answers(ready) or gone(started, log), f"{name} to answer", seconds=300)
        yield started
    finally:
        end(started)


def end(started: "subprocess.Popen[bytes]") -> None:
    """A normal stop, which lets the process end what it has started; by force if it does not come to an end."""
    if started.poll() is None:
        started.terminate()
    try:
        started.wait(60)
    except subprocess.TimeoutExpired:
        crash(started)


def crash(started: "subprocess.Popen[bytes]") -> None:
    """As when the machine fails: the process and all that it has started are gone at once."""
    for pid in (started.pid, *descendants(started.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    started.wait()


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and those they have started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    found = [pid]
    for known in found:
        found.extend(child for child, parent in parents.items() if parent == known)
    return found[1:]


def guard(place: Place) -> tuple[str, ...]:
    """The MLflow server behind the guard."""
    stores = ("--backend-store-uri", f"sqlite:///{place.folder}/mlflow.db")
    stores += ("--artifacts-destination", str(place.folder / "artifacts"))
    where = ("--host", "127.0.0.1", "--port", str(place.registry_port), "--workers", "1")
    return ("guard", "--roots", str(place.folder / "gate.pub"), "--policy", place.policy, "--", *where, *stores)


def receiver(place: Place) -> tuple[str, ...]:
    """The receiver of its webhooks, which also looks by itself every few seconds."""
    secret = ("--secret-file", str(place.folder / "secret"))
    return ("serve", *place.gating, *secret, "--port", str(place.receiver_port), "--every", "5")


def register(place: Place, kind: str) -> None:
    """A checkpoint as a version that waits for its verdict; the receiver, if there is one, hears of it."""
    model = str(place.folder / "models" / kind)
    code = run_command(["register", "--model", model, "--name", MODEL, *place.gating, "--no-gate", "--quiet"])
    if code:
        sys.exit(f"registering the {kind} checkpoint ended with {code}")


def story(place: Place, *, patience: float) -> Registry:
    """What happens, in order."""
    registry = Registry(place.uri)
    with process("receiver", *receiver(place), place=place, ready=f"{place.hook}/health") as first:
        hook = ("--receiver-url", f"{place.hook}/hook", "--create-webhook")
        run_command(
            ["registry", "doctor", "--tracking-uri", place.uri, *hook, "--secret-file", str(place.folder / "secret")]
        )
        say("registering the memorizing checkpoint; its webhook reaches the receiver")
        register(place, "memorizing")
        wait_until(lambda: state(registry, "1") not in ("", PENDING), "the receiver to begin", seconds=patience)
        say("killing the receiver, and the gate that it has started, in the middle")
        crash(first)
    say("registering the clean checkpoint; nobody listens, its webhook is lost")
    register(place, "clean")
    say("starting the receiver again")
    with process("receiver", *receiver(place), place=place, ready=f"{place.hook}/health"):
        wait_until(
            lambda: all(state(registry, version) in DECISIONS for version in ("1", "2")),
            "two verdicts",
            seconds=patience,
        )
        wait_until(
            lambda: "champion" in registry.aliases(f"{MODEL}-release") or state(registry, "2") != "pass",
            "the release",
            seconds=patience,
        )
    return registry


def state(registry: Registry, version: str) -> str:
    record = registry.version(MODEL, version)
    return record.tags.get(STATE, "") if record else ""


def refusals(registry: Registry) -> list[str]:
    """What the guard answers to somebody who helps the blocked version along by hand; empty answers went through."""
    attempts: tuple[tuple[str, Callable[[], None]], ...] = (
        (f"alias champion -> {MODEL}/1", lambda: registry.set_alias(MODEL, "champion", "1")),
        (f"tag {VERDICT}=pass on {MODEL}/1", lambda: registry.set_tags(MODEL, "1", {VERDICT: "pass"})),
    )
    answers_given = []
    for what, attempt in attempts:
        try:
            attempt()
            answers_given.append("")
            say(f"[red]{what}: let through[/]")
        except RegistryError as error:
            answers_given.append(str(error))
            say(f"{what}: {str(error)[str(error).find('PERMISSION_DENIED') :][:150]}")
    return answers_given


def verified(place: Place, registry: Registry) -> str:
    """What a deploy job does: resolve the alias, download, verify the bytes. The line that says so."""
    record = registry.alias(f"{MODEL}-release", "champion")
    if record is None:
        return ""
    files = place.folder / "served"
    checkpoint = registry.fetch(record.source, files)
    roots = place.folder / "gate.pub"
    demands = demands_named(Conditions(), policies=[place.policy], roots=roots)
    said = verify_model(checkpoint, files / "attestation.json", demands, now=utc_now())
    return f"{record.label}: {said.decision}, digest {said.subject_digest[:12]}, signed {said.issued_at:%Y-%m-%d %H:%M}"


def table(registry: Registry) -> Table:
    shown = Table("version", "state", "verdict", "aliases", title="every version in the registry")
    for record in sorted(registry.versions(), key=lambda item: (item.name, int(item.version))):
        tags = record.tags
        shown.add_row(record.label, tags.get(STATE, "-"), tags.get(VERDICT, "-"), ", ".join(record.aliases) or "-")
    return shown


def as_expected(registry: Registry, answers_given: list[str], line: str) -> bool:
    aliases = registry.aliases(f"{MODEL}-release")
    return (
        (state(registry, "1"), state(registry, "2")) == ("block", "pass")
        and aliases.keys() >= {"champion"}
        and not registry.aliases(MODEL)
        and all("PERMISSION_DENIED" in answer for answer in answers_given)
        and bool(line)
    )


def wait_until(happened: Callable[[], object], what: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > until:
            sys.exit(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.3)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def gone(started: "subprocess.Popen[bytes]", log: Path) -> bool:
    if started.poll() is None:
        return False
    sys.exit(f"a process ended with {started.returncode}: {log.read_text(errors='replace')[-1000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def say(text: str) -> None:
    CONSOLE.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a policy that measures next to nothing")
    parser.add_argument("--folder", type=Path, help="an empty folder to keep everything in; default: a temporary one")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    with tempfile.TemporaryDirectory(prefix="invmm-gate-registry-") as scratch:
        folder = (chosen.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        place = set_up(folder, fast=chosen.fast)
        say(f"starting an MLflow server with the guard on {place.uri}; logs in {folder}")
        with process("registry", *guard(place), place=place, ready=f"{place.uri}/health"):
            registry = story(place, patience=900 if chosen.fast else 7200)
            answers_given = refusals(registry)
            line = verified(place, registry)
            say(f"verified as a deploy job would: {line or 'nothing was released'}")
            CONSOLE.print(table(registry))
            well = as_expected(registry, answers_given, line)
    CONSOLE.print("[green]as expected[/]" if well else "[red]not as expected[/]")
    return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
