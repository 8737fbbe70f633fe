"""The contents of a logged run: plain values, with nothing private in them. No MLflow here."""

import hashlib
import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from types import MappingProxyType
from typing import Final

from invmm_gate.core.errors import PublishError
from invmm_gate.core.records import Measurement
from invmm_gate.core.run_records import RunData, identity_of
from invmm_gate.policy.certified_bounds import BestFigures, best_figures, certified_counts, most_likely
from invmm_gate.tracking.probe_table import table
from invmm_gate.tracking.server import TAG_LIMIT, finite, flattened, safe_name, unique_names

CHILD_RUNS: Final = 24
"""Probes that get a child run with their curves. Each costs three requests and a row in every list of runs; the
table probes.json holds all probes, however many."""

_UPLOADED: Final = (
    "verdict.json",
    "measurements.jsonl",
    "likelihoods.jsonl",
    "summary.md",
    "report.html",
    "results.sarif",
    "junit.xml",
    "scores.csv",
)
_REDACTED_REPORT: Final = '<meta name="invmm-gate-redacted" content="yes">'
_IMAGE: Final = 'src="data:'


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeContents:
    """One child run."""

    name: str
    tags: dict[str, str]
    metrics: dict[str, float]
    curves: tuple[tuple[str, float, int], ...]
    """(metric, value, step)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContents:
    """The parent run and its children."""

    key: str
    """Equal for equal inputs, results and verdict: what is published once."""
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    files: dict[str, str]
    probes: tuple[ProbeContents, ...]


@dataclass(frozen=True, slots=True)
class Guard:
    """Finds private texts, as they are, as JSON writes them and as HTML writes them."""

    private: tuple[str, ...]

    def passes(self, text: str) -> bool:
        """Whether the text holds no caption, source, path or prompt."""
        return not any(form in text for secret in self.private for form in _forms(secret))


def _forms(text: str) -> frozenset[str]:
    return frozenset((text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text)))


def contents(
    data: RunData,
    folder: Path,
    *,
    child_runs: int = CHILD_RUNS,
    rendered: Mapping[str, str] = MappingProxyType({}),
) -> RunContents:
    """Everything to log; `rendered` files stand in for the folder's own.

    For a public edition only these files are sent, none of the folder's, and no probe gets a run of its own. Raises
    PublishError where a file of the run folder cannot be read.
    """
    guard = Guard(data.private_texts)
    files, withheld = _files(data, folder, guard, rendered)
    ranked = sorted(data.measurements, key=lambda item: (item.rank, item.probe))
    params = {name: value for name, value in flattened(asdict(data.run.inputs)) if guard.passes(value)}
    tags = _tags(data) | ({"invmm.withheld": ", ".join(withheld)} if withheld else {})
    return RunContents(
        key=publication_key(data),
        name=safe_name(f"{data.run.model.name} {data.run.run_id}"),
        tags={name: value[:TAG_LIMIT] for name, value in tags.items() if guard.passes(value)},
        params=unique_names(params),
        metrics=_metrics(data),
        files=files,
        probes=() if data.public else _probes(ranked[:child_runs], data),
    )


def publication_key(data: RunData) -> str:
    """The tag by which a run that was sent is found again; of a public edition it tells no more than the edition."""
    records = (data.measurements, data.confirmations, data.likelihoods, data.bands)
    results = [[asdict(item) for item in each] for each in records]
    verdict = asdict(data.verdict) if data.verdict else None
    text = json.dumps([data.run.fingerprint, verdict, results], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _tags(data: RunData) -> dict[str, str]:
    blank = dict.fromkeys(("policy", "policy_digest"), "")  # of a run that was not judged
    return {f"invmm.{name}": text for name, text in (blank | identity_of(data).texts()).items()} | {
        "invmm.edition": "public" if data.public else "details",
        "invmm.reasons": " | ".join(data.verdict.reasons) if data.verdict else "",
        "invmm.self_checks": "passed" if all(check.passed for check in data.self_checks) else "failed",
    }


def _metrics(data: RunData) -> dict[str, float]:
    outcomes = Counter(item.outcome for item in data.measurements)
    findings = data.verdict.findings if data.verdict else ()
    shares = [item.share.hits / item.share.trials for item in data.measurements if item.share and item.share.trials]
    return finite(
        {
            "probes": len(data.run.probe_set.probes),
            "measured": len(data.measurements),
            **{outcome: outcomes[outcome] for outcome in ("inverted", "not_inverted", "above_threshold", "error")},
            "controls": sum(item.group == "control" for item in data.measurements),
            "confirmed": len(data.confirmed_probes),
            "invmm_min": min((item.invmm for item in data.measurements if item.invmm is not None), default=None),
            "replication_share_max": max(shares, default=None),
            "likelihood_max": next((exp(-nats) for nats in most_likely(data)), None),
            **{f"certified_{limit}": number for limit, number in certified_counts(data).items()},
            "findings": sum(item.waiver is None for item in findings),
            "findings_waived": sum(item.waiver is not None for item in findings),
        }
        | ({} if data.public else _costs(data))
    )


def _costs(data: RunData) -> dict[str, float]:
    """Sums over probes that tell how soon they were inverted, the more so the fewer there are."""
    return {
        "evaluations": sum(item.evaluations for item in data.measurements),
        "confirmation_evaluations": sum(item.evaluations for item in data.confirmations),
        "seconds": sum(data.seconds.values()),
    }


def _probes(items: Sequence[Measurement], data: RunData) -> tuple[ProbeContents, ...]:
    likely = best_figures(data)
    return tuple(_probe(item, data, likely.get(item.probe)) for item in items)


def _probe(item: Measurement, data: RunData, likely: BestFigures | None) -> ProbeContents:
    rates = [found.hits / found.trials for found in data.confirmations if found.probe == item.probe and found.trials]
    share = item.share
    return ProbeContents(
        name=item.probe,
        tags={"invmm.probe": item.probe, "invmm.group": item.group, "invmm.outcome": item.outcome}
        | ({"invmm.category": item.category[:TAG_LIMIT]} if item.category else {})
        | ({"invmm.prompt_kind": likely.bound.kind} if likely else {}),
        metrics=finite(
            {
                "invmm": item.invmm,
                "invmm_above": item.invmm_above,
                "replication_share": share.hits / share.trials if share and share.trials else None,
                "confirmation_rate": max(rates, default=None),
                "likelihood_lower": likely.lower if likely else None,
                "likelihood_estimate": likely.estimate if likely else None,
                "likelihood_upper": likely.upper if likely else None,
                "likelihood_nats": likely.bound.nats if likely else None,
                "steps": item.steps,
                "evaluations": item.evaluations,
                "seconds": data.seconds.get(item.probe),
            }
        ),
        curves=tuple(_curves(item)),
    )


def _curves(item: Measurement) -> Iterator[tuple[str, float, int]]:
    for trial in item.trials:
        for point in trial.curve:
            values = {
                "denoising_error": point.denoising_error,
                "control_loss": point.control_loss,
                "normality": point.normality,
                "weight": point.weight,
                "closest_sample": point.best_value,
            }
            for name, value in finite(values).items():
                yield f"seed {trial.seed}/{name}", value, point.step


def _files(data: RunData, folder: Path, guard: Guard, rendered: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The files to upload, and the names of those held back because they hold something private."""
    found = dict(rendered) | ({} if data.public else _stored(data, folder, rendered))
    found["probes.json"] = table(data)
    allowed = {name: text for name, text in found.items() if text and _may_leave(name, text, guard)}
    return allowed, sorted(name for name, text in found.items() if text and name not in allowed)


def _stored(data: RunData, folder: Path, rendered: Mapping[str, str]) -> dict[str, str]:
    names = (name for name in _UPLOADED if name not in rendered)
    found = {name: text for name in names if (text := _read(folder / name)) is not None}
    return found | {"confirmations.jsonl": "".join(_confirmations(data))}


def _may_leave(name: str, text: str, guard: Guard) -> bool:
    redacted = name != "report.html" or (_REDACTED_REPORT in text and _IMAGE not in text)
    return redacted and guard.passes(text)


def _read(path: Path) -> str | None:
    """The text of a regular file; None where there is none. A link could point at anything, so it is not followed."""
    try:
        return None if path.is_symlink() or not path.is_file() else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(
            f"cannot read {path}", expected="a text file of the run", do="write it again with `invmm-gate report`"
        ) from error


def _confirmations(data: RunData) -> Sequence[str]:
    """The confirmations without prompts: a prompt that brings a private image about is as private as the image."""
    public = (replace(item, prompt=None, token_ids=None, copies=()) for item in data.confirmations)
    return [json.dumps(asdict(item), sort_keys=True) + "\n" for item in public]
