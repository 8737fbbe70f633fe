"""How likely an image comes out, with all figures: for the details of a report."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from math import ceil, inf, log, log10
from typing import Final

from invmm_gate.core.likelihood_record import Certified, Likelihood, PromptKind, frequency
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.certified_bounds import certified_in
from invmm_gate.report import texts

GIVEN: Final[dict[PromptKind, str]] = {
    "none": "nothing but noise",
    "caption": "its caption",
    "typed": "a prompt that a search found and that can be typed",
    "label": "its class label",
    "other_label": "another class label",
    "soft": "a soft prompt, which nobody can type",
}
_METHODS: Final = {
    "importance_sampling": "weighted draws around the inverted noise",
    "replication_share": "the share of such draws that replicate",
}
_WHOLE: Final = 9
"""Powers of ten up to which a frequency is written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What is known of one image with one kind of prompt, in words."""

    given: str
    least: str
    nats: str
    bits: str
    estimate: str
    most: str
    sure: str
    how: str


def chances_in(data: RunData) -> dict[str, tuple[Chance, ...]]:
    """By probe: each estimate, and each bound that counted copies give and no estimate reaches. None in public."""
    if data.public:
        return {}
    records: dict[str, list[Likelihood]] = defaultdict(list)
    for record in data.likelihoods:
        records[record.probe].append(record)
    bounds = certified_in(data)
    named = dict.fromkeys((*records, *bounds))
    return {probe: tuple(_chances(records[probe], tuple(bounds.get(probe, {}).values()))) for probe in named}


def _chances(records: Sequence[Likelihood], bounds: Sequence[Certified]) -> Iterator[Chance]:
    for record in records:
        drawn = f"{texts.hits(record.copies, record.draws)} draws and "
        plain = f"{texts.hits(record.plain_copies, record.plain_draws)} plain samples were copies"
        yield Chance(
            given=_given(record),
            **_bound(record.nats, record.confidence),
            estimate=about(record.estimate),
            most=at_most(record.upper),
            how=f"{_METHODS.get(record.method, record.method)}; {drawn if record.draws else ''}{plain}",
        )
    told = {(record.prompt_kind, record.nats) for record in records}
    for bound in bounds:
        if (bound.kind, bound.nats) not in told:
            figures = _bound(bound.nats, bound.confidence)
            yield Chance(given=GIVEN[bound.kind], **figures, estimate="–", most="–", how="counted copies")


def _given(record: Likelihood) -> str:
    scale = "" if record.guidance_scale is None else f", guidance scale {record.guidance_scale:g}"
    return GIVEN.get(record.prompt_kind, record.prompt_kind) + scale


def _bound(nats: float | None, confidence: float) -> dict[str, str]:
    if nats is None:
        return {"least": "no bound", "nats": "–", "bits": "–", "sure": f"{100 * confidence:.4g} %"}
    return {
        "least": frequency(nats).removesuffix(" generations").removesuffix(" of"),
        "nats": f"{nats:.2f}",
        "bits": f"{nats / log(2):.1f}",
        "sure": f"{100 * confidence:.4g} %",
    }


def about(share: float) -> str:
    """An estimate in words: `one in 43`, `12 %`."""
    return _share(share, ROUND_HALF_EVEN)


def at_most(share: float) -> str:
    """An upper bound in words, never less than it is."""
    return f"{ceil(100 * share - 1e-9)} %" if 0.1 <= share <= 1 else _share(share, ROUND_FLOOR)


def _share(share: float, rounding: str) -> str:
    if not 0 < share <= 1:
        return "–"
    if share >= 0.1:
        return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
    often = 1 / share
    if often == inf or log10(often) > _WHOLE:
        return f"one in 10^{-log10(share):.0f}" if share > 0 else "–"
    return f"one in {int(Context(prec=2, rounding=rounding).create_decimal(Decimal(often))):,}"
