"""How numbers, digests, foreign text, file names and findings are written in every report: one place."""

import datetime
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

from invmm_gate.core.records import Interval, Measurement, ReplicationShare, Trial
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import BaselineRecord
from invmm_gate.policy import controls, coverage, soundness
from invmm_gate.policy.rules import known
from invmm_gate.policy.rules.rule import EVIDENCE, Description
from invmm_gate.report import texts

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that a reader cannot see, or that reorder or end a line: controls, bidi overrides, surrogates."""

_DASH: Final = "–"


def visible(text: str) -> str:
    r"""The text with every character that cannot be seen spelled out: ESC becomes `\x1b`, U+202E `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def _spelled(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters; a cut is marked with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def score(value: float | None) -> str:
    """An InvMM, a limit or a copy-metric value: 4 decimals, none for a whole number, else 3 significant digits."""
    if value is None:
        return _DASH
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.2e}"


def percent(value: float) -> str:
    """A proportion in [0, 1] as a percentage; a proportion that is not 0 or 1 is never written as 0 % or 100 %."""
    if not math.isfinite(value):
        return "not finite"
    hundredths = round(100 * value, 9)  # an interval's end that is 1 but for rounding is 100 %
    if 0 < hundredths < 0.1:
        return "< 0.1 %"
    if 99.9 < hundredths < 100:
        return "> 99.9 %"
    return f"{hundredths:.0f} %" if hundredths in (0, 100) or 10 <= hundredths <= 90 else f"{hundredths:.1f} %"


def subject(group: str | None) -> str:
    """What a finding is about that names no probe: a group, or the whole run."""
    return f"group {group}" if group else "whole run"


def interval(value: Interval) -> str:
    """`31 % to 86 %`."""
    return f"{percent(value.low)} to {percent(value.high)}"


def interval_kind(value: Interval) -> str:
    """`95 % Wilson interval`."""
    method = {"wilson": "Wilson", "clopper_pearson": "Clopper-Pearson"}[value.method]
    return f"{100 * value.confidence:g} % {method} interval"


def hits(hit: int, trials: int) -> str:
    """`5 of 8`."""
    return f"{count(hit)} of {count(trials)}"


def count(value: int) -> str:
    """Thousands set apart: `95,200`."""
    return f"{value:,}"


def times(multiplicity: int) -> str:
    """How often: `once`, `1,000 times`."""
    return "once" if multiplicity == 1 else f"{count(multiplicity)} times"


def duration(seconds: float | None) -> str:
    """Wall time in the largest units that matter: `3.2 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds is None or not math.isfinite(seconds):
        return _DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def utc(moment: str) -> str:
    """An ISO 8601 time in UTC, to the second and without a zone; empty where it cannot be read."""
    try:
        read = datetime.datetime.fromisoformat(moment)
        shifted = read.astimezone(datetime.UTC) if read.tzinfo else read
    except (ValueError, OverflowError):
        return ""
    return shifted.replace(tzinfo=None).isoformat(timespec="seconds")


def digest(value: str) -> str:
    """The first 12 characters; the full value belongs in the title beside it."""
    return value[:12] if value else "none"


def measured_score(item: Measurement | Trial) -> str:
    """What stands in the InvMM column: a score, a bound, or why there is none."""
    if item.outcome == "inverted":
        return score(item.invmm)
    if item.outcome == "above_threshold":
        return f"above {score(item.invmm_above)}"
    if item.outcome == "error":
        return "no score"
    return f"not inverted{_of_test(item.share)}"


def _of_test(share: ReplicationShare | None) -> str:
    return f" ({hits(share.hits, share.trials)})" if share else ""


def spread(item: Measurement) -> str:
    """Smallest to largest score over the seeds; empty where only one seed gave a score."""
    if item.invmm_spread is None or item.invmm_spread[0] == item.invmm_spread[1]:
        return ""
    return f"{score(item.invmm_spread[0])} to {score(item.invmm_spread[1])}"


def plain(value: object) -> str:
    """A setting's value: words for true, false and none, text as it is, the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def flattened(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every setting, sorted by name."""
    for key in sorted(settings, key=str):
        value, name = settings[key], f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{name}.")
        else:
            yield name, plain(value)


def described_baseline(data: RunData) -> str:
    """Which run, of which model, blessed by whom, when and why; empty where no baseline was given."""
    given = data.verdict.baseline if data.verdict else None
    if given is None:
        return ""
    run = f"run {given.run_id} of model {texts.digest(given.model_digest)}, measurements sha256 "
    return f"{run}{texts.digest(given.measurements_digest)}, {_blessing(given)}"


def _blessing(given: BaselineRecord) -> str:
    if not given.blessed_by:
        return "named by hand, blessed by nobody"
    despite = "" if given.decision == "pass" else f", although its verdict was {given.decision}"
    return f"blessed by {given.blessed_by} on {given.blessed_on}{despite}: {given.reason}"


RUN_FILES: Final = (
    ("verdict.json", "the verdict with every finding, for programs"),
    ("summary.md", "the short summary for a job page"),
    ("results.sarif", "the findings for code scanning (SARIF 2.1.0)"),
    ("junit.xml", "one test case a probe, for test dashboards"),
    ("scores.csv", "one row a probe, for a spreadsheet"),
    ("scores.parquet", "the same with types, where pyarrow is installed"),
    ("public/", "report, summary and verdict with hashed names and bands for scores: what may be handed on"),
    ("public-ids.key", "the key of the hashed names; never to be handed on"),
    ("measurements.jsonl", "all that was measured, with the curves"),
    ("confirmations.jsonl", "how probes were confirmed; prompts that were found are in it"),
    ("run.json", "what was run on what; captions and paths are in it"),
    ("judged/", "what the run was judged with: policy, waivers, reviewers' keys, baseline"),
    ("attestation.json", "the signed statement, once `invmm-gate sign` made one"),
)
"""(name, what it holds)."""


DESCRIPTIONS: Final[Mapping[str, Description]] = {
    **known.DESCRIPTIONS,
    **coverage.DESCRIPTIONS,
    controls.CONTROLS: controls.DESCRIPTION,
    soundness.RECORDS: soundness.DESCRIPTION,
}
OTHER: Final = Description(
    short="A rule of the policy is broken",
    full="A rule that this version of the report has no description of.",
    help=EVIDENCE,
)


def description_of(rule: str) -> Description:
    """The description of the rule; a general one for a rule that is not known."""
    return DESCRIPTIONS.get(rule, OTHER)
