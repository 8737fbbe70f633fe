"""The tables of the likelihood study, from the recorded scores and truths alone.

    python benchmarks/ladder/tables.py [--write]

Prints them, or writes them into docs/studies/likelihood.md between its marks, with a scatter beside it, and what the
report says of the study into invmm_gate/report/studied.json. A test holds them to the records.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Final

sys.path.append(str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parent))

from criteria import CERTIFIED, COMES_OUT, ENOUGH, FACTOR, RECORDS
from recipes import BACKGROUND, LADDER, PROOF, RECIPES, TUNING
from text_tables import captions_table, counted, joint_table, text_estimate_table, text_ladder_table, text_studied

from invmm_gate.core.intervals import clopper_pearson, lower_bound, upper_bound
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihoodConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.schema import Policy, load_policy

STUDIED: Final = Path(__file__).parents[2] / "invmm_gate/report/studied.json"
SCATTER: Final = Path(__file__).parents[2] / "docs/studies/likelihood.svg"
PAGE: Final = Path(__file__).parents[2] / "docs/studies/likelihood.md"
LEAST: Final = 1e-9
"""The lower end of the scatter."""
SEEDS: Final = (1, 2, 3, 4)
"""Seeds beside 0 under which some images were scored again."""
SHIPPED_POLICIES: Final = ("strict", "standard", "permissive")
BANDS: Final = ((COMES_OUT, 1.0), (1e-4, COMES_OUT), (0.0, 1e-4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of one model: what the search found, and how often it really comes out."""

    multiplicity: int
    copies: int
    """Of the truth's samples."""
    samples: int
    inverted: bool
    score: float | None
    """In nats over all dimensions."""
    lower: float
    estimate: float | None
    """None where no likelihood was estimated."""
    upper: float
    evaluations: int
    likelihood_evaluations: int

    @property
    def truth(self) -> float:
        """Share of plain samples that are copies."""
        return self.copies / self.samples

    @property
    def found(self) -> bool:
        """Inverted, or with a certified likelihood."""
        return self.inverted or self.lower > CERTIFIED


def images(model: str, kind: str = "gate") -> tuple[Image, ...]:
    """What the records hold of a model: those images that were scored."""
    truths = {row["image"]: row for row in _rows(f"truth-{model}")}
    return tuple(_image(row, truths[row["image"]]) for row in _rows(f"{kind}-{model}"))


def recorded(models: Iterable[str], kind: str = "gate") -> tuple[str, ...]:
    """Of these models those with both records."""
    return tuple(name for name in models if all((RECORDS / f"{each}-{name}.csv").exists() for each in ("truth", kind)))


