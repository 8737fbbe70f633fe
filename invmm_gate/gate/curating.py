"""`probes build`: from training data to a probe set. Joins reading, the copy metric, clusters and proposals."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invmm_gate.curation.clusters import Clustering, CurvePoint, count_curve, find_clusters
from invmm_gate.curation.forest import neighbour_forest
from invmm_gate.curation.intrinsic_dimension import Dimension, intrinsic_dimension
from invmm_gate.curation.neighbours import block_pairs
from invmm_gate.curation.proposals import Proposals, propose
from invmm_gate.errors import ConfigError, ProbeSetError
from invmm_gate.gate.build_options import BuildOptions, check_options, columns_of, controls_wanted
from invmm_gate.gate.drawing_controls import Controls, draw_controls, whole_pool
from invmm_gate.gate.embedder import Embedder, make_embedder
from invmm_gate.gate.embedding_store import EmbeddingStore
from invmm_gate.gate.progress import Progress
from invmm_gate.gate.sensitive import listed_rows
from invmm_gate.gate.training_scan import Distinct, Scan, distinct, read_again, scan_training_data
from invmm_gate.probes.build import check_new_folder, unfit_as_probe
from invmm_gate.probes.files import folder_lock
from invmm_gate.probes.training_data import TrainingData, open_training_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation:
    """All that was found and decided; nothing is written yet."""

    options: BuildOptions
    embedder: Embedder
    sources: tuple[TrainingData, ...]
    """Training data first, then what controls alone are drawn from."""
    scan: Scan
    training: Distinct
    clustering: Clustering
    curve: tuple[CurvePoint, ...]
    dimensions: tuple[Dimension, ...]
    proposals: Proposals
    controls: Controls


def curate(options: BuildOptions, progress: Progress) -> Curation:
    """Decide on a probe set. Raises GateError."""
    check_new_folder(options.folder)
    wanted = controls_wanted(options)
    check_options(options)
    columns, plain = columns_of(options)
    training = [open_training_data(place, columns, images=options.images) for place in options.sources]
    others = [open_training_data(place, plain, images=options.images) for place in options.controls_from]
    embedder = make_embedder(
        options.metric,
        size=options.size,
        threshold=options.threshold,
        sscd=options.sscd,
        device=options.device,
    )
    with _store(options, embedder) as store:
        scan = scan_training_data(
            training,
            embedder,
            store,
            trained_until=options.trained_until,
            strict=options.strict,
            progress=progress,
        )
        found = distinct(scan, store)
    sensitive = listed_rows(options.sensitive, scan, found, training)
    return _decide(
        options,
        embedder=embedder,
        sources=(*training, *others),
        scan=scan,
        training=found,
        sensitive=sensitive,
        wanted=wanted,
        progress=progress,
    )


def _decide(
    options: BuildOptions,
    *,
    embedder: Embedder,
    sources: tuple[TrainingData, ...],
    scan: Scan,
    training: Distinct,
    sensitive: Sequence[int],
    wanted: int,
    progress: Progress,
) -> Curation:
    clustering, curve = _clusters(options, embedder, training, progress)
    proposals = propose(
        clustering.clusters,
        sensitive=sensitive,
        multiplicity=training.multiplicity.tolist(),
        duplicated=options.duplicated,
        unfit=lambda row: _unfit(sources, training, row),
    )
    for proposal in proposals.sensitive:
        reason = _unfit(sources, training, proposal.row)
        if reason:
            raise ProbeSetError(
                f"the sensitive image {training.items[proposal.row].name!r} cannot be a probe: {reason}",
                do="leave it out of the list, or mend it",
            )
    pool = [*scan.later, *whole_pool(sources[len(options.sources) :], len(options.sources))]
    controls = draw_controls(pool, sources, wanted=wanted, training=training, embedder=embedder, seed=options.seed)
    if not (proposals.sensitive or proposals.duplicated or controls.chosen):
        raise ProbeSetError(
            f"nothing to propose: no near-duplicates among {len(scan.items)} images, and no others were asked for",
            expected="sensitive images, controls, or a looser --threshold",
        )
    return Curation(
        options=options,
        embedder=embedder,
        sources=sources,
        scan=scan,
        training=training,
        clustering=clustering,
        curve=curve,
        dimensions=_dimensions(training, clustering, options.seed),
        proposals=proposals,
        controls=controls,
    )


def _clusters(
    options: BuildOptions, embedder: Embedder, training: Distinct, progress: Progress
) -> tuple[Clustering, tuple[CurvePoint, ...]]:
    scale = embedder.scale
    progress.begin("compare all pairs", block_pairs(len(training.vectors)))
    levels = sorted(scale.distance(value) for value in scale.sweep())
    forest = neighbour_forest(training.vectors, levels, told=progress.advance)
    progress.end()
    radius = scale.distance(scale.threshold)
    labels = forest.labels(forest.levels.index(radius), training.multiplicity)
    clustering = find_clusters(training.vectors, labels, training.multiplicity, cap=radius * options.diameter)
    return clustering, count_curve(forest, training.multiplicity)


def _dimensions(training: Distinct, clustering: Clustering, seed: int) -> tuple[Dimension, ...]:
    """Of one image a cluster, as near-duplicates make a set look flat."""
    kept = np.ones(len(training.vectors), bool)
    for cluster in clustering.clusters:
        kept[list(cluster.members[1:])] = False
    vectors = training.vectors if kept.all() else training.vectors[kept]
    return intrinsic_dimension(vectors, seed=seed)


def _unfit(sources: Sequence[TrainingData], training: Distinct, row: int) -> str:
    item = training.items[row]
    entry = read_again(sources, [item])[item.source, item.position]
    return unfit_as_probe(entry.data, name=item.name)


@contextmanager
def _store(options: BuildOptions, embedder: Embedder) -> Iterator[EmbeddingStore]:
    """The embeddings, in the cache or in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="invmm-gate-") as temporary:
        folder = options.cache or Path(temporary)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--cache {folder} ({error.strerror})", expected="a folder to write to") from error
        with folder_lock(folder):
            store = EmbeddingStore(folder, identity=embedder.identity, width=embedder.scale.width)
            try:
                yield store
            finally:
                store.close()
