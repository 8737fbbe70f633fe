"""How versions are gated, checked before anything is asked of the registry."""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.attest.audit_log import AUDIT_LOG
from invmm_gate.attest.keys import TrustRoots, load_roots, load_signing_key
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Weights
from invmm_gate.core.version import __version__
from invmm_gate.policy.schema import load_policy
from invmm_gate.probes.manifest import probe_set_digest, read_manifest
from invmm_gate.registry.client.names import ALIAS_PATTERN, release_name
from invmm_gate.registry.promote.conditions import Conditions
from invmm_gate.registry.promote.outbox import Outbox
from invmm_gate.runs.copies import Circumstances
from invmm_gate.runs.installed import require_environment
from invmm_gate.stages.audit_file import require_sound
from invmm_gate.stages.check import Finish
from invmm_gate.stages.judge import circumstances
from invmm_gate.stages.preflight import Options
from invmm_gate.stages.public_edition import shared_key

Clock = Callable[[], datetime.datetime]
"""Asked again where hours may have passed, as between a measurement and its signature."""


def utc_now() -> datetime.datetime:
    """The system's clock, aware."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChoices:
    """How versions are gated and what becomes of those that pass."""

    policy: str
    probes: Path
    key: Path | None = None
    """Signs the verdict; without it nothing is promoted."""
    roots: Path | None = None
    """Trust roots that the key belongs to; by default the .pub file beside the key."""
    seed: int | None = None
    """None = the one that the digests of each model, the probe set and the policy give."""
    device: str = "auto"
    rows: int | None = None
    sscd: Path | None = None
    waivers: Path | None = None
    baseline: Path | None = None
    weights: Weights | None = None
    conditions: Conditions = Conditions()  # noqa: RUF009  (frozen)
    """What is asked of a verdict that is there already, before it is relied on, and before anything is promoted."""
    alias: str = "champion"
    """The alias that moves to a version that passed; empty = nothing is promoted."""
    release_name: str | None = None
    """The model that versions which pass are released as; by default `<name>-release`."""
    details: bool = False
    """Whether MLflow is told ids and exact scores."""
    runs: Path = Path(".invmm-gate/runs")
    """Folder of the run folders; the outbox lies beside it."""
    command: str = ""

    @property
    def outbox(self) -> Outbox:
        """What could not be sent yet."""
        return Outbox(self.runs.parent / "outbox")

    @property
    def log(self) -> Path:
        """The audit log: every verdict that was signed here."""
        return self.runs.parent / AUDIT_LOG

    @property
    def finish(self) -> Finish:
        """What `check` does after measuring; MLflow is told later, by the outbox."""
        return Finish(waivers=self.waivers, reviewers=self.conditions.reviewers, baseline=self.baseline, track=False)

    def circumstances(self, *, today: datetime.date) -> Circumstances:
        """Waivers and baseline, read. Raises GateError."""
        return circumstances(self.waivers, self.baseline, today=today, reviewers=self.conditions.reviewers)

    def roots_file(self) -> Path | None:
        """The trust roots; None without roots and key. Raises ConfigError if the key is there without its .pub file."""
        if self.roots is not None or self.key is None:
            return self.roots
        beside = self.key.with_suffix(".pub")
        if not beside.is_file():
            raise ConfigError(
                f"there is no {beside} beside the key",
                expected="the trust roots that its signatures are verified against",
                do="give them with --roots",
            )
        return beside

    def trusted(self) -> TrustRoots | None:
        """The roots, read. Raises ConfigError unless they hold the key that signs."""
        file = self.roots_file()
        roots = None if file is None else load_roots(file)
        if roots is not None and self.key is not None and roots.find(load_signing_key(self.key).key_id) is None:
            raise ConfigError(
                f"the key {self.key} is not among the trust roots {file}",
                expected=f"one of {roots.names()}",
                do="give the roots of this key, or add it to them",
            )
        return roots

    def terms(self) -> str:
        """What versions are judged under now, by policy and manifest as they lie there. Raises GateError."""
        return terms_of(
            policy=load_policy(self.policy).digest,
            probe_set=probe_set_digest(read_manifest(self.probes)),
            seed=self.seed,
            weights=self.weights,
        )

    def options(self, model: Path) -> Options:
        """What `check` is asked to do."""
        return Options(
            model=model,
            policy=self.policy,
            probes=self.probes,
            seed=self.seed,
            device=self.device,
            rows=self.rows,
            weights=self.weights,
            sscd=self.sscd,
            command=self.command,
        )

    def check(self, name: str) -> None:
        """Raise ConfigError for a slip that would otherwise cost an upload or hours of measuring."""
        release_name(name, self.release_name)
        if self.alias and (not ALIAS_PATTERN.fullmatch(self.alias) or _is_reserved(self.alias)):
            raise ConfigError(
                f"--alias {self.alias!a}",
                expected="letters, digits, dashes and underscores, and neither `latest` nor `v1`",
                do="choose another alias, or --alias '' to promote nothing",
            )
        require_environment()
        load_policy(self.policy)
        self.circumstances(today=utc_now().date())
        shared_key()
        self.conditions.revocations()
        self.trusted()
        require_sound(self.log)


def terms_of(*, policy: str, probe_set: str, seed: int | None, weights: Weights | None) -> str:
    """What versions are judged under, as one digest: a verdict under other terms is none.

    sha256 over the digests of policy and probe set, a chosen seed, which weights count, and the gate's version.
    """
    parts = (policy, probe_set, "" if seed is None else str(seed), weights or "", __version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_reserved(alias: str) -> bool:
    return alias.lower() == "latest" or (alias[:1] in "vV" and alias[1:].isdecimal())