def _rows(name: str) -> list[dict[str, str]]:
    with (RECORDS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _image(row: dict[str, str], truth: dict[str, str]) -> Image:
    return Image(
        multiplicity=int(truth["multiplicity"]),
        copies=int(truth["copies"]),
        samples=int(truth["samples"]),
        inverted=row["outcome"] == "inverted",
        score=float(row["score_nats"]) if row["score_nats"] else None,
        lower=exp(-float(row["bound_nats"])) if row["bound_nats"] else 0.0,
        estimate=float(row["estimate"]) if row["estimate"] else None,
        upper=float(row["upper"]) if row["upper"] else 1.0,
        evaluations=int(row["evaluations"]),
        likelihood_evaluations=int(row["likelihood_evaluations"]),
    )


def found_table(models: Sequence[str]) -> Iterator[str]:
    """Found images by how often they really come out."""
    yield "| model | p >= 0.5 % | p from 0.01 % to 0.5 % | p below 0.01 %, at least one copy | no copy | never seen |"
    yield "|---|---|---|---|---|---|"
    every: list[Image] = []
    for name in models:
        own = images(name)
        every += own
        yield _found_row(name, own)
    if len(models) > 1:
        yield _found_row("all", every)


def _found_row(name: str, own: Sequence[Image]) -> str:
    planted = [image for image in own if image.multiplicity]
    bands = [[image for image in planted if low <= image.truth < high and image.copies] for low, high in BANDS]
    silent = [image for image in planted if not image.copies]
    unseen = [image for image in own if not image.multiplicity]
    return f"| {name} | " + " | ".join(_share(part) for part in (*bands, silent, unseen)) + " |"


def _share(part: Sequence[Image]) -> str:
    """How many were found, with the exact interval at 95 %."""
    if not part:
        return "none there"
    hits = sum(image.found for image in part)
    interval = clopper_pearson(hits, len(part))
    return f"{hits} of {len(part)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def ladder_table(models: Sequence[str]) -> Iterator[str]:
    """By multiplicity: found, with the exact interval at 95 %, and scores; one that was not inverted is infinite."""
    rungs = sorted({image.multiplicity for name in models for image in images(name) if image.multiplicity})
    yield "| model | | " + " | ".join(f"{rung}x" for rung in rungs) + " |"
    yield "|---|---|" + "---|" * len(rungs)
    for name in models:
        own = [[image for image in images(name) if image.multiplicity == rung] for rung in rungs]
        shown: tuple[tuple[str, Callable[[list[Image]], str]], ...] = (
            ("copies in 100,000 samples, median", lambda part: f"{1e5 * median(each.truth for each in part):.0f}"),
            ("found", _share),
            ("inverted", lambda part: f"{sum(each.inverted for each in part)}"),
            ("score in nats, median", lambda part: _number(median(_score(each) for each in part))),
            ("score in nats, median of the inverted", _score_of_inverted),
            ("nats of the bound, median", lambda part: _number(median(_bound(each) for each in part))),
        )
        for place, (label, said) in enumerate(shown):
            cells = " | ".join(said(part) if part else "" for part in own)
            yield f"| {name if not place else ''} | {label} | {cells} |"


def _score_of_inverted(part: Sequence[Image]) -> str:
    scores = [image.score for image in part if image.score is not None]
    return _number(median(scores)) if scores else ""


def _score(image: Image) -> float:
    return inf if image.score is None else image.score


def _bound(image: Image) -> float:
    return -log(image.lower) if image.lower else inf


def _number(value: float) -> str:
    return "none" if value == inf else f"{value:.1f}"


def blocked_table(models: Sequence[str]) -> Iterator[str]:
    """What the rules of each shipped policy that judge an image by itself block, by multiplicity."""
    every = [image for name in models for image in images(name)]
    rungs = [*sorted({image.multiplicity for image in every} - {0}), 0]
    yield "| policy | rule | " + " | ".join(f"{rung}x" if rung else "never seen" for rung in rungs) + " |"
    yield "|---|---|" + "---|" * len(rungs)
    for name in SHIPPED_POLICIES:
        for label, blocks in _blocking(load_policy(name)):
            own = ([blocks(image) for image in every if image.multiplicity == rung] for rung in rungs)
            cells = " | ".join(f"{sum(part)} of {len(part)}" for part in own)
            yield f"| {name} | {label} | {cells} |"


def _blocking(policy: Policy) -> Iterator[tuple[str, Callable[[Image], bool]]]:
    """(the rule with its limit, whether it blocks an image), and the same of both rules."""
    nats = next(rule.total_nats for rule in policy.rules if isinstance(rule, InvmmBelowConfig))
    one_in = next(rule.one_in for rule in policy.rules if isinstance(rule, ExtractionLikelihoodConfig))
    if nats is None:
        raise SystemExit(f"policy {policy.name}: invmm_below has no threshold in nats or bits")

    def near(image: Image) -> bool:
        return image.score is not None and image.score <= nats

    def likely(image: Image) -> bool:
        return image.lower >= 1 / one_in

    yield f"`invmm_below`, {nats:g} nats", near
    yield f"`extraction_likelihood`, one in {one_in:,}", likely
    yield "one of the two", lambda image: near(image) or likely(image)


def estimate_table(models: Sequence[str]) -> Iterator[str]:
    """Estimates against the truth, of images with enough copies in it; bounds against the truth's interval."""
    yield "| model | images | estimate within a factor of 3 | bound above the truth | upper bound below the truth |"
    yield "|---|---|---|---|---|"
    every: list[Image] = []
    for name in models:
        own = [image for image in images(name) if image.copies >= ENOUGH and image.estimate is not None]
        every += own
        yield _estimate_row(name, own)
    if len(models) > 1:
        yield _estimate_row("all", every)


def _estimate_row(name: str, own: Sequence[Image]) -> str:
    near = sum(1 / FACTOR <= (image.estimate or 0.0) / image.truth <= FACTOR for image in own)
    above = sum(image.lower > upper_bound(image.copies, image.samples, confidence=0.975) for image in own)
    below = sum(image.upper < lower_bound(image.copies, image.samples, confidence=0.975) for image in own)
    share = f"{near} ({100 * near / len(own):.0f} %)" if own else "0"
    return f"| {name} | {len(own)} | {share} | {above} | {below} |"


def cost_table(models: Sequence[str]) -> Iterator[str]:
    """Network rows a probe, before and after."""
    yield "| model | search | inverted | F, inverted | F, not inverted | F of a likelihood |"
    yield "|---|---|---|---|---|---|"
    for name in models:
        for kind in ("former", "gate"):
            if recorded([name], kind):
                own = images(name, kind)
                inverted = [image.evaluations for image in own if image.inverted]
                others = [image.evaluations for image in own if not image.inverted]
                drawn = [image.likelihood_evaluations for image in own if image.likelihood_evaluations]
                means = " | ".join(f"{sum(part) // len(part):,}" if part else "" for part in (inverted, others, drawn))
                yield f"| {name} | {kind} | {len(inverted)} of {len(own)} | {means} |"


def former_table(models: Sequence[str]) -> Iterator[str]:
    """The same images before and after the search was changed."""
    yield "| model | images | inverted, former | gate | median nats of both, former | gate | F, former | F, gate |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in models:
        if recorded([name], "former"):
            rows = [{row["image"]: row for row in _rows(f"{kind}-{name}")} for kind in ("former", "gate")]
            shared = [(rows[0][image], rows[1][image]) for image in rows[0]]
            inverted = [sum(pair[kind]["outcome"] == "inverted" for pair in shared) for kind in (0, 1)]
            both = [pair for pair in shared if all(row["outcome"] == "inverted" for row in pair)]
            nats = [median(float(pair[kind]["score_nats"]) for pair in both) for kind in (0, 1)]
            silent = [pair for pair in shared if all(row["outcome"] != "inverted" for row in pair)]
            cost = [mean(int(pair[kind]["evaluations"]) for pair in silent) for kind in (0, 1)]
            yield (
                f"| {name} | {len(shared)} | {inverted[0]} | {inverted[1]} | {nats[0]:.1f} | {nats[1]:.1f} | "
                f"{cost[0]:,.0f} | {cost[1]:,.0f} |"
            )


def spread_table(models: Sequence[str]) -> Iterator[str]:
    """How much score and bound move with the seed, of the images that every seed gives one."""
    yield "| model | seeds | images | inverted by every seed | spread of the score | spread of the bound's nats |"
    yield "|---|---|---|---|---|---|"
    for name in models:
        kinds = ("gate", *(f"seed{seed}" for seed in SEEDS))
        if all(recorded([name], kind) for kind in kinds):
            rows = [{row["image"]: row for row in _rows(f"{kind}-{name}")} for kind in kinds]
            shared = [[own[image] for own in rows] for image in rows[-1]]
            scores, bounds = (_spreads(shared, column) for column in ("score_nats", "bound_nats"))
            counts = f"{len(kinds)} | {len(shared)} | {len(scores)}"
            yield f"| {name} | {counts} | {_spread(scores)} | {_spread(bounds)} |"


def _spreads(shared: Iterable[Sequence[dict[str, str]]], column: str) -> list[float]:
    """Standard deviation over mean, of each image that has a value under every seed."""
    values = [[float(row[column]) for row in rows] for rows in shared if all(row[column] for row in rows)]
    return [pstdev(each) / mean(each) for each in values if mean(each)]


def _spread(found: Sequence[float]) -> str:
    return f"{median(found):.0%}, at most {max(found):.0%} ({len(found)} images)" if found else "none has one"


def coverage_table() -> Iterator[str]:
    """Bounds and estimates where p is known."""
    yield "| p | runs | lower bounds above p | median bound / p | estimates within a factor of 3 | mean estimate / p |"
    yield "|---|---|---|---|---|---|"
    yield from ("| " + " | ".join(row.values()) + " |" for row in _rows("coverage"))


def certified_table() -> Iterator[str]:
    """A share of 0.9 that is asked to be above 0.95."""
    yield "| attempts | misses allowed | draws needed | runs | certified, share 0.9 | certified, share 0.95 |"
    yield "|---|---|---|---|---|---|"
    yield from ("| " + " | ".join(row.values()) + " |" for row in _rows("certified"))


TABLES: Final = {
    "coverage": coverage_table,
    "certified": certified_table,
    "found, models not tuned on": lambda: found_table(recorded(each.name for each in PROOF)),
    "found, models tuned on": lambda: found_table(recorded(each.name for each in TUNING)),
    "ladder": lambda: ladder_table(recorded(each.name for each in (*PROOF, *TUNING))),
    "estimates, models not tuned on": lambda: estimate_table(recorded(each.name for each in PROOF)),
    "estimates, models tuned on": lambda: estimate_table(recorded(each.name for each in TUNING)),
    "spread": lambda: spread_table(recorded(each.name for each in (*PROOF, *TUNING))),
    "text ladder": text_ladder_table,
    "captions": captions_table,
    "joint": joint_table,
    "text estimates": text_estimate_table,
    "blocked": lambda: blocked_table(recorded(each.name for each in PROOF)),
    "blocked elsewhere": lambda: blocked_table(recorded(each.name for each in TUNING)),
    "former": lambda: former_table([each.name for each in (*PROOF, *TUNING)]),
    "cost": lambda: cost_table(recorded(each.name for each in (*PROOF, *TUNING))),
}
"""Mark on the page -> the lines of its table."""


def with_tables(page: str) -> str:
    """The page with each table between its marks written anew. Raises ValueError for a mark that is missing."""
    for name, lines in TABLES.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        start = page.index(begin) + len(begin)
        page = page[:start] + "\n".join(lines()) + "\n" + page[page.index(end, start) :]
    return page


def scatter(path: Path) -> None:
    """Estimates and bounds against the truth, a mark for each image that came out at all, a shape for each model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "ladder", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(7, 6))
    for name, mark in zip(recorded(each.name for each in (*PROOF, *TUNING)), "osD^vP", strict=False):
        own = [image for image in images(name) if image.copies and image.estimate]
        truth, estimate = [image.truth for image in own], [image.estimate for image in own]
        axes.vlines(truth, [max(image.lower, LEAST) for image in own], estimate, color="0.8", linewidth=0.7)
        axes.plot(truth, estimate, mark, markersize=4, label=name, gid=name)
    ends = (LEAST, 0.2)
    axes.plot(ends, ends, color="black", linewidth=0.8)
    for factor in (FACTOR, 1 / FACTOR):
        axes.plot(ends, [factor * end for end in ends], color="black", linewidth=0.5, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(3e-5, 0.2), ylim=ends)
    axes.set(xlabel="share of 20,000 plain samples that are copies", ylabel="estimate; line down to the lower bound")
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def studied() -> str:
    """What the report says of the models that were not tuned on, and of the text-to-image model, by family."""
    studies = {}
    for family, latent in (("pixel", False), ("latent", True)):
        models = recorded(each.name for each in PROOF if each.latent == latent)
        if models:
            studies[family] = _studied(models)
    studies["stable_diffusion"] = text_studied()
    return json.dumps(studies, indent=1) + "\n"


def _studied(models: Sequence[str]) -> dict[str, object]:
    searches = [json.loads((RECORDS / f"gate-{name}.json").read_text(encoding="utf-8")) for name in models]
    if any(search != searches[0] for search in searches):
        raise SystemExit(f"{', '.join(models)} were searched under different settings; score them again")
    nearer = searches[0].pop("nearer")  # no setting of a run: it is fixed in the package
    certified = [(image.multiplicity, image.lower > CERTIFIED) for name in models for image in images(name)]
    return {
        "models": models,
        "search": searches[0],
        "nearer": nearer,
        "trained_on": sum(LADDER) + BACKGROUND,
        "largest_side": max(RECIPES[name].size for name in models),
    } | counted(certified)


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the repository")
    if parser.parse_args().write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        STUDIED.write_text(studied(), encoding="utf-8")
        scatter(SCATTER)
        return
    for name, lines in TABLES.items():
        print(f"\n{name}", *lines(), sep="\n")


if __name__ == "__main__":
    main()
