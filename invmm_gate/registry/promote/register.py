"""A version is registered as pending, gated from the files that the registry gives back, tagged and promoted."""

import datetime
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import GateError, ModelError, RegistryError, VerificationError
from invmm_gate.core.options import GateChoices
from invmm_gate.core.progress import Progress
from invmm_gate.registry.client.checkpoint import CHECKPOINT
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.names import (
    ERROR,
    PENDING,
    REASON,
    RUN,
    RUNNING,
    STATE,
    candidate_name,
    is_release,
    version_label,
)
from invmm_gate.registry.client.source import named
from invmm_gate.registry.promote.choices import Clock, check_choices, log_of, options_of, outbox_of, utc_now
from invmm_gate.registry.promote.delivery import VersionGoneError, deliver, promotion_of, settle
from invmm_gate.registry.promote.earlier_attestations import attestation_before, log_entry_of, verdict_that_holds
from invmm_gate.registry.promote.evidence import Evidence, state_of
from invmm_gate.registry.promote.gate_version import measure_and_sign, parcel_for, runs_of, terms_for
from invmm_gate.registry.promote.one_gate import SameFilesError, alone
from invmm_gate.registry.promote.outbox import OutboxBusyError, Parcel
from invmm_gate.registry.promote.outcome import EXIT_CODES
from invmm_gate.registry.promote.promotion import Promoted
from invmm_gate.stages.preflight import prepare

__all__ = ["GateChoices", "Registered", "gate_version", "register"]

OUTBOX_SECONDS: Final = 30.0
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
    remark: str = ""
    """Why the alias did not move although nothing is wrong: a later version has it, or this one is a release."""
    terms: str = ""
    """What it was judged under (`terms_of`)."""

    @property
    def outcome(self) -> str:
        """The verdict's, but a pass that was to be promoted and was not is inconclusive."""
        return "inconclusive" if self.decision == "pass" and self.blocked else self.decision

    @property
    def exit_code(self) -> int:
        """The exit code of the outcome."""
        return EXIT_CODES[self.outcome]


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
    check_choices(choices, candidate_name(name, choices.release_name))
    model = prepare(options_of(choices, checkpoint), baseline=choices.baseline is not None).model
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

    Raises RegistryError if the version does not exist, or no more, SameFilesError, which changes nothing, while another
    process gates the same files; any other GateError as `check` does.
    """
    check_choices(choices, name)
    record = registry.version(name, version)
    if record is None:
        raise RegistryError(f"{name} has no version {version}", expected="a version of this registry")
    with (
        _state_noted(registry, record),
        _scratch(choices) as aside,
        _files_of(registry, record, choices) as checkpoint,
    ):
        inputs = prepare(options_of(choices, checkpoint), baseline=choices.baseline is not None)
        begun = Registered(
            name=name,
            version=version,
            decision="inconclusive",
            model_digest=inputs.model.digest,
            terms=terms_for(inputs, choices),
        )
        evidence = verdict_that_holds(registry, record, inputs, choices, now=now())
        if evidence is not None:
            progress.note(f"{record.label} has a verdict that still holds; not measured again")
            return _settled(registry, record, evidence, begun, choices, now=now())
        with alone(choices.runs, runs_of(inputs, choices)):
            previous = attestation_before(registry, name, choices, folder=aside, now=now())
            registry.set_tags(name, version, {STATE: RUNNING})
            parcel, verdict = measure_and_sign(record, inputs, choices, progress, previous=previous, now=now)
            done = replace(begun, decision=verdict.decision, run=parcel.run)
            return _sent(
                registry, parcel, done, choices, record=record, checkpoint=checkpoint, progress=progress, now=now
            )


def _settled(
    registry: Registry,
    record: VersionRecord,
    evidence: Evidence,
    begun: Registered,
    choices: GateChoices,
    *,
    now: datetime.datetime,
) -> Registered:
    """Tags and promotion by an attestation that is in the registry already."""
    proof = evidence.envelope
    logged = log_entry_of(record, proof, log_of(choices))
    parcel = parcel_for(record, choices, run="", proof=proof, now=now, log_entry=logged)
    done = replace(begun, decision=state_of(evidence.statement.decision))
    try:
        with outbox_of(choices).locked(wait=OUTBOX_SECONDS), _scratch(choices) as folder:
            terms = promotion_of(parcel, record.tags.get(RUN, ""), folder)
            promoted = settle(registry, record, evidence, terms, now=now)
    except (OutboxBusyError, VerificationError) as error:
        return replace(done, blocked=str(error))
    return _promoted(done, record, choices, promoted)


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
    outbox = outbox_of(choices)
    outbox.supersede(parcel)
    try:
        with outbox.locked(wait=OUTBOX_SECONDS), _scratch(choices) as folder:
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
    except VerificationError as error:  # a key, a policy or a clock that is no longer that of the verdict: no block
        outbox.failed(parcel, str(error))
        _note(registry, record, {STATE: ERROR, REASON: _reason(error)})
        return replace(done, delivered=False, blocked=f"the signed verdict does not hold here: {error}")
    except GateError as error:
        outbox.failed(parcel, str(error))
        raise
    return _promoted(done, record, choices, sent.promoted)


def _promoted(done: Registered, record: VersionRecord, choices: GateChoices, promoted: Promoted | None) -> Registered:
    """With what became of it, and with the reason where a pass promoted nothing or the alias stayed."""
    if promoted is not None:
        stays = f"{choices.alias} stays with {promoted.overtaken_by}, which is later"
        return replace(done, released=promoted.version, remark=stays if promoted.overtaken_by else "")
    if done.decision != "pass" or not choices.alias:
        return done
    if is_release(record.name, choices.release_name):
        return replace(done, remark=f"{record.name} is a release model: its versions are judged, never promoted")
    return replace(done, blocked="unsigned: give --key, or --alias '' to promote nothing")


@contextmanager
def _files_of(registry: Registry, record: VersionRecord, choices: GateChoices) -> Iterator[Path]:
    """The version's checkpoint, downloaded into a private folder that is gone afterwards."""
    with _scratch(choices) as folder:
        yield named(registry.download(record, folder / "files"), version_label(record.name, record.version))


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
    except (VersionGoneError, RegistryDownError, SameFilesError):
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
