"""The contents of a report, in order and in words: records in, plain values for a template out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from invmm_gate.core.captions import may_be_rewritten, readers_in
from invmm_gate.core.records import Confirmation, Measurement, Probe, SelfCheck
from invmm_gate.core.run_records import RunContext, RunData
from invmm_gate.core.verdict_records import Finding, Verdict
from invmm_gate.policy.evidence import has_labels
from invmm_gate.policy.reasons import waiver_notes
from invmm_gate.report import texts
from invmm_gate.report.chances import Chance, chances_in
from invmm_gate.report.charts import Panel, panels
from invmm_gate.report.cleaned import Cleaner, cleaned_findings, cleaner, ranked
from invmm_gate.report.headline import headline, not_tested
from invmm_gate.report.image_rows import ImageRow, image_rows
from invmm_gate.report.public_records import NOTE
from invmm_gate.report.reach import reach_lines
from invmm_gate.report.strip import Strip, strip
from invmm_gate.report.studied import studied
from invmm_gate.report.templates import Picture, PictureBook, ReportImages
from invmm_gate.report.texts import RUN_FILES, described_baseline

DETAILED: Final = 200
"""Probes that get a section of their own; the table lists them all."""
ROWS: Final = 50
"""Images that the first screen lists; the others are folded away, with their number."""
OPENED: Final = 3
"""Sections of probes with a finding that are unfolded from the start."""

BANNERS: Final[dict[str, tuple[str, str]]] = {
    "pass": ("PASS", "No breach of the policy counts against this checkpoint."),
    "block": ("BLOCK", "The policy is broken. Do not release this checkpoint as it is."),
    "inconclusive": ("INCONCLUSIVE", "The evidence does not suffice for a verdict. Treat it as not passed."),
    "not_judged": ("NOT JUDGED", "Probes were measured, but no policy has been applied. Treat it as not passed."),
}
OUTCOMES: Final[dict[str, str]] = {
    "inverted": "inverted",
    "above_threshold": "above threshold",
    "not_inverted": "not inverted",
    "error": "error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """The contents of the report about one probe."""

    number: int
    item: Measurement
    outcome: str
    seconds: float | None
    confirmations: tuple[Confirmation, ...]
    chances: tuple[Chance, ...]
    """How likely the image comes out, by what is given."""
    cluster: str
    flagged: bool
    """An unwaived finding names the probe."""
    waived: bool
    detailed: bool
    opened: bool
    private: Probe | None
    """The manifest's entry with caption, path and source: only in a revealed report."""
    panels: tuple[Panel, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """The contents of the report, as text and figures that the template only places."""

    decision: str
    title: str
    headline: str
    sentences: tuple[str, ...]
    """What the run found, for a reader who knows nothing of the gate."""
    images: tuple[ImageRow, ...]
    """One row for each image that comes out or that a finding names."""
    folded: tuple[ImageRow, ...]
    """More of them."""
    places: Mapping[str, int]
    """Probes with a section of their own -> its number."""
    not_tested: tuple[str, ...]
    reasons: tuple[str, ...]
    banner: tuple[str, ...]
    """Those of the reasons that the first screen has nowhere else."""
    warnings: tuple[str, ...]
    weaknesses: tuple[str, ...]
    """Where the policy is weaker than the shipped `strict`."""
    reach: tuple[str, ...]
    """What the verdict says of images that are no probes, and what the run could have found."""
    facts: tuple[tuple[str, str], ...]
    """(label, figure) of the row beneath the banner."""
    findings: tuple[Finding, ...]
    checks: tuple[SelfCheck, ...]
    files: tuple[tuple[str, str], ...]
    probes: tuple[ProbeView, ...]
    overview: Strip | None
    settings: tuple[tuple[str, str], ...]
    context: tuple[tuple[str, str], ...]
    profile: str
    baseline: str
    reveal: bool
    note: str
    """How to read the figures of a public edition; empty in a full report."""


def view(data: RunData, *, images: ReportImages, reveal: bool, limit: float | None) -> ReportView:
    """The whole report. `limit` is the policy's InvMM threshold for the overview, where the caller knows it."""
    clean = cleaner(data, reveal=reveal)
    findings = cleaned_findings(data, clean)
    flagged = frozenset(item.probe for item in findings if item.probe and not item.waiver)
    decision = data.verdict.decision if data.verdict else "not_judged"
    settings = tuple((clean(name), clean(value)) for name, value in texts.flattened(asdict(data.run.inputs)))
    rows = image_rows(data, findings, clean)
    probes = _probes(data, findings, clean, PictureBook(images, reveal))
    return ReportView(
        decision=decision,
        title=BANNERS[decision][0],
        headline=BANNERS[decision][1],
        sentences=headline(data, rows),
        images=rows[:ROWS],
        folded=rows[ROWS:],
        places={probe.item.probe: probe.number for probe in probes if probe.detailed},
        not_tested=tuple(map(clean, not_tested(data, data.verdict))) if data.verdict else (),
        reasons=tuple(map(clean, data.verdict.reasons)) if data.verdict else (),
        banner=tuple(map(clean, banner_reasons(data.verdict))) if data.verdict else (),
        warnings=warnings(data),
        weaknesses=data.verdict.weaknesses if data.verdict else (),
        reach=reach_lines(data.verdict, studied(data.run.inputs), labels=has_labels(data.run)) if data.verdict else (),
        facts=facts(data),
        findings=findings,
        checks=tuple(replace(check, detail=clean(check.detail)) for check in data.self_checks),
        files=RUN_FILES,
        probes=probes,
        overview=strip(data.measurements, flagged=flagged, limit=limit if limit is not None else _limit(findings)),
        settings=settings,
        context=tuple((clean(name), clean(value)) for name, value in texts.flattened(_said(data.run.context))),
        profile=next((value for name, value in settings if name.rpartition(".")[2] == "profile"), ""),
        baseline=clean(described_baseline(data)),
        reveal=reveal,
        note=NOTE if data.public else "",
    )


def banner_reasons(verdict: Verdict) -> tuple[str, ...]:
    """The reasons of a verdict; of a block only which waivers cover nothing: the images have a row each."""
    return waiver_notes(verdict.waivers) if verdict.decision == "block" else verdict.reasons


def warnings(data: RunData) -> tuple[str, ...]:
    """Warnings that a reader needs before trusting the figures."""
    return (*_model_warnings(data), *_seed_warnings(data), *_run_warnings(data))


def _model_warnings(data: RunData) -> Iterator[str]:
    if data.run.model.pickles:
        names = ", ".join(data.run.model.pickles)
        yield f"Pickle files were read because --allow-pickle was given: {names}. A pickle can run any code."
    if data.run.model.left_out:
        folder = data.run.model.left_out[0].split("/", 1)[0]
        yield (
            f"Only the {data.run.model.weights} weights were scored, as --weights says. The checkpoint's {folder}/ is "
            "not covered by this verdict and must not be released with it."
        )
    if data.run.model.adapters:
        number = texts.count(len(data.run.model.adapters))
        yield f"{number} LoRA adapters are part of what was scored, fused at scale 1.0."
    yield from data.run.model.notes
    if data.run.model.not_loaded:
        names = ", ".join(data.run.model.not_loaded)
        yield f"Shipped with the checkpoint and not loaded, so its effect was not measured: {names}."


def _seed_warnings(data: RunData) -> Iterator[str]:
    said = data.verdict.tested if data.verdict else None
    if said and said.seed_chosen:
        yield f"The seed {said.seed} is not the one that model, probe set and policy give: it may have been tried out."


def _said(context: RunContext) -> dict[str, object]:
    """The circumstances that there were."""
    return {name: value for name, value in asdict(context).items() if value not in ("", (), {})}


def _label_warnings(data: RunData) -> Iterator[str]:
    found = sum(item.label_found is True for item in data.measurements)
    if found:
        yield (
            f"Of {texts.count(found)} probes the manifest gives no label, or another than the one that denoises the "
            "image best. Each was inverted under the one that denoises it best, which need not be its own."
        )


def _run_warnings(data: RunData) -> Iterator[str]:
    if readers := readers_in(data.run):
        yield f"The score of a probe depends on its caption, which {' and '.join(readers)} read while it was inverted."
    yield from _label_warnings(data)
    captions = [probe.caption for probe in data.run.probe_set.probes]
    if other := sum(may_be_rewritten(data.run.inputs.pipeline, caption) for caption in captions):
        yield (
            f"{texts.count(other)} captions may be other prompts to some users: {data.run.inputs.pipeline} rewrites "
            "them where the packages bs4 and ftfy are installed. They were tried in small letters, as it reads them "
            "without these packages. Write the rewritten captions in the manifest to have them tried."
        )
    cut = data.run.context.truncated_captions
    if cut:
        yield f"{texts.count(len(cut))} captions are longer than the tokenizer takes and were cut."
    if data.run.context.guidance_distilled:
        yield "The network is guidance-distilled: it has no unconditional branch, and only scales from 1 on were tried."
    if data.run.metric.unfit:
        yield f"The copy metric {data.run.metric.name} is unfit here: {data.run.metric.unfit}."
    failed = [check.name for check in data.self_checks if not check.passed]
    if failed:
        yield f"Failed self checks: {', '.join(failed)}. Scores of this run cannot be relied on."
    missing = len(data.run.probe_set.probes) - len(data.measurements)
    if missing > 0:
        yield f"{texts.count(missing)} probes of the set have not been measured."


def facts(data: RunData) -> tuple[tuple[str, str], ...]:
    """Counts of the run, always from the measurements themselves."""
    outcomes = Counter(item.outcome for item in data.measurements)
    scores = [item.invmm for item in data.measurements if item.invmm is not None]
    controls = [item for item in data.measurements if item.group == "control"]
    total, measured = len(data.run.probe_set.probes), len(data.measurements)
    return (
        ("probes measured", texts.count(measured) if measured == total else texts.hits(measured, total)),
        ("inverted", texts.count(outcomes["inverted"])),
        ("lowest InvMM, at most" if data.public else "lowest InvMM", texts.score(min(scores, default=None))),
        ("not inverted", texts.count(outcomes["not_inverted"])),
        ("above threshold", texts.count(outcomes["above_threshold"])),
        ("confirmed", texts.count(len(data.confirmed_probes))),
        ("errors", texts.count(outcomes["error"])),
        ("controls inverted", texts.hits(sum(item.outcome == "inverted" for item in controls), len(controls))),
    )


def _limit(findings: Sequence[Finding]) -> float | None:
    """The threshold that `invmm_below` findings name, where they agree on one."""
    limits = {item.limit for item in findings if item.rule == "invmm_below" and item.limit is not None}
    return limits.pop() if len(limits) == 1 else None


def _probes(data: RunData, findings: Sequence[Finding], clean: Cleaner, book: PictureBook) -> tuple[ProbeView, ...]:
    entries = {probe.id: probe for probe in data.run.probe_set.probes}
    chances = chances_in(data)
    flagged = {item.probe for item in findings if item.probe and not item.waiver}
    waived = {item.probe for item in findings if item.probe and item.waiver}
    opened = [item.probe for item in ranked(data.measurements) if item.probe in flagged][:OPENED]
    views = []
    for number, item in enumerate(ranked(data.measurements), 1):
        entry = entries.get(item.probe)
        base = ProbeView(
            number=number,
            item=_cleaned(item, clean),
            outcome=OUTCOMES[item.outcome],
            seconds=data.seconds.get(item.probe),
            confirmations=tuple(found for found in data.confirmations if found.probe == item.probe),
            chances=chances.get(item.probe, ()),
            cluster=entry.cluster if entry else "",
            flagged=item.probe in flagged,
            waived=item.probe in waived,
            detailed=not data.public and (number <= DETAILED or item.probe in flagged),
            opened=item.probe in opened,
            private=entry if book.reveal else None,
        )
        views.append(_with_evidence(base, data, book) if base.detailed else base)
    return tuple(views)


def _with_evidence(base: ProbeView, data: RunData, book: PictureBook) -> ProbeView:
    metric = data.run.metric
    drawn = panels(base.item.trials, metric=metric.name, threshold=metric.threshold)
    return replace(base, panels=drawn, pictures=book.of(base.item.probe))


def _cleaned(item: Measurement, clean: Cleaner) -> Measurement:
    trials = tuple(replace(trial, reason=clean(trial.reason)) for trial in item.trials)
    return replace(item, reason=clean(item.reason), trials=trials)
