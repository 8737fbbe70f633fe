"""A comparison for a merge request: Markdown in which foreign text stays text."""

from collections.abc import Iterator
from typing import Final

from invmm_gate.core.likelihood_record import frequency
from invmm_gate.core.records import ReplicationShare
from invmm_gate.core.run_records import RunIdentity
from invmm_gate.policy.compare.comparison import (
    Breach,
    Comparison,
    FindingChange,
    LikelihoodChange,
    LikelihoodState,
    ProbeChange,
    RateChange,
    ScoreState,
    Uncompared,
)
from invmm_gate.policy.likelihoods import BY
from invmm_gate.report import texts
from invmm_gate.report.chances import at_most
from invmm_gate.report.to_markdown import SIZE_LIMIT, inert

_ROWS: Final = (100, 30, 10, 3, 0)
"""Findings and probes shown: the first count that fits the limit."""
_NAME: Final = 120
_APART: Final = {"worse": ", separate", "better": ", separate", "unchanged": ", not separate"}
_CHANGES: Final = ("new", "worse", "unknown", "fixed", "better", "unchanged")


def render_comparison(comparison: Comparison) -> str:
    """The comparison as Markdown below 60 kB; never a caption, a prompt, a path or an image."""
    found = (_rendered(comparison, rows) for rows in _ROWS)
    return next((text for text in found if len(text.encode("utf-8")) < SIZE_LIMIT), _rendered(comparison, 0))


def counted(counts: dict[str, int]) -> str:
    """`1 new, 2 worse, 14 unchanged`, worst first."""
    return ", ".join(f"{texts.count(counts[change])} {change}" for change in _CHANGES if change in counts) or "none"


def score_text(state: ScoreState | None) -> str:
    """The score of a probe in one run."""
    if state is None:
        return "not measured"
    if state.outcome == "inverted":
        return texts.score(state.invmm)
    if state.outcome == "above_threshold":
        return f"above {texts.score(state.invmm_above)}"
    return "broke" if state.outcome == "error" else "not inverted"


def rate_text(rate: RateChange) -> str:
    """Both counts with their intervals, and whether these have no rate in common."""
    name = rate.name.replace("_", " ")
    old, new = (_share_text(share) if share else "not tried" for share in (rate.before, rate.after))
    return f"{name} {old} → {new}{_APART.get(rate.change, '')}"


def _share_text(share: ReplicationShare) -> str:
    low, high = (f"{100 * end:.1f}" for end in (share.interval.low, share.interval.high))
    return f"{texts.hits(share.hits, share.trials)} ({low} to {high} %)"


def likelihood_text(change: LikelihoodChange) -> str:
    """Both lower bounds with the upper ones, and whether one run's lies above the other's."""
    old, new = (_bounds_text(side) if side else "not estimated" for side in (change.before, change.after))
    return f"{old} → {new} {BY[change.kind]}{_APART.get(change.change, '')}"


def _bounds_text(state: LikelihoodState) -> str:
    least = "no bound" if state.nats is None else f"at least {frequency(state.nats)}"
    scale = "" if state.guidance_scale is None else f", guidance scale {state.guidance_scale:g}"
    return f"{least} (at most {at_most(state.upper)}{scale})"


def breach_text(breach: Breach | None) -> str:
    """What a finding says on one side."""
    if breach is None:
        return "none"
    return _with_figures("waived" if breach.waived else breach.effect, breach.value, breach.limit)


def uncompared_text(finding: Uncompared) -> str:
    """What a finding says that only the second run could have."""
    return _with_figures(finding.effect, finding.value, finding.limit)


def _with_figures(what: str, value: float | None, limit: float | None) -> str:
    figure = f" {texts.score(value)}" if value is not None else ""
    bound = f" (limit {texts.score(limit)})" if limit is not None else ""
    return f"{what}{figure}{bound}"


def shown_rates(probe: ProbeChange) -> str:
    """The rates that say something: those with a difference that separates, or that one run alone tried."""
    told = (rate for rate in probe.rates if rate.change != "not_compared")
    return "; ".join(
        rate_text(rate) for rate in told if rate.change != "unchanged" or (rate.before and rate.before.hits)
    )


def shown_likelihoods(probe: ProbeChange) -> str:
    """The likelihoods that something bounds from below, in either run."""
    told = (
        each for each in probe.likelihoods if any(side and side.nats is not None for side in (each.before, each.after))
    )
    return "; ".join(map(likelihood_text, told))


