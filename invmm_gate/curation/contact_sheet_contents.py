"""The contents of the contact sheet: thumbnails, figures, and what was left out."""

import io
from collections.abc import Iterator, Sequence
from typing import Final

from PIL import Image

from invmm_gate.core.records import Group
from invmm_gate.curation.build import Curation
from invmm_gate.curation.clusters import Cluster
from invmm_gate.curation.proposals import cluster_name
from invmm_gate.curation.training_entries import of_kinds
from invmm_gate.curation.training_scan import read_again
from invmm_gate.probes.images import decode_image
from invmm_gate.report.contact_sheet import Card, ContactSheet, CurveRow, Section, Thumb

SIDE: Final = 160
"""Pixels of a thumbnail's longer side."""
PIXELATED_BELOW: Final = 97
"""Thumbnails up to this side are kept as they are, and enlarged without smoothing."""
MEMBERS_SHOWN: Final = 7
CARDS_SHOWN: Final = 60
PICTURES_SHOWN: Final = 120
ROWS_SHOWN: Final = 200


def contact_sheet(curation: Curation, planned: Sequence[tuple[Group, str, bytes]]) -> ContactSheet:
    """The sheet of a curation; `planned` are the group, name and image of its probes, in their order."""
    scale, options = curation.embedder.scale, curation.options
    cards, more_cards = _cards(curation)
    left_out = list(_left_out(curation))
    return ContactSheet(
        title=options.folder.name,
        facts=_facts(curation),
        metric=curation.embedder.metric.name,
        looser="lower" if scale.kind == "cosine" else "higher",
        cards=cards,
        more_cards=more_cards,
        sensitive=_section(planned, "sensitive"),
        sample=_section(planned, "sample"),
        controls=_section(planned, "control"),
        curve=tuple(
            CurveRow(
                threshold=scale.value(point.distance),
                clusters=point.clusters,
                images=point.images,
                largest=point.largest,
                chosen=point.distance == scale.distance(scale.threshold),
            )
            for point in curation.curve
        ),
        dimensions=tuple(
            (found.neighbours, found.harmonic, found.unbiased, found.points) for found in curation.dimensions
        ),
        left_out=tuple(left_out[:ROWS_SHOWN]),
        more_left_out=max(len(left_out) - ROWS_SHOWN, 0),
        settings=_settings(curation),
    )


def _cards(curation: Curation) -> tuple[tuple[Card, ...], int]:
    """The clusters of the proposed probes, largest first, and how many of them are not shown."""
    wanted = {proposal.cluster for proposal in curation.proposals.duplicated}
    wanted |= {proposal.cluster for proposal in curation.proposals.sensitive if proposal.cluster}
    named = [(cluster_name(rank), cluster) for rank, cluster in enumerate(curation.clustering.clusters, start=1)]
    chosen = [(name, cluster) for name, cluster in named if name in wanted]
    shown = chosen[:CARDS_SHOWN]
    items = [curation.training.items[row] for _, cluster in shown for row in cluster.members[:MEMBERS_SHOWN]]
    entries = read_again(curation.sources, items)
    pictures = iter([(item.name, entries[item.source, item.position].data) for item in items])
    cards = tuple(_card(curation, name, cluster, pictures) for name, cluster in shown)
    return cards, len(chosen) - len(shown)


def _card(curation: Curation, name: str, cluster: Cluster, pictures: Iterator[tuple[str, bytes]]) -> Card:
    duplicated = any(proposal.cluster == name for proposal in curation.proposals.duplicated)
    return Card(
        name=name,
        multiplicity=cluster.multiplicity,
        distinct=len(cluster.members),
        farthest=f"{curation.embedder.scale.value(cluster.radius):.3f}",
        note="medoid is a duplicated probe" if duplicated else "holds a sensitive probe",
        thumbs=tuple(thumbnail(*next(pictures)) for _ in cluster.members[:MEMBERS_SHOWN]),
    )


def _section(planned: Sequence[tuple[Group, str, bytes]], group: Group) -> Section:
    chosen = [(name, data) for of, name, data in planned if of == group]
    return Section(
        thumbs=tuple(thumbnail(name, data) for name, data in chosen[:PICTURES_SHOWN]),
        more=max(len(chosen) - PICTURES_SHOWN, 0),
    )


def thumbnail(label: str, data: bytes) -> Thumb:
    """A small picture without the file's own metadata."""
    image = decode_image(data, name=label, view="stored")
    small = max(image.size) < PIXELATED_BELOW
    if not small:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.info.clear()
    image.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 82}))
    return Thumb(label=label, data=buffer.getvalue(), kind="png" if small else "jpeg", pixelated=small)


def _left_out(curation: Curation) -> Iterator[tuple[str, str, str]]:
    """What, which image, why: what a reader must see first comes first."""
    items = curation.training.items
    yield from (("control", left.name, left.reason) for left in curation.controls.refused)
    yield from (("sample", left.name, left.reason) for left in curation.sample.passed_over)
    for skipped in curation.proposals.skipped:
        yield skipped.cluster, items[skipped.row].name, f"its medoid {skipped.reason}"
    yield from (("training image", left.name, left.reason) for left in curation.scan.left_out)


def _facts(curation: Curation) -> tuple[tuple[str, str], ...]:
    clusters = curation.clustering.clusters
    return (
        ("training images read", f"{len(curation.scan.items):,}"),
        ("left out", f"{len(curation.scan.left_out):,}{of_kinds(curation.scan.left_out)}"),
        ("captions and the like", f"{len(curation.scan.beside):,}"),
        ("without exact copies", f"{len(curation.training.items):,}"),
        ("clusters", f"{len(clusters):,}"),
        ("images in clusters", f"{sum(cluster.multiplicity for cluster in clusters):,}"),
        ("largest cluster", f"{clusters[0].multiplicity:,}" if clusters else "0"),
    )


def _settings(curation: Curation) -> tuple[tuple[str, str], ...]:
    options, scale = curation.options, curation.embedder.scale
    trained = options.trained_until.isoformat() if options.trained_until else "not given"
    cap = scale.value(scale.distance(scale.threshold) * options.diameter)
    return (
        ("training data", ", ".join(map(str, options.sources))),
        ("controls from", ", ".join(map(str, options.controls_from)) or "not given"),
        ("trained until", trained),
        ("fit", options.fit or "not given: all probes are square"),
        ("images that EXIF turns", "both ways" if options.orientation == "both" else "left out"),
        ("copy metric", f"{curation.embedder.metric.name}, compared at {curation.embedder.size} pixels a side"),
        ("copy threshold", f"{scale.threshold:g}"),
        ("largest diameter of a cluster", f"{options.diameter:g} thresholds, which is {cap:.3g}"),
        ("DBSCAN clusters split for their diameter", f"{curation.clustering.chained:,}"),
        ("seed", str(options.seed)),
    )
