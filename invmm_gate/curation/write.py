"""The files that `probes build` writes: the probe set, `curation.json` and the contact sheet."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Final

from invmm_gate.core.options import BuildOptions
from invmm_gate.core.records import Group, ProbeSet
from invmm_gate.core.version import __version__
from invmm_gate.curation.build import Curation
from invmm_gate.curation.contact_sheet_contents import contact_sheet
from invmm_gate.curation.embedder import Embedder
from invmm_gate.curation.proposals import Proposal
from invmm_gate.curation.training_entries import Entry
from invmm_gate.curation.training_scan import Item, read_again
from invmm_gate.probes.images import both_views
from invmm_gate.probes.writer import NewProbe, write_probe_set
from invmm_gate.report.contact_sheet import render_contact_sheet

RECORD: Final = "curation.json"
SHEET: Final = "contact_sheet.html"
_LIBRARIES: Final = ("numpy", "scipy", "scikit-learn", "torch", "pillow")
_CLUSTERS_LISTED: Final = 1000
"""Clusters with their members in the record; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A probe to be, and why."""

    probe: NewProbe
    name: str
    multiplicity: int
    reason: str


def planned_probes(curation: Curation, *, today: datetime.date) -> tuple[Planned, ...]:
    """The probes in the order of the manifest. Raises ProbeSetError for an image that changed meanwhile."""
    groups = (curation.proposals.sensitive, curation.proposals.duplicated, drawn_proposals(curation))
    items = [curation.item_of(proposal) for group in groups for proposal in group]
    entries = read_again(curation.sources, items)
    listed = [
        planned
        for group in groups
        for number, proposal in enumerate(group, start=1)
        for planned in _both(curation, _from_training(curation, proposal, entries, number=number, today=today))
    ]
    controls = enumerate(curation.controls.chosen, start=1)
    return (*listed, *(_control(curation, entry, number=number, today=today) for number, entry in controls))


def drawn_proposals(curation: Curation) -> tuple[Proposal, ...]:
    """One of each image of the random draw. None names a cluster, as each stands for itself."""
    training = curation.training
    reason = f"drawn at random from {len(training.items)} training images with seed {curation.options.seed}"
    return tuple(
        Proposal(row=row, group="sample", cluster="", multiplicity=int(training.multiplicity[row]), reason=reason)
        for row in curation.sample.rows
    )


def write_curation(curation: Curation, planned: Sequence[Planned], record: Mapping[str, object]) -> ProbeSet:
    """Write probes, record and contact sheet in one step. Raises ProbeSetError with nothing left behind."""
    shown = [(item.probe.group, item.name, item.probe.data) for item in planned]
    sheet = render_contact_sheet(contact_sheet(curation, shown))
    text = json.dumps(record, allow_nan=False, indent=1) + "\n"
    files = {RECORD: text.encode(), SHEET: sheet.encode(errors="backslashreplace")}
    return write_probe_set(curation.options.folder, [item.probe for item in planned], files)


def curation_record(curation: Curation, planned: Sequence[Planned], *, today: datetime.date) -> dict[str, object]:
    """All that decided the set, and what was found. Equal inputs and options give equal records."""
    options, scan, scale = curation.options, curation.scan, curation.embedder.scale
    return {
        "schema_version": 1,
        "built_on": today.isoformat(),
        "inputs": _inputs(options) | {"digest": _digest(scan.items)},
        "metric": _metric(curation.embedder, diameter=options.diameter),
        "seed": options.seed,
        "versions": {"invmm-gate": __version__} | {name: version(name) for name in _LIBRARIES},
        "counts": _counts(curation),
        "curve": [
            {"threshold": scale.value(point.distance), "clusters": point.clusters}
            | {"images": point.images, "largest": point.largest}
            for point in curation.curve
        ],
        "intrinsic_dimension": [asdict(dimension) for dimension in curation.dimensions],
        "probes": [
            {"id": item.probe.id, "name": item.name, "sha256": item.probe.sha256, "group": item.probe.group}
            | {"cluster": item.probe.cluster, "multiplicity": item.multiplicity, "reason": item.reason}
            for item in planned
        ],
        "skipped_clusters": [
            {"cluster": skipped.cluster, "medoid": _name(curation, skipped.row), "reason": skipped.reason}
            for skipped in curation.proposals.skipped
        ],
        "sample_passed_over": [asdict(left) for left in curation.sample.passed_over],
        "refused_controls": [asdict(left) for left in curation.controls.refused],
        "left_out": [asdict(left) for left in scan.left_out],
        "beside": [asdict(left) for left in scan.beside],
        "clusters": [
            {
                "multiplicity": cluster.multiplicity,
                "farthest": scale.value(cluster.radius),
                "members": [_name(curation, row) for row in cluster.members],
            }
            for cluster in curation.clustering.clusters[:_CLUSTERS_LISTED]
        ],
    }


def _inputs(options: BuildOptions) -> dict[str, object]:
    return {
        "from": [str(place) for place in options.sources],
        "controls_from": [str(place) for place in options.controls_from],
        "images": str(options.images) if options.images else None,
        "trained_until": options.trained_until.isoformat() if options.trained_until else None,
        "sensitive": str(options.sensitive) if options.sensitive else None,
        "sensitive_column": options.sensitive_column or None,
        "columns": dict(options.columns),
        "fit": options.fit or "",
        "orientation": options.orientation,
    }


def _metric(embedder: Embedder, *, diameter: float) -> dict[str, object]:
    scale = embedder.scale
    return {
        "name": embedder.metric.name,
        "size": embedder.size,
        "threshold": scale.threshold,
        "digest": embedder.digest,
        "diameter": diameter,
        "diameter_value": scale.value(scale.distance(scale.threshold) * diameter),
    }


def _counts(curation: Curation) -> Mapping[str, int]:
    clusters = curation.clustering.clusters
    return {
        "read": len(curation.scan.items),
        "captions": curation.scan.captioned,
        "left_out": len(curation.scan.left_out),
        "beside": len(curation.scan.beside),
        "after_training": len(curation.scan.later),
        "distinct": len(curation.training.items),
        "clusters": len(clusters),
        "in_clusters": sum(cluster.multiplicity for cluster in clusters),
        "clusters_split": curation.clustering.chained,
        "control_pool": curation.controls.pool,
    }


def _digest(items: Sequence[Item]) -> str:
    """sha256 over the files' sha256s, whatever their order."""
    return sha256(b"".join(sorted(item.sha256 for item in items))).hexdigest()


