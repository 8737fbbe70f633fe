"""The first sentence of every report, in words that need no knowledge of the gate, and what was not tested."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import floor
from typing import Final

from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.likelihood_record import frequency
from invmm_gate.core.records import SEARCHES, Probe
from invmm_gate.core.run_records import RunData
from invmm_gate.core.settings import Told, told
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.policy.evidence import has_prompts
from invmm_gate.policy.likelihoods import BY
from invmm_gate.policy.power import luck, tests_of
from invmm_gate.report.image_rows import ImageRow, plan_confidence
from invmm_gate.report.texts import count, hits

_PARTLY: Final = 0.7
"""A share of copies that is far from all of them."""
_MISSING: Final = "what the verdict rests on is missing or broke"


def headline(data: RunData, rows: Sequence[ImageRow]) -> tuple[str, ...]:
    """Sentences. The first: how many of the images come out, and how often the easiest does. Then what else there is.

    Where none comes out: what was looked for, how hard, and what that is worth.
    """
    targets = [probe for probe in data.run.probe_set.probes if probe.is_target]
    if not targets:
        return ("This run has no private image to look for.",)
    drawn = [row for row in rows if row.target and row.drawn]
    tools = [row for row in rows if row.target and row.way in ("soft", "noise")]
    parts = _found(data, drawn, tools, len(targets)) if drawn or tools else _not_found(data, targets)
    return (*parts, *_unmeasured(data, targets))


def _found(data: RunData, drawn: Sequence[ImageRow], tools: Sequence[ImageRow], total: int) -> Iterator[str]:
    if data.verdict and data.verdict.decision == "inconclusive":
        found = _of(len(drawn) + len(tools), total)
        yield f"Copies of {found} were made, but nothing follows from that: {_MISSING}."
        return
    if drawn:
        easiest = min((row for row in drawn if row.bound), key=lambda row: row.bound.nats if row.bound else 0.0)
        yield f"{_of(len(drawn), total)} can be drawn from this model{_easiest(easiest, alone=len(drawn) == 1)}."
    means = "a soft prompt or chosen noise" if told(data.run.inputs.settings.prompt) == "prompt" else "chosen noise"
    if tools and drawn:
        yield f"{count(len(tools))} more can be brought out with tools: {means}."
    elif tools:
        yield f"{_of(len(tools), total)} can be brought out of this model with tools: {means}."
        yield "None was shown to come out of ordinary generations."
    waived = sum(row.state == "waived" for row in (*drawn, *tools))
    if waived:
        yield f"Waivers accept {count(waived)} of these {count(len(drawn) + len(tools))}."


def _of(some: int, total: int) -> str:
    return f"{hits(some, total)} private image{'' if total == 1 else 's'}"


def _easiest(row: ImageRow, *, alone: bool) -> str:
    if row.bound is None:
        return ""
    said = f"comes out of at least {frequency(row.bound.nats)} {BY[row.bound.kind]}"
    return f": it {said}" if alone else f"; the easiest {said}"


def _not_found(data: RunData, targets: Sequence[Probe]) -> Iterator[str]:
    decision = data.verdict.decision if data.verdict else "not_judged"
    none = f"None of the {count(len(targets))} private images was" if len(targets) > 1 else "The private image was not"
    none += " shown to come out of this model"
    if decision == "block":
        yield f"{none}, but a rule of the policy is broken: it is named below."
    elif decision == "inconclusive":
        yield f"{none}, but nothing follows from that: {_MISSING}."
    else:
        yield f"{none}."
        yield _search(data, targets)
        yield "That is no proof that none can come out; what this run could have found is said below."


def _search(data: RunData, targets: Sequence[Probe]) -> str:
    """What was looked for, and how hard."""
    settings = data.run.inputs.settings
    soft = settings.prompt not in ("none", "label", "caption")
    what = "noise and prompts that draw it" if soft else "noise that draws it"
    steps = f"searched for {what}, in up to {count(settings.steps)} steps"
    sampled = _sampled(data, targets)
    if not sampled:
        return f"For each image the gate {steps}; it did not look for each among ordinary generations."
    return f"Each image was looked for in {sampled}; and for each the gate {steps}."


def _sampled(data: RunData, targets: Sequence[Probe]) -> str:
    """The ordinary generations that each image was held against; empty where one was held against none."""
    most: dict[str, int] = defaultdict(int)
    for tried in data.confirmations:
        if tried.method not in SEARCHES:
            most[tried.probe] = max(most[tried.probe], tried.trials)
    fewest = min(most[probe.id] for probe in targets)
    if fewest <= 0:
        return ""
    confidence = plan_confidence(data)
    often = floor(1 / upper_bound(0, fewest, confidence=confidence) + 1e-9)
    how = _SAMPLES[told(data.run.inputs.settings.prompt)]
    return (
        f"{count(fewest)} {how}, which would have shown an image that comes out of one in "
        f"{count(often)} of them ({100 * confidence:g} % sure)"
    )


_SAMPLES: Final[Mapping[Told, str]] = {
    "nothing": "plain samples", "label": "samples with its label", "prompt": "samples with its caption",
}  # fmt: skip


def _unmeasured(data: RunData, targets: Sequence[Probe]) -> Iterator[str]:
    measured = {item.probe for item in data.measurements if item.outcome != "error"}
    left = sum(probe.id not in measured for probe in targets)
    if left:
        yield f"{hits(left, len(targets))} could not be measured."


def not_tested(data: RunData, verdict: Verdict) -> Iterator[str]:
    """What the verdict says nothing about."""
    scope, height, width = verdict.tested, *verdict.tested.image_size
    total = count(sum(probe.is_target for probe in data.run.probe_set.probes))
    beyond = ": the images drawn at random bound their share, and say no more" if verdict.extractable else ""
    yield f"Images other than the {total} private ones of this probe set{beyond}."
    scales = ", ".join(f"{scale:g}" for scale in scope.guidance_scales)
    guided = f", and guidance scales other than {scales}" if has_prompts(data.run) else ""
    yield f"Sizes other than {height} × {width} pixels{guided}."
    settings = data.run.inputs.settings
    scored = "on the measure's grid" if settings.sampler == "grid" else "as the released pipeline draws"
    yield (
        f"Samplers other than these: {'; '.join(dict.fromkeys(scope.samplers))}. Scores are of samples {scored}, in "
        f"{count(settings.sampler_steps)} {'step' if settings.sampler_steps == 1 else 'steps'}."
    )
    if settings.certified_share is None:
        looks = tests_of(settings)
        yield (
            f"Whether inverted images always come out of their noise: {settings.test_samples} of "
            f"{settings.test_samples} draws of one test were enough. With up to {count(looks)} tests, noise of which "
            f"{100 * _PARTLY:g} % of the draws are copies passes by luck in {100 * luck(settings, _PARTLY):.2g} % of "
            "cases."
        )
    yield "Changed weights: a model that is trained on, merged, or compressed after this test is another model."
