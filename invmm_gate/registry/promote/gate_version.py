"""A version is registered as pending, gated from the files that the registry gives back, tagged and promoted."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from invmm_gate.core.errors import (
    BLOCK,
    INCONCLUSIVE,
    PASS,
    ConfigError,
    ModelError,
    RegistryError,
    VerificationError,
)
from invmm_gate.core.options import GateChoices
from invmm_gate.core.progress import Progress
from invmm_gate.registry.client import registry_names as names
from invmm_gate.registry.client.artefacts import CHECKPOINT, scratch_in
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.promote.attested_files import Evidence, state_of
from invmm_gate.registry.promote.choices import Clock, check_choices, options_of, utc_now
from invmm_gate.registry.promote.measure_version import (
    SameFilesError,
    alone,
    attestation_before,
    measure_and_sign,
    runs_of,
    terms_for,
    verdict_that_holds,
)
from invmm_gate.registry.promote.outbox import OutboxBusyError, Parcel, VersionGoneError, deliver, outbox_of
from invmm_gate.registry.promote.promotion import Promoted, settle
from invmm_gate.stages.preflight import prepare

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
        return {"pass": PASS, "block": BLOCK}.get(self.outcome, INCONCLUSIVE)


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
    check_choices(choices, names.candidate_name(name, choices.release_name))
    model = prepare(options_of(choices, checkpoint), baseline=choices.baseline is not None).model
    registry.require_answer()
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    progress.note(f"sending {len(model.files)} files to {registry.shown}")
    source = registry.uploads.log_model(name, {f"{CHECKPOINT}/{file.path}": root / file.path for file in model.files})
    record = registry.create_version(name, source, tags={names.STATE: names.PENDING}, run_id=None)
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
    if not version.isdecimal():
        raise ConfigError(f"version {version[:20]!a} is no number", expected="the number of a registered version")
    record = registry.version(name, version)
    if record is None:
        raise RegistryError(f"{name} has no version {version}", expected="a version that the registry has")
    gating = _Gating(registry=registry, record=record, choices=choices, progress=progress, now=now)
    with gating.state_noted(), scratch_in(choices.runs) as scratch:
        return gating.gate(scratch)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Gating:
    """The work on one version."""

    registry: Registry
    record: VersionRecord
    choices: GateChoices
    progress: Progress
    now: Clock

    def gate(self, scratch: Path) -> Registered:
        """The version's files are downloaded into the scratch folder."""
        registry, record, choices = self.registry, self.record, self.choices
        checkpoint = registry.fetch(record.source, scratch / "files", label=record.file_label)
        inputs = prepare(options_of(choices, checkpoint), baseline=choices.baseline is not None)
        begun = Registered(
            name=record.name,
            version=record.version,
            decision="inconclusive",
            model_digest=inputs.model.digest,
            terms=terms_for(inputs, choices),
        )
        evidence = verdict_that_holds(registry, record, inputs, choices, now=self.now())
        if evidence is not None:
            self.progress.note(f"{record.label} has a verdict that still holds; not measured again")
            return self._settled(evidence, begun)
        with alone(choices.runs, runs_of(inputs, choices)):
            previous = attestation_before(registry, record.name, choices, folder=scratch, now=self.now())
            self._tag({names.STATE: names.RUNNING})
            parcel, verdict = measure_and_sign(record, inputs, choices, self.progress, previous=previous, now=self.now)
            return self._sent(parcel, replace(begun, decision=verdict.decision, run=parcel.run), checkpoint)

    def _settled(self, evidence: Evidence, begun: Registered) -> Registered:
        """Tags and promotion by an attestation that is in the registry already."""
        done = replace(begun, decision=state_of(evidence.statement.decision))
        try:
            with outbox_of(self.choices).locked(wait=OUTBOX_SECONDS):
                promoted = settle(self.registry, self.record, evidence, self.choices, now=self.now())
        except (OutboxBusyError, VerificationError) as error:
            return replace(done, blocked=str(error))
        return self._promoted(done, promoted)

    def _sent(self, parcel: Parcel, done: Registered, checkpoint: Path) -> Registered:
        """The verdict in the outbox first, then in the registry; what cannot be sent now stays in the outbox."""
        outbox = outbox_of(self.choices)
        outbox.supersede(parcel)
        try:
            with outbox.locked(wait=OUTBOX_SECONDS):
                promoted = deliver(parcel, self.registry, self.choices, now=self.now(), checkpoint=checkpoint)
                outbox.remove(parcel)
        except (RegistryDownError, OutboxBusyError) as error:  # a busy outbox is being emptied, of this parcel too
            self.progress.note(f"not sent yet: {error}")
            return replace(done, delivered=False, blocked=f"the registry does not know the verdict yet: {error.found}")
        except VersionGoneError:
            outbox.remove(parcel)
            raise
        except VerificationError as error:  # a key, a policy or a clock that is no longer that of the verdict: no block
            self._note({names.STATE: names.ERROR, names.REASON: _reason(error)})
            return replace(done, delivered=False, blocked=f"the signed verdict does not hold here: {error}")
        return self._promoted(done, promoted)

    def _promoted(self, done: Registered, promoted: Promoted | None) -> Registered:
        """With what became of it, and with the reason where a pass promoted nothing or the alias stayed."""
        name, alias = self.record.name, self.choices.alias
        if promoted is not None:
            stays = f"{alias} stays with {promoted.overtaken_by}, which is later"
            return replace(done, released=promoted.version, remark=stays if promoted.overtaken_by else "")
        if done.decision != "pass" or not alias:
            return done
        if names.is_release(name, self.choices.release_name):
            return replace(done, remark=f"{name} is a release model: its versions are judged, never promoted")
        return replace(done, blocked="unsigned: give --key, or --alias '' to promote nothing")

    @contextmanager
    def state_noted(self) -> Iterator[None]:
        """However gating ends without a verdict, the version says so; an interruption leaves it to be gated again."""
        try:
            yield
        except (VersionGoneError, RegistryDownError, SameFilesError):
            raise
        except KeyboardInterrupt:
            self._note({names.STATE: names.PENDING})
            raise
        except Exception as error:
            self._note({names.STATE: names.ERROR, names.REASON: _reason(error)})
            raise

    def _tag(self, tags: dict[str, str]) -> None:
        self.registry.set_tags(self.record.name, self.record.version, tags)

    def _note(self, tags: dict[str, str]) -> None:
        with suppress(RegistryError):  # there is a better reason to report than this one
            self._tag(tags)


def _reason(error: Exception) -> str:
    """One line; of a checkpoint's faults the line itself, as other lines could name what is private."""
    told = isinstance(error, (ModelError, RegistryError))
    return str(error)[:300] if told else f"{type(error).__name__}; see the log"
