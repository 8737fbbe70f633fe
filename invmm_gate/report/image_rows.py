"""One row for each image that comes out, or that a finding names: what a user has to do, and how often it comes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, prod
from typing import Final, Literal

from invmm_gate.core.likelihood_record import Certified, PromptKind, frequency
from invmm_gate.core.records import Measurement, Probe
from invmm_gate.core.run_records import PromptPlan, RunData, SamplingPlan
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.certified_bounds import best_bound, certified_in, is_drawn
from invmm_gate.policy.evidence import has_prompts
from invmm_gate.policy.likelihoods import BY, USER_KINDS
from invmm_gate.report import texts
from invmm_gate.report.cleaned import Cleaner, ranked

Way = PromptKind | Literal["noise", "unknown"]
State = Literal["block", "inconclusive", "waived", "none"]

TO_DO: Final[Mapping[Way, str]] = {
    "none": "nothing but sampling",
    "caption": "give its caption",
    "typed": "type a strange prompt",
    "label": "give its class label",
    "other_label": "give another class label",
    "soft": "use tools: a soft prompt",
    "noise": "use tools: chosen noise",
    "unknown": "no way was found",
}
_TOLD: Final = frozenset(("confirmed", "extraction_likelihood", "invmm_below", "below_controls"))
"""Rules whose breach the bound and the score say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """All that the first screen says of one image."""

    probe: str
    group: str
    """Empty for a probe that the set does not have."""
    category: str
    target: bool
    """Whether it is an image that must not come out."""
    way: Way
    """The easiest one that is known."""
    bound: Certified | None
    """How often it comes out at least, that way; where no way is known, what is certified all the same."""
    often: str
    sure: str
    state: State
    """Of its findings together."""
    rules: tuple[str, ...]
    """Rules with a finding that counts."""
    waived: tuple[str, ...]
    """Rules of which every finding is waived."""
    notes: tuple[str, ...]
    """What is open, what broke a rule where no bound says it, and who waived what."""
    score: str

    @property
    def drawn(self) -> bool:
        """Whether a user can draw it, without tools."""
        return self.way in USER_KINDS

    @property
    def to_do(self) -> str:
        """What a user has to do."""
        return TO_DO[self.way]


def row_line(row: ImageRow) -> str:
    """The row in one line of text."""
    group = f" ({row.group})" if row.group else ""
    noise = ", comes out with chosen noise" if row.way == "noise" else ""
    often = bound_text(row.bound) if row.bound else row.often + noise
    notes = row.notes if row.state != "waived" else ()
    return f"{row.probe}{group}: " + "; ".join((often, row.score, _rules(row), *notes))


def _rules(row: ImageRow) -> str:
    counting = _named(row.rules)
    waived = f"{_named(row.waived)} waived" if row.waived else ""
    return ", ".join(filter(None, (counting, waived))) or "no rule"


def _named(rules: Sequence[str]) -> str:
    return f"{len(rules)} rules" if len(rules) > 1 else "".join(rules)


def bound_text(bound: Certified) -> str:
    """`at least one in 41 generations by plain sampling`."""
    return f"at least {frequency(bound.nats)} {BY[bound.kind]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Records:
    """What a run says, by probe id."""

    data: RunData
    clean: Cleaner
    probes: Mapping[str, Probe]
    measured: Mapping[str, Measurement]
    bounds: Mapping[str, Mapping[PromptKind, Certified]]
    findings: Mapping[str, Sequence[Finding]]
    sampled: Mapping[str, int]
    """The most samples that it was held against at once."""


def image_rows(data: RunData, findings: Iterable[Finding], clean: Cleaner) -> tuple[ImageRow, ...]:
    """Images that come out, or that need tools, and all that a finding names; most likely first, waived ones last.

    `findings` are those of `cleaned_findings`.
    """
    records = _records(data, findings, clean)
    rows = [_row(records, name) for name in dict.fromkeys((*records.probes, *records.findings))]
    places = {item.probe: place for place, item in enumerate(ranked(data.measurements))}
    listed = (row for row in rows if row.state != "none" or (row.target and _comes_out(row, data)))
    return tuple(sorted(listed, key=lambda row: _place(row, places.get(row.probe, len(places)))))


