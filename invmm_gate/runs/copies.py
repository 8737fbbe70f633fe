"""Policy, waivers and baseline of a judged run, and their copies in its folder: anybody can judge again from them."""

import datetime
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import yaml

from invmm_gate.attest.keys import TrustedKey, TrustRoots, load_roots
from invmm_gate.attest.waiver_approval import APPROVAL_SUFFIX, approval_file, approved
from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import BaselineRecord, Verdict, Waiver
from invmm_gate.files.regular import read_small
from invmm_gate.files.strict_json import from_json, to_json
from invmm_gate.policy.compare.comparison import refuse_other_conditions
from invmm_gate.policy.judge import judge
from invmm_gate.policy.schema import Policy, canonical
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import require_measured_in, run_faults
from invmm_gate.runs.stage_files import JUDGED, MEASUREMENTS, RUN

COPIES_FOLDER: Final = "judged"
_POLICY: Final = f"{COPIES_FOLDER}/policy.json"
_WAIVERS: Final = f"{COPIES_FOLDER}/waivers.yaml"
_APPROVAL: Final = f"{_WAIVERS}{APPROVAL_SUFFIX}"
_REVIEWERS: Final = f"{COPIES_FOLDER}/reviewers.yaml"
_BASELINE: Final = f"{COPIES_FOLDER}/baseline.json"
_BASELINE_RUN: Final = f"{COPIES_FOLDER}/baseline"
_BASELINE_RECORDS: Final = (RUN, *JUDGED)
COPIES: Final = (
    _POLICY,
    _WAIVERS,
    _APPROVAL,
    _REVIEWERS,
    _BASELINE,
    *(f"{_BASELINE_RUN}/{name}" for name in _BASELINE_RECORDS),
)
"""Every copy that there may be, by its name in the run folder."""
_MOST_BYTES: Final = 4_000_000
"""Bytes of a policy or of a baseline's record as JSON; their YAML has at most one million."""

