"""docs/reference/records.md: the files of a run folder, and the fields of the records in them."""

import dataclasses
from typing import Any, get_args, get_type_hints

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import SUMMARY, Statement
from invmm_gate.core import likelihood_record, records, run_records, verdict_records
from invmm_gate.core.marks import PUBLIC, WHOLE
from invmm_gate.core.settings import InversionSettings
from invmm_gate.report.formats import FORMATS
from invmm_gate.runs import stage_files
from invmm_gate.runs.copies import COPIES_FOLDER
from invmm_gate.runs.identity import ConfirmRecord
from invmm_gate.runs.stage_files import StageEnd
from invmm_gate.stages.public_edition import KEY_FILE, PUBLIC_FILES
from invmm_gate.tracking.spool import MARKER, PublishState
from tests.docs.fields import documented, summary, table

FILES: dict[str, tuple[str, str]] = {
    stage_files.RUN: ("measure", "What was run on what: a `RunRecord`."),
    stage_files.SELF_CHECKS: ("measure", "A `SelfCheck` a line."),
    stage_files.MEASUREMENTS: ("measure", "A `Measurement` a line."),
    stage_files.TIMINGS: ("measure", "`probe` and `seconds` a line. Seconds are no part of a measurement."),
    "inversions": ("measure", "The noise distribution of each probe that it copied, as safetensors. Private."),
    "copies/inverted": ("measure", "Images that the noise distribution of a probe gave. Private."),
    stage_files.MEASURE.end: ("measure", "A `StageEnd`, written last."),
    stage_files.CONFIRM: ("confirm", "How the confirmations were made: a `ConfirmRecord`."),
    stage_files.CONFIRMATIONS: ("confirm", "A `Confirmation` a line."),
    stage_files.LIKELIHOODS: (
        "confirm",
        "A `Likelihood` a line: of probes that were copied at all. Private.",
    ),
    "copies/confirmed": ("confirm", "Copies that an input of a user gave. Private."),
    stage_files.CONFIRMING.end: ("confirm", "A `StageEnd`, written last."),
    stage_files.VERDICT: ("judge", "A `Verdict`; its JSON Schema is `invmm_gate/policy/verdict.schema.json`."),
    stage_files.METRICS: ("judge", "Decision, counts and bands as plain figures, for DVC and dashboards."),
    COPIES_FOLDER: ("judge", "What the run was judged with: policy, waivers, approval, reviewers' keys, baseline."),
    FORMATS["html"].file: ("report", "The report. It names probes and exact scores: private."),
    FORMATS["markdown"].file: ("report", "A short summary in Markdown."),
    FORMATS["sarif"].file: ("report", "Findings for code scanning."),
    FORMATS["junit"].file: ("report", "A test case a probe, for test dashboards."),
    FORMATS["csv"].file: ("report", "A row a probe."),
    FORMATS["parquet"].file: ("report", "The same as Parquet, where the extra `parquet` is installed."),
    **dict.fromkeys(PUBLIC_FILES, ("report", "The public edition: may be handed to anybody.")),
    KEY_FILE: ("report", "The key of the public names, mode 0600. Private."),
    ATTESTATION: ("sign", "The signed statement: a DSSE envelope around a `Statement`."),
    SUMMARY: ("sign", "A SLSA summary, for a pass without waivers alone."),
    MARKER: ("publish", "A `PublishState`: whether MLflow has the run."),
    ".lock": ("all", "The lock of the folder; `.lock-holder` says who has it."),
}
"""File or folder -> (the stage that writes it, what it holds)."""
RECORDS: tuple[Any, ...] = (
    run_records.RunRecord,
    records.ModelManifest,
    records.ModelFile,
    records.ProbeSet,
    records.Probe,
    records.MetricRecord,
    run_records.RunInputs,
    run_records.RunContext,
    run_records.Samplers,
    run_records.ConfirmPlan,
    run_records.SamplingPlan,
    run_records.PromptPlan,
    run_records.SearchPlan,
    run_records.LikelihoodPlan,
    records.SelfCheck,
    records.Measurement,
    records.Trial,
    records.CurvePoint,
    records.StretchedTest,
    records.ReplicationShare,
    records.Interval,
    ConfirmRecord,
    records.Confirmation,
    likelihood_record.Likelihood,
    StageEnd,
    verdict_records.Verdict,
    verdict_records.Finding,
    verdict_records.Waiver,
    verdict_records.WaiverState,
    verdict_records.BaselineRecord,
    verdict_records.Scope,
    verdict_records.ExtractableShare,
    verdict_records.Power,
    verdict_records.Rung,
    verdict_records.SearchBaseRate,
    PublishState,
    Statement,
)
IN_NO_FILE = (run_records.RunData, run_records.RunIdentity, likelihood_record.Certified)
"""Records that no file holds as they are."""
WORDS = vars(records) | vars(verdict_records) | vars(likelihood_record)
CHOICES = ("Group", "Fit", "Weights", "Outcome", "Decision", "ConfirmationStatus", "PromptKind", "LikelihoodMethod")
"""Types with a few values, in the modules of core/ that hold records."""
ELSEWHERE = (InversionSettings,)
"""Described in policy.md."""
_INTRODUCTION = """\
# The run folder and its records
Written by `python -m tests.docs.write_references` from the records in the code. Do not edit this page.

`check` writes all of these files. One stage writes each file, and no other stage changes it. Records are JSON, or one
JSON object a line (`.jsonl`). JSON has no infinity: a probe that was not inverted has the outcome `not_inverted` and
the score null. A run folder is private; only `public/` in it may be handed on. A field that is marked as public is in
the public edition as it is, or put into a band; any other field is left out there, or written anew.
"""


def record_fields() -> str:
    """The page."""
    files = table(("file", "written by", "holds"), [(f"`{name}`", *about) for name, about in FILES.items()])
    words = table(("type", "values"), [(f"`{name}`", _values(WORDS[name])) for name in CHOICES])
    parts = [_INTRODUCTION, f"## Files\n{files}", *map(_record, RECORDS), f"## Types with few values\n{words}"]
    return "\n".join(parts)


def _values(choice: Any) -> str:
    return ", ".join(f"`{value}`" if value else "empty" for value in get_args(choice))


def _record(kind: Any) -> str:
    texts, public = documented(kind), _public(kind)
    head = ("field", "type", "public", "meaning") if any(public.values()) else ("field", "type", "meaning")
    rows = []
    for name in [field.name for field in dataclasses.fields(kind)]:
        about, meaning = (f"`{name}`", f"`{texts[name][0].replace('|', chr(92) + '|')}`"), texts[name][1]
        rows.append((*about, public[name], meaning) if any(public.values()) else (*about, meaning))
    return f"## {kind.__name__}\n{summary(kind)}\n\n{table(head, rows)}"


def _public(kind: Any) -> dict[str, str]:
    """Field -> what the public edition has of it."""
    shown = {PUBLIC: "yes", WHOLE: "as a whole"}
    hints = get_type_hints(kind, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: next((shown[mark] for mark in found if mark in shown), "") for name, found in marks.items()}
