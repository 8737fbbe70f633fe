"""Versions at the door: registered as pending, gated from the files that the registry gives back, tagged, promoted."""

import datetime
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from invmm_gate.errors import BLOCK, INCONCLUSIVE, PASS, GateError, ModelError, RegistryError, VerificationError
from invmm_gate.gate.inputs import Inputs, prepare
from invmm_gate.gate.progress import Progress
from invmm_gate.registry.artefacts import CHECKPOINT
from invmm_gate.registry.choices import Clock, GateChoices, utc_now
from invmm_gate.registry.client import Registry, VersionRecord
from invmm_gate.registry.connection import RegistryDownError
from invmm_gate.registry.delivery import VersionGoneError, deliver, promotion_of, settle
from invmm_gate.registry.evidence import Evidence, envelopes, evidence_for, state_of
from invmm_gate.registry.measured import measure_and_sign, parcel_for
from invmm_gate.registry.names import ERROR, PENDING, REASON, RUN, RUNNING, STATE, is_release, safe_registry_name
from invmm_gate.registry.outbox import OutboxBusyError, Parcel
from invmm_gate.registry.source import named

__all__ = ["GateChoices", "Registered", "gate_version", "register"]

_EXIT_CODES: Final = {"pass": PASS, "block": BLOCK, "inconclusive": INCONCLUSIVE}
_OUTBOX_SECONDS: Final = 30.0
"""How long another process may send before this one leaves its parcel to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A version with its verdict."""

    name: str
    version: str
    decision: str
    """As verdict.json says; `pass` includes a pass with waivers."""
    model_digest: str
    run: str = ""
    """Run folder; empty if the version had a valid verdict already."""
    released: VersionRecord | None = None
    """The version that was promoted."""
    delivered: bool = True
    """Whether the registry knows; otherwise the outbox does."""
    blocked: str = ""
    """Why a version that passed was not promoted; empty if it was, or was not meant to be."""

    @property
    def exit_code(self) -> int:
        """The verdict's, but a pass that was to be promoted and was not is inconclusive."""
        return INCONCLUSIVE if self.decision == "pass" and self.blocked else _EXIT_CODES[self.decision]


def register(
    checkpoint: Path, name: str, registry: Registry, *, choices: GateChoices, progress: Progress, now: Clock = utc_now
) -> Registered:
    """Log the checkpoint, create a version of the model and gate it. Bad input creates nothing. Raises GateError."""
    record = create_version(checkpoint, name, registry, choices=choices, progress=progress)
    return gate_version(registry, name, record.version, choices=choices, progress=progress, now=now)


def create_version(
    checkpoint: Path, name: str, registry: Registry, *, choices: GateChoices, progress: Progress
) -> VersionRecord:
    """A version that waits for its verdict. Bad input, which is looked for first, creates nothing. Raises GateError."""
    safe_registry_name(name)
    choices.check(name)
    model = prepare(choices.options(checkpoint)).model
    registry.require_answer()
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    progress.note(f"sending {len(model.files)} files to {registry.shown}")
    source = registry.uploads.log_model(name, {f"{CHECKPOINT}/{file.path}": root / file.path for file in model.files})
    record = registry.create_version(name, source, tags={STATE: PENDING}, run_id=None)
    progress.note(f"created {record.label}, which waits for its verdict")
    return record


def gate_version(
    registry: Registry, name: str, version: str, *, choices: GateChoices, progress: Progress, now: Clock = utc_now
) -> Registered:
    """Download, measure, judge, sign, tag, and promote on a pass; once, if the verdict on the same digests still holds.

    Raises RegistryError if the version does not exist, or no more; any other GateError as `check` does.
    """
    choices.check(name)
    record = registry.version(name, version)
    if record is None:
        raise RegistryError(f"{name} has no version {version}", expected="a version of this registry")
    with _state_noted(registry, record), _files_of(registry, record, choices) as checkpoint:
        inputs = prepare(choices.options(checkpoint))
        evidence = _verdict_that_holds(registry, record, inputs, choices, now=now())
        if evidence is not None:
            progress.note(f"{record.label} has a verdict that still holds; not measured again")
            return _settled(registry, record, evidence, choices, now=now())
        registry.set_tags(name, version, {STATE: RUNNING})
        parcel, verdict = measure_and_sign(record, inputs, choices, progress, now=now)
        done = Registered(
            name=name,
            version=version,
            decision=verdict.decision,
            model_digest=inputs.model.digest,
            run=parcel.run,
        )
        return _sent(registry, parcel, done, choices, record=record, checkpoint=checkpoint, progress=progress, now=now)


