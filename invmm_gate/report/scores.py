"""The scores as a table: scores.csv, scores.parquet and the figures of metrics.json. No caption, no path, no prompt."""

import csv
import importlib
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from invmm_gate.core.records import Confirmation, Measurement, Probe
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding, Verdict
from invmm_gate.policy.certified_bounds import BestFigures, best_figures, certified_counts, most_likely
from invmm_gate.report import texts
from invmm_gate.report.bands import likelihood_band, score_band, share_band

Kind = Literal["text", "count", "number"]
Cell = str | int | float | None

NOT_MEASURED: Final = "not_measured"
COLUMNS: Final[dict[str, Kind]] = {
    "id": "text",
    "group": "text",
    "category": "text",
    "cluster": "text",
    "outcome": "text",
    "invmm": "number",
    "invmm_above": "number",
    "share_hits": "count",
    "share_trials": "count",
    "confirmation_status": "text",
    "confirmation_method": "text",
    "confirmation_hits": "count",
    "confirmation_trials": "count",
    "confirmation_low": "number",
    "confirmation_high": "number",
    "prompt_kind": "text",
    "likelihood_lower": "number",
    "likelihood_estimate": "number",
    "likelihood_upper": "number",
    "likelihood_nats": "number",
    "evaluations": "count",
    "seconds": "number",
    "findings": "text",
}
_CELL: Final = 1_000
"""Characters of a cell; spreadsheets cut or refuse longer ones from 32,767 on."""
_STRENGTH: Final = {"confirmed": 2, "undecided": 1, "refuted": 0}
_FORMULA: Final = re.compile(r"(^|[,;|])(\s*)(?=[=+\-@＝＋－＠]|::)")
"""Where a spreadsheet may begin to read a formula: at the start of a cell, or where another locale ends one.

And where a job's log would read a command.
"""
_TYPES: Final = {"text": "string", "count": "int64", "number": "float64"}


def score_rows(data: RunData) -> list[dict[str, Cell]]:
    """Every probe of the set in its order, measured or not; then what was measured of no probe of the set."""
    probes = {probe.id: probe for probe in data.run.probe_set.probes}
    measured = {item.probe: item for item in data.measurements}
    confirmed = _strongest(data.confirmations)
    found = _found(data.verdict.findings if data.verdict else ())
    likely = best_figures(data)
    names = dict.fromkeys((*probes, *measured))
    return [
        _probe(name, probes.get(name), measured.get(name), data.seconds)
        | _confirmation(confirmed.get(name))
        | _likelihood(likely.get(name))
        | {"findings": _text("; ".join(found.get(name, ()))) or None}
        for name in names
    ]


def _probe(name: str, listed: Probe | None, item: Measurement | None, seconds: Mapping[str, float]) -> dict[str, Cell]:
    known = item or listed
    share = item.share if item else None
    return {
        "id": _text(name),
        "group": known.group if known else None,
        "category": _text(known.category) or None if known else None,
        "cluster": _text(listed.cluster) or None if listed else None,
        "outcome": item.outcome if item else NOT_MEASURED,
        "invmm": _number(item.invmm) if item else None,
        "invmm_above": _number(item.invmm_above) if item else None,
        "share_hits": _count(share.hits) if share else None,
        "share_trials": _count(share.trials) if share else None,
        "evaluations": _count(item.evaluations) if item else None,
        "seconds": _number(seconds.get(name)),
    }


def _confirmation(item: Confirmation | None) -> dict[str, Cell]:
    if item is None:
        return {name: None for name in COLUMNS if name.startswith("confirmation_")}
    return {
        "confirmation_status": item.status,
        "confirmation_method": _text(item.method),
        "confirmation_hits": _count(item.hits),
        "confirmation_trials": _count(item.trials),
        "confirmation_low": _number(item.interval.low),
        "confirmation_high": _number(item.interval.high),
    }


def _likelihood(best: BestFigures | None) -> dict[str, Cell]:
    """The highest bound, and the estimate that gave it."""
    return {
        "prompt_kind": best.bound.kind if best else None,
        "likelihood_lower": best.lower if best else None,
        "likelihood_estimate": best.estimate if best else None,
        "likelihood_upper": best.upper if best else None,
        "likelihood_nats": _number(best.bound.nats) if best else None,
    }


