"""The choices by which versions are gated. They are checked before the registry is asked for anything."""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from invmm_gate.attest.audit_log import AUDIT_LOG
from invmm_gate.attest.demands import Demands, demands_of, revocations_of
from invmm_gate.attest.keys import TrustRoots, load_roots, load_signing_key
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import GateChoices, Options
from invmm_gate.core.version import __version__
from invmm_gate.policy.schema import load_policy
from invmm_gate.probes.manifest import probe_set_digest, read_manifest
from invmm_gate.registry.client.registry_names import ALIAS_PATTERN, release_name
from invmm_gate.runs.copies import Circumstances
from invmm_gate.runs.identity import require_environment
from invmm_gate.stages.audit_file import require_sound
from invmm_gate.stages.judge import circumstances
from invmm_gate.stages.public_edition import shared_key

Clock = Callable[[], datetime.datetime]
"""Asked again where hours may have passed, as between a measurement and its signature."""


def utc_now() -> datetime.datetime:
    """The system's clock, aware."""
    return datetime.datetime.now(datetime.UTC)


def log_of(choices: GateChoices) -> Path:
    """The audit log: every verdict that was signed here."""
    return choices.runs.parent / AUDIT_LOG


def circumstances_of(choices: GateChoices, *, today: datetime.date) -> Circumstances:
    """Waivers and baseline, read. Raises GateError."""
    return circumstances(choices.waivers, choices.baseline, today=today, reviewers=choices.conditions.reviewers)


def roots_file(choices: GateChoices) -> Path | None:
    """The trust roots; None without roots and key. Raises ConfigError if the key is there without its .pub file."""
    if choices.roots is not None or choices.key is None:
        return choices.roots
    beside = choices.key.with_suffix(".pub")
    if not beside.is_file():
        load_signing_key(choices.key)  # a mistyped key is the slip that counts
        raise ConfigError(
            f"there is no {beside} beside the key",
            expected="the trust roots that its signatures are verified against",
            do="give them with --roots",
        )
    return beside


def trusted_roots(choices: GateChoices) -> TrustRoots | None:
    """The roots, read. Raises ConfigError unless they hold the key that signs."""
    file = roots_file(choices)
    roots = None if file is None else load_roots(file)
    if roots is not None and choices.key is not None and roots.find(load_signing_key(choices.key).key_id) is None:
        raise ConfigError(
            f"the key {choices.key} is not among the trust roots {file}",
            expected=f"one of {roots.names()}",
            do="give the roots of this key, or add it to them",
        )
    return roots


def demands_under(choices: GateChoices, roots: TrustRoots) -> Demands:
    """What an attestation must be to count or to promote anything, by the files as they are now. Raises ConfigError."""
    policies = {load_policy(choices.policy).digest: choices.policy}
    return demands_of(choices.conditions, roots=roots, policies=policies, weights=choices.weights)


def terms_now(choices: GateChoices) -> str:
    """The terms that versions are judged under now, by policy and manifest as they lie there. Raises GateError."""
    policy = load_policy(choices.policy).digest
    return terms_of(choices, policy=policy, probe_set=probe_set_digest(read_manifest(choices.probes)))


def terms_of(choices: GateChoices, *, policy: str, probe_set: str) -> str:
    """The terms that versions are judged under, as one digest: a verdict under other terms is none.

    sha256 over the digests of policy and probe set, a chosen seed, which weights count, and the gate's version.
    """
    seed = "" if choices.seed is None else str(choices.seed)
    parts = (policy, probe_set, seed, choices.weights or "", __version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def options_of(choices: GateChoices, model: Path) -> Options:
    """The options of `check` for a version."""
    shared = {field.name for field in fields(Options)} & {field.name for field in fields(choices)}
    same = {name: getattr(choices, name) for name in shared}
    return Options(model=model, environment=choices.conditions.environment, **same)


def check_choices(choices: GateChoices, name: str) -> None:
    """Raise ConfigError for a slip that would otherwise cost an upload or hours of measuring."""
    release_name(name, choices.release_name)
    if choices.alias and (not ALIAS_PATTERN.fullmatch(choices.alias) or _is_reserved(choices.alias)):
        raise ConfigError(
            f"--alias {choices.alias!a}",
            expected="letters, digits, dashes and underscores, and neither `latest` nor `v1`",
            do="choose another alias, or --alias '' to promote nothing",
        )
    require_environment(choices.conditions.environment)
    load_policy(choices.policy)
    circumstances_of(choices, today=utc_now().date())
    shared_key()
    revocations_of(choices.conditions)
    trusted_roots(choices)
    require_sound(log_of(choices))


def _is_reserved(alias: str) -> bool:
    return alias.lower() == "latest" or (alias[:1] in "vV" and alias[1:].isdecimal())