def _from_training(
    curation: Curation,
    proposal: Proposal,
    entries: Mapping[tuple[int, int], Entry],
    *,
    number: int,
    today: datetime.date,
) -> Planned:
    options, item = curation.options, curation.item_of(proposal)
    entry = entries[item.source, item.position]
    place = options.sources[item.source]
    copies = f" ({proposal.multiplicity} near-duplicates in the training data)" if proposal.multiplicity > 1 else ""
    probe = NewProbe(
        id=_id(proposal.group, number),
        data=entry.data,
        sha256=item.sha256.hex(),
        group=proposal.group,
        category=options.category if proposal.group == "sensitive" else "",
        caption=entry.caption,
        label=entry.label,
        cluster=proposal.cluster,
        source=f"{place}: {item.name}{copies}",
        licence=options.licence,
        added_on=today.isoformat(),
        fit=options.fit or "",
    )
    return Planned(probe=probe, name=item.name, multiplicity=proposal.multiplicity, reason=proposal.reason)


def _both(curation: Curation, planned: Planned) -> list[Planned]:
    """The probe, or the two of one cluster that show an image which EXIF turns as it is stored and upright."""
    probe = planned.probe
    views = both_views(probe.data, name=planned.name) if curation.options.orientation == "both" else {}
    return [
        replace(
            planned,
            probe=replace(
                probe,
                id=f"{probe.id}-{view}",
                data=data,
                sha256=sha256(data).hexdigest(),
                cluster=probe.cluster or probe.id,
            ),
        )
        for view, data in views.items()
    ] or [planned]


def _control(curation: Curation, entry: Entry, *, number: int, today: datetime.date) -> Planned:
    probe = NewProbe(
        id=_id("control", number),
        data=entry.data,
        sha256=sha256(entry.data).hexdigest(),
        group="control",
        caption=entry.caption,
        source=f"control: {entry.name}",
        licence=curation.options.licence,
        added_on=today.isoformat(),
        fit=curation.options.fit or "",
    )
    reason = f"drawn from {curation.controls.pool} images with seed {curation.options.seed}; no near-duplicate"
    return Planned(probe=probe, name=entry.name, multiplicity=1, reason=reason)


def _id(group: Group, number: int) -> str:
    """Says nothing of the image: ids stand in reports that may be passed on, and the file's name does not."""
    return f"{group}-{number:04d}"


def _name(curation: Curation, row: int) -> str:
    return curation.training.items[row].name