def _rendered(comparison: Comparison, rows: int) -> str:
    parts = [
        _head(comparison),
        *_findings(comparison, rows),
        *_uncompared(comparison, rows),
        *_probes(comparison, rows),
        _foot(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def _head(comparison: Comparison) -> str:
    lines = [
        f"## Comparison: {_code(comparison.before.model)} → {_code(comparison.after.model)}",
        "",
        "| | Run | Model | Policy | Verdict |",
        "|---|---|---|---|---|",
        _side("before", comparison.before),
        _side("now", comparison.after),
        "",
        f"Findings: {counted(comparison.counts['findings']) if comparison.findings_compared else 'not compared'}. "
        f"Probes: {counted(comparison.counts['probes'])}.",
    ]
    lines += [line for note in comparison.notes for line in ("", f"**Note.** {inert(note)}")]
    left = comparison.left_out
    if left.probes:
        lines += ["", f"**Left out:** {len(left.added)} added, {len(left.gone)} gone, {len(left.replaced)} replaced."]
    return "\n".join(lines)


def _side(name: str, side: RunIdentity) -> str:
    policy = _code(side.policy) if side.policy else "none"
    verdict = (side.decision or "not judged").upper()
    return f"| {name} | {_code(side.run_id)} | {_code(texts.digest(side.model_digest))} | {policy} | {verdict} |"


def _findings(comparison: Comparison, rows: int) -> Iterator[str]:
    changed = [finding for finding in comparison.findings if finding.change != "unchanged"]
    if changed:
        head = ["### Findings", "", "| Change | Rule | Probe | Before | Now |", "|---|---|---|---|---|"]
        yield "\n".join([*head, *map(_finding, changed[:rows]), *_more(len(changed) - rows, "finding")])


def _finding(finding: FindingChange) -> str:
    probe = _code(finding.probe) if finding.probe else texts.subject(finding.group)
    before, after = inert(breach_text(finding.before)), inert(breach_text(finding.after))
    return f"| {finding.change.upper()} | {_code(finding.rule)} | {probe} | {before} | {after} |"


def _uncompared(comparison: Comparison, rows: int) -> Iterator[str]:
    if comparison.uncompared:
        left = comparison.uncompared
        head = ["### Findings now that the first run says nothing about", "", "| Rule | Probe | Now |", "|---|---|---|"]
        yield "\n".join([*head, *map(_left, left[:rows]), *_more(len(left) - rows, "finding")])


def _left(finding: Uncompared) -> str:
    probe = _code(finding.probe) if finding.probe else texts.subject(finding.group)
    return f"| {_code(finding.rule)} | {probe} | {inert(uncompared_text(finding))} |"


def _probes(comparison: Comparison, rows: int) -> Iterator[str]:
    changed = [probe for probe in comparison.probes if probe.change != "unchanged"]
    if changed:
        head = [
            "### Probes",
            "",
            "| Change | Probe | Group | InvMM before | InvMM now | Replicating samples | How often it comes out |",
            "|---|---|---|---|---|---|---|",
        ]
        yield "\n".join([*head, *map(_probe, changed[:rows]), *_more(len(changed) - rows, "probe")])


def _probe(probe: ProbeChange) -> str:
    before, after = inert(score_text(probe.score.before)), inert(score_text(probe.score.after))
    rates, often = inert(shown_rates(probe)), inert(shown_likelihoods(probe))
    return f"| {probe.change.upper()} | {_code(probe.probe)} | {probe.group} | {before} | {after} | {rates} | {often} |"


def _foot(comparison: Comparison) -> str:
    return (
        f"Profile {_code(comparison.profile or 'none')}, copy metric {_code(comparison.metric)}. A lower InvMM is "
        "worse; not inverted is the best outcome and no proof of safety. Rates are separate if their recorded "
        "intervals, which allow for stopping early, have no rate in common; how often it comes out is separate if the "
        "lower bound of one run lies above the upper bound of the other. This compares two runs; it is no verdict."
    )


def _code(text: str) -> str:
    return f"<code>{inert(text, _NAME)}</code>"


def _more(rest: int, noun: str) -> list[str]:
    return ["", f"{texts.count(rest)} more {noun}{'s' if rest > 1 else ''}."] if rest > 0 else []