Kept = TypeVar("Kept", Policy, BaselineRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A run that others are held against."""

    folder: Path
    data: RunData
    record: BaselineRecord

    def copies(self) -> dict[str, bytes]:
        """The files that this baseline can be read from again."""
        there = {name: self.folder / name for name in _BASELINE_RECORDS if (self.folder / name).exists()}
        records = {f"{_BASELINE_RUN}/{name}": path.read_bytes() for name, path in there.items()}
        return records | {_BASELINE: to_json(self.record, indent=2).encode() + b"\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The waivers and the baseline that `judge` weighs beside the records and the policy."""

    waivers: tuple[Waiver, ...] = ()
    baseline: Baseline | None = None
    """The last approved run; None if none was named."""
    copies: dict[str, bytes] = field(default_factory=dict)
    """The files that all of this can be read from again, by their names in the run folder."""

    @property
    def approved(self) -> RunData | None:
        """The records of the last approved run."""
        return self.baseline.data if self.baseline else None


def listed_waivers(
    path: Path, reviewers: TrustRoots | None, *, today: datetime.date
) -> tuple[tuple[Waiver, ...], dict[str, bytes]]:
    """The waivers of a file as its approval lets them count, and the copies of both. Raises ConfigError."""
    waivers = approved(load_waivers(path), path, reviewers, today=today)
    copies = {_WAIVERS: path.read_bytes()}
    if reviewers is not None:
        copies[_REVIEWERS] = _as_yaml(reviewers)
        approval = approval_file(path)
        copies |= {_APPROVAL: approval.read_bytes()} if approval.exists() else {}
    return waivers, copies


def unedited(folder: RunFolder) -> RunData:
    """All records. Raises RunFolderError for an edited file, and for a run.json that contradicts its own inputs."""
    data = folder.data()
    found = "; ".join(run_faults(data.run))
    if found:
        raise RunFolderError(
            f"{folder.path}: {found}",
            expected="run.json as the gate wrote it",
            do="restore the file, or begin anew with another --out",
        )
    folder.refuse_edited()
    return data


def decided(
    folder: RunFolder, policy: Policy, beside: Circumstances, *, today: datetime.date
) -> tuple[RunData, Verdict]:
    """All records, and the verdict that they give; the one in the folder stays as it is. Raises ConfigError."""
    require_measured_in(folder.run().inputs.environment)
    data = unedited(folder)
    return data, verdict_of(data, policy, beside, today=today)


def verdict_of(data: RunData, policy: Policy, beside: Circumstances, *, today: datetime.date) -> Verdict:
    """The verdict that the records give. Raises ConfigError for a baseline of another kind."""
    if beside.approved is not None:
        refuse_other_conditions(beside.approved.run.inputs, data.run.inputs, runs="the run and its baseline")
    verdict = judge(data, policy, beside.waivers, today=today, baseline=beside.approved)
    return replace(verdict, baseline=beside.baseline.record if beside.baseline else None)


def keep_copies(folder: RunFolder, policy: Policy, beside: Circumstances) -> None:
    """Leave in the run folder what it is judged with, and nothing of an earlier time."""
    kept = beside.copies | {_POLICY: canonical(policy).encode()}
    folder.forget(*(name for name in COPIES if name not in kept))
    for name, content in kept.items():
        folder.write(name, content)


def kept_copies(
    folder: RunFolder, *, today: datetime.date, reviewers: TrustRoots | None = None
) -> tuple[Policy, Circumstances]:
    """What the copies say of policy and circumstances, on that day. Raises GateError for copies that cannot be read.

    Who can write the folder can write the copies too: they show that verdict and records fit, not who judged. With
    `reviewers` an approval counts by these keys, and not by those in the folder.
    """
    if not (folder.path / _POLICY).is_file():
        raise RunFolderError(
            f"{folder.path} does not say what it was judged with: it holds no {_POLICY}",
            expected="a run as this version of `judge` leaves it",
            do=f"invmm-gate judge {folder.path} --policy POLICY",
        )
    path = folder.path / _REVIEWERS
    trusted = reviewers or (load_roots(path) if path.exists() else None)
    listed = folder.path / _WAIVERS
    waivers = listed_waivers(listed, trusted, today=today)[0] if listed.exists() else ()
    return _kept(Policy, folder, _POLICY), Circumstances(waivers=waivers, baseline=_kept_baseline(folder))


def _kept_baseline(folder: RunFolder) -> Baseline | None:
    if not (folder.path / _BASELINE).exists():
        return None
    record, path = _kept(BaselineRecord, folder, _BASELINE), folder.path / _BASELINE_RUN
    data = RunFolder(path).data()
    found = (data.run.run_id, data.run.fingerprint, data.run.model.digest, data.digests[MEASUREMENTS])
    if found != (record.run_id, record.fingerprint, record.model_digest, record.measurements_digest):
        raise RunFolderError(
            f"{path} holds other records than {_BASELINE} names",
            expected="the baseline that the run was judged against",
            do=f"invmm-gate judge {folder.path} --policy POLICY --baseline BASELINE",
        )
    return Baseline(folder=path, data=data, record=record)


def _kept(kind: type[Kept], folder: RunFolder, name: str) -> Kept:
    path = folder.path / name
    return from_json(kind, read_small(path, what="the copy that `judge` left", limit=_MOST_BYTES), where=str(path))


def _as_yaml(reviewers: TrustRoots) -> bytes:
    """The keys as a roots.yaml that needs no file beside it."""
    return yaml.safe_dump([_as_entry(key) for key in reviewers.keys], sort_keys=False).encode()


def _as_entry(key: TrustedKey) -> dict[str, str]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    window = {"valid_from": key.valid_from, "valid_until": key.valid_until}
    return {
        "name": key.name,
        "public_key": key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        **({} if key.verifier is None else {"verifier": key.verifier}),
        **{name: day.isoformat() for name, day in window.items() if day is not None},
    }