def _strongest(confirmations: Iterable[Confirmation]) -> dict[str, Confirmation]:
    """One for each probe: the one that tells most against the model."""
    found: dict[str, Confirmation] = {}
    for item in confirmations:
        found[item.probe] = max(found.get(item.probe, item), item, key=_strength)
    return found


def _strength(item: Confirmation) -> tuple[int, float]:
    return (_STRENGTH.get(item.status, 0), item.hits / item.trials if item.trials else 0.0)


def _found(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """`rule effect` of each finding on a probe."""
    found: dict[str, list[str]] = defaultdict(list)
    for item in findings:
        if item.probe:
            found[item.probe].append(f"{item.rule} {'waived' if item.waiver else item.effect}")
    return found


def _text(text: str) -> str:
    return texts.visible(texts.shortened(text, _CELL))


def _count(value: int) -> int | None:
    """A count that a 64-bit column can hold; no sound record has another."""
    return value if abs(value) < 2**63 else None


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def metrics(data: RunData, verdict: Verdict) -> dict[str, object]:
    """Figures of a judged run, those of single probes in bands. A figure that there is none of is left out.

    No times: the same records and the same verdict give the same file.
    """
    lowest = score_band(min((item.invmm for item in data.measurements if item.invmm is not None), default=None))
    banded = [share for item in data.measurements if (share := share_band(item.share)) and share.trials]
    numbers = {
        "lowest_invmm": lowest,
        "highest_replication_share": max((share.hits / share.trials for share in banded), default=None),
    }
    return {
        "decision": verdict.decision,
        "exit_code": verdict.exit_code,
        **{name: round(value, 6) for name, value in numbers.items() if value is not None},
        "certified": certified_counts(data),
        **_most_likely(data),
        **_reach(verdict),
        "evaluations": sum(item.evaluations for item in data.measurements),
        "confirmation_evaluations": sum(item.evaluations for item in data.confirmations),
        "counts": dict(verdict.counts),
    }


def _most_likely(data: RunData) -> dict[str, float]:
    """The lower end of the band of the likeliest image; nothing below the last band."""
    band = next(map(likelihood_band, most_likely(data)), None)
    return {} if band is None else {"highest_likelihood": 10.0 ** -round(band / math.log(10))}


def _reach(verdict: Verdict) -> dict[str, object]:
    """What is said of images that are no probes, as far as there is anything to say."""
    share, power = verdict.extractable, verdict.power
    found: dict[str, object] = {}
    if share is not None:
        found["extractable"] = {"drawn": share.drawn, "found": share.found, "at_most": round(share.upper, 6)}
    if power.rungs:
        smallest = {} if power.found_from is None else {"found_from": power.found_from}
        rungs = {str(rung.multiplicity): {"found": rung.found, "planted": rung.planted} for rung in power.rungs}
        found["power"] = smallest | {"canaries": rungs}
    return found


def metrics_file(data: RunData, verdict: Verdict) -> str:
    """The figures as JSON. Raises ValueError on NaN or infinity."""
    return json.dumps(metrics(data, verdict), allow_nan=False, indent=2) + "\n"


def render_csv(data: RunData) -> str:
    """The table with a header. Numbers are exact; an apostrophe disarms text that would be run."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in score_rows(data):
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return buffer.getvalue()


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return _FORMULA.sub(r"\1\2'", value) if isinstance(value, str) else repr(value)


def render_parquet(data: RunData) -> bytes | None:
    """The table; None without pyarrow. The same records give the same bytes under one version of pyarrow."""
    arrow = _arrow()
    if arrow is None:
        return None
    pa, parquet, reader = arrow
    schema = pa.schema([(name, getattr(pa, _TYPES[kind])()) for name, kind in COLUMNS.items()])
    sink = io.BytesIO()
    # Through JSON, as every way from Python objects into pyarrow imports pandas: most of a second.
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in score_rows(data)).encode()
    options = reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    table = reader.read_json(io.BytesIO(lines), parse_options=options) if lines else schema.empty_table()
    parquet.write_table(table, sink)
    return sink.getvalue()


def _arrow() -> tuple[Any, Any, Any] | None:
    try:
        pa, parquet, reader = (importlib.import_module(f"pyarrow{name}") for name in ("", ".parquet", ".json"))
    except ImportError:
        return None
    return pa, parquet, reader