def _verdict_that_holds(
    registry: Registry, record: VersionRecord, inputs: Inputs, choices: GateChoices, *, now: datetime.datetime
) -> Evidence | None:
    """A trusted pass or block on the same bytes, under the same policy, probe set and seed, that still stands."""
    roots = choices.trusted()
    if roots is None:
        return None
    demands = choices.conditions.demands(roots=roots, policies={inputs.policy.digest: choices.policy})
    for envelope in envelopes(record.source, record.tags, registry.artefacts):
        try:
            evidence = evidence_for(Path(inputs.model.path), envelope, roots, now=now, weights=choices.weights)
            evidence.require_standing(demands, now)
        except VerificationError:
            continue
        said = evidence.statement
        found = (said.policy_digest, said.probe_set_digest, said.seed)
        wanted = (inputs.policy.digest, inputs.probe_set.digest, choices.seed)
        if found == wanted and _is_final(said.decision, record, choices):
            return evidence
    return None


def _is_final(decision: str, record: VersionRecord, choices: GateChoices) -> bool:
    """Whether judging again could not come out otherwise; waivers and baselines are no part of what is attested."""
    if is_release(record.name, record.tags, choices.release_name):
        return True
    unchanged = choices.waivers is None and choices.baseline is None
    return decision in ("pass", "block") and unchanged and bool(record.tags.get(RUN))


def _settled(
    registry: Registry, record: VersionRecord, evidence: Evidence, choices: GateChoices, *, now: datetime.datetime
) -> Registered:
    """Tags and promotion by an attestation that is in the registry already."""
    said = evidence.statement
    parcel = parcel_for(record, choices, run="", proof=evidence.envelope, now=now)
    done = Registered(
        name=record.name, version=record.version, decision=state_of(said.decision), model_digest=said.subject_digest
    )
    with _scratch(choices) as folder:
        terms = promotion_of(parcel, record.tags.get(RUN, ""), folder)
        released = settle(registry, record, evidence, terms, now=now)
    return replace(done, released=released, blocked=_not_promoted(record, choices, released))


def _sent(
    registry: Registry,
    parcel: Parcel,
    done: Registered,
    choices: GateChoices,
    *,
    record: VersionRecord,
    checkpoint: Path,
    progress: Progress,
    now: Clock,
) -> Registered:
    """The verdict in the outbox first, then in the registry; what cannot be sent now stays in the outbox."""
    outbox = choices.outbox
    outbox.supersede(parcel)
    try:
        with outbox.locked(wait=_OUTBOX_SECONDS), _scratch(choices) as folder:
            sent = deliver(parcel, registry, now=now(), scratch=folder, checkpoint=checkpoint)
            outbox.remove(parcel)
    except (RegistryDownError, OutboxBusyError) as error:
        if isinstance(error, RegistryDownError):  # a busy outbox is being emptied, of this parcel too
            outbox.failed(parcel, str(error))
        progress.note(f"not sent yet: {error}")
        return replace(done, delivered=False, blocked=f"the registry does not know the verdict yet: {error.found}")
    except VersionGoneError:
        outbox.remove(parcel)
        raise
    except GateError as error:
        outbox.failed(parcel, str(error))
        raise
    return replace(done, released=sent.released, blocked=_not_promoted(record, choices, sent.released))


def _not_promoted(record: VersionRecord, choices: GateChoices, released: VersionRecord | None) -> str:
    """Why a pass promoted nothing; empty if it did, or was not meant to."""
    meant = choices.alias and not is_release(record.name, record.tags, choices.release_name)
    return (
        ""
        if released is not None or choices.key or not meant
        else "unsigned: give --key, or --alias '' to promote nothing"
    )


@contextmanager
def _files_of(registry: Registry, record: VersionRecord, choices: GateChoices) -> Iterator[Path]:
    """The version's checkpoint, downloaded into a private folder that is gone afterwards."""
    with _scratch(choices) as folder:
        yield named(registry.download(record, folder / "files"), f"{record.name}-v{record.version}")


@contextmanager
def _scratch(choices: GateChoices) -> Iterator[Path]:
    """A private folder beside the run folders: a checkpoint may not fit where temporary files usually go."""
    choices.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".version-", dir=choices.runs) as folder:
        yield Path(folder)


@contextmanager
def _state_noted(registry: Registry, record: VersionRecord) -> Iterator[None]:
    """However gating ends without a verdict, the version says so; an interruption leaves it to be gated again."""
    try:
        yield
    except (VersionGoneError, RegistryDownError):
        raise
    except KeyboardInterrupt:
        _note(registry, record, {STATE: PENDING})
        raise
    except Exception as error:
        _note(registry, record, {STATE: ERROR, REASON: _reason(error)})
        raise


def _note(registry: Registry, record: VersionRecord, tags: dict[str, str]) -> None:
    with suppress(RegistryError):  # there is a better reason to report than this one
        registry.set_tags(record.name, record.version, tags)


def _reason(error: Exception) -> str:
    """One line; of a checkpoint's faults the line itself, as other lines could name what is private."""
    return (
        str(error)[:300] if isinstance(error, (ModelError, RegistryError)) else f"{type(error).__name__}; see the log"
    )