def _comes_out(row: ImageRow, data: RunData) -> bool:
    """Chosen noise tells of memorization only where it is near to plain noise: where a rule found the score."""
    return row.drawn or row.way == "soft" or (row.way == "noise" and data.verdict is None)


def _place(row: ImageRow, place: int) -> tuple[bool, int, float, int, str]:
    drawn = 0 if row.drawn else 2 if row.way == "unknown" else 1
    return (row.state == "waived", drawn, row.bound.nats if row.bound else inf, place, row.probe)


def _records(data: RunData, findings: Iterable[Finding], clean: Cleaner) -> _Records:
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.probe is not None:
            found[finding.probe].append(finding)
    sampled: dict[str, int] = defaultdict(int)
    for tried in data.confirmations:
        sampled[tried.probe] = max(sampled[tried.probe], tried.trials)
    return _Records(
        data=data,
        clean=clean,
        probes={probe.id: probe for probe in data.run.probe_set.probes},
        measured={item.probe: item for item in data.measurements},
        bounds=certified_in(data),
        findings=found,
        sampled=sampled,
    )


def _row(records: _Records, name: str) -> ImageRow:
    probe, item, found = records.probes.get(name), records.measured.get(name), records.findings.get(name, ())
    bound = best_bound(records.bounds.get(name, {}))
    counting = tuple(dict.fromkeys(finding.rule for finding in found if finding.waiver is None))
    return ImageRow(
        probe=name,
        group=probe.group if probe else "",
        category=probe.category if probe else "",
        target=probe is not None and probe.is_target,
        way=_way(bound, item),
        bound=bound,
        often=f"at least {frequency(bound.nats)}" if bound else _unseen(records.sampled.get(name, 0)),
        sure=f"{100 * min(bound.confidence, plan_confidence(records.data)):g} %" if bound else "–",
        state=_state(found),
        rules=counting,
        waived=tuple(dict.fromkeys(each.rule for each in found if each.waiver and each.rule not in counting)),
        notes=tuple(dict.fromkeys(_notes(found, records.clean, told=bound is not None))),
        score=_score(records.data, item),
    )


def _way(bound: Certified | None, item: Measurement | None) -> Way:
    if bound is not None and is_drawn(bound):
        return bound.kind
    return "noise" if item is not None and item.outcome == "inverted" else "unknown"


def _unseen(trials: int) -> str:
    return f"not once in {texts.count(trials)} samples" if trials > 0 else "not sampled"


def plan_of(data: RunData) -> SamplingPlan | PromptPlan | None:
    """How this run's kind of model was confirmed; None where nothing was to be."""
    plan = data.run.inputs.confirm
    return plan.prompts if has_prompts(data.run) else plan.plain_sampling


def plan_confidence(data: RunData) -> float:
    """Of all looks and scales of a confirmation together: each bound of counted copies has its part of the error."""
    plan = plan_of(data)
    return plan.confidence if plan else 1.0


def _state(found: Sequence[Finding]) -> State:
    if not found:
        return "none"
    counting = [finding.effect for finding in found if finding.waiver is None]
    return "waived" if not counting else "block" if "block" in counting else "inconclusive"


def _notes(found: Sequence[Finding], clean: Cleaner, *, told: bool) -> Iterator[str]:
    for finding in found:
        if finding.waiver is None and not (told and finding.effect == "block" and finding.rule in _TOLD):
            yield finding.message
    for waiver in (each.waiver for each in found if each.waiver is not None):
        yield f"Waived by {clean(waiver.owner)} until {waiver.expires.isoformat()}: {clean(waiver.reason)}"


def _score(data: RunData, item: Measurement | None) -> str:
    if item is None or item.outcome != "inverted" or item.invmm is None:
        return texts.measured_score(item) if item else "not measured"
    if data.public:
        return f"InvMM at most {texts.score(item.invmm)}"
    bits = item.invmm * prod(data.run.inputs.latent_shape) / log(2)
    return f"InvMM {texts.score(item.invmm)} ({bits:.1f} bits)"
