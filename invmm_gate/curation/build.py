"""`probes build`: from training data to a probe set. Joins reading, the copy metric, clusters and proposals."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Progress
from invmm_gate.curation.clusters import Clustering, CurvePoint, count_curve, find_clusters
from invmm_gate.curation.control_images import Controls, draw_controls, whole_pool
from invmm_gate.curation.embedder import Embedder, make_embedder
from invmm_gate.curation.embedding_store import EmbeddingStore, check_memory
from invmm_gate.curation.forest import neighbour_forest
from invmm_gate.curation.intrinsic_dimension import Dimension, intrinsic_dimension
from invmm_gate.curation.neighbours import block_pairs
from invmm_gate.curation.option_checks import Wanted, check_libraries, check_options, columns_of, controls_wanted
from invmm_gate.curation.proposals import Proposal, Proposals, propose, sensitive_items
from invmm_gate.curation.sample import Sample, draw_sample
from invmm_gate.curation.training_data import check_files, check_places, expanded, open_training_data
from invmm_gate.curation.training_entries import TrainingData
from invmm_gate.curation.training_scan import Distinct, Item, Scan, distinct, read_again, scan_training_data
from invmm_gate.files.lock import probe_set_lock
from invmm_gate.files.scratch import scratch_folder
from invmm_gate.probes.writer import check_new_folder, shape_problem, unfit_as_probe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """All that was read."""

    options: BuildOptions
    embedder: Embedder
    sources: tuple[TrainingData, ...]
    """Training data first, then what controls alone are drawn from."""
    scan: Scan
    training: Distinct
    sensitive: Mapping[int, Item]
    """Row -> the very image that was named as sensitive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation(_Found):
    """All that was found and decided; nothing is written yet."""

    clustering: Clustering
    curve: tuple[CurvePoint, ...]
    dimensions: tuple[Dimension, ...]
    proposals: Proposals
    sample: Sample
    controls: Controls

    def item_of(self, proposal: Proposal) -> Item:
        """The image that a proposal is made of."""
        return (self.sensitive if proposal.group == "sensitive" else self.training.items)[proposal.row]


def curate(options: BuildOptions, progress: Progress) -> Curation:
    """Decide on a probe set. Raises GateError."""
    check_new_folder(options.folder)
    check_libraries()
    wanted = controls_wanted(options)
    check_options(options)
    options = replace(options, sources=expanded(options.sources), controls_from=expanded(options.controls_from))
    check_places(options)
    columns, plain = columns_of(options)
    training = [open_training_data(place, columns, images=options.images) for place in options.sources]
    others = [open_training_data(place, plain, images=options.images) for place in options.controls_from]
    check_files(training)
    embedder = _embedder(options)
    check_memory(sum(source.count() for source in training), size=embedder.size, width=embedder.scale.width)
    with _store(options, embedder) as store:
        scan = scan_training_data(options, training, embedder, store, progress)
        found = distinct(scan, store)
    read = _Found(
        options=options,
        embedder=embedder,
        sources=(*training, *others),
        scan=scan,
        training=found,
        sensitive=sensitive_items(options, scan, found, training),
    )
    return _decide(read, wanted, progress)


def _embedder(options: BuildOptions) -> Embedder:
    return make_embedder(
        options.metric,
        size=options.size,
        threshold=options.threshold,
        sscd=options.sscd,
        device=options.device,
    )


def _decide(found: _Found, wanted: Wanted, progress: Progress) -> Curation:
    options, sources, training = found.options, found.sources, found.training
    _check_fit(options, sources, found.sensitive.values())
    clustering, curve = _clusters(options, found.embedder, training, progress)
    proposals = propose(
        clustering.clusters,
        sensitive=tuple(found.sensitive),
        multiplicity=training.multiplicity.tolist(),
        duplicated=options.duplicated,
        unfit=lambda row: _unfit(options, sources, training.items[row]),
    )
    sample = draw_sample(
        options.sample, training, seed=options.seed, unfit=lambda items: _all_unfit(options, sources, items)
    )
    pool = [*found.scan.later, *whole_pool(sources[len(options.sources) :], len(options.sources))]
    controls = draw_controls(pool, sources, wanted=wanted, training=training, embedder=found.embedder, options=options)
    images = len(found.scan.items)
    if not (proposals.sensitive or proposals.duplicated or sample.rows or controls.chosen):
        raise ProbeSetError(
            f"nothing to propose: no near-duplicates among {images} images, and no others were asked for",
            expected="sensitive images, a --sample, controls, or a looser --threshold",
        )
    return Curation(
        **{field.name: getattr(found, field.name) for field in fields(found)},
        clustering=clustering,
        curve=curve,
        dimensions=_dimensions(training, clustering, options.seed),
        proposals=proposals,
        sample=sample,
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
    """The dimensions of one image a cluster, as near-duplicates make a set look flat."""
    kept = np.ones(len(training.vectors), bool)
    for cluster in clustering.clusters:
        kept[list(cluster.members[1:])] = False
    vectors = training.vectors if kept.all() else training.vectors[kept]
    return intrinsic_dimension(vectors, seed=seed)


def _check_fit(options: BuildOptions, sources: Sequence[TrainingData], sensitive: Collection[Item]) -> None:
    entries = read_again(sources, sensitive)
    for item in sensitive:
        data = entries[item.source, item.position].data
        reason = unfit_as_probe(data, name=item.name, view=options.view)
        reason = reason or shape_problem(data, name=item.name, fit=options.fit or "", view=options.view)
        if reason:
            raise ProbeSetError(
                f"the sensitive image {item.name!r} cannot be a probe: it {reason}",
                do="leave it out of those that are named, or mend it",
            )


def _unfit(options: BuildOptions, sources: Sequence[TrainingData], item: Item) -> str:
    """Why an image is no probe. Raises ProbeSetError for one that would be, if it was said how training fitted it."""
    (reason,) = _all_unfit(options, sources, [item])
    return reason


def _all_unfit(options: BuildOptions, sources: Sequence[TrainingData], items: Sequence[Item]) -> list[str]:
    """`_unfit` of several images, which are read together."""
    entries = read_again(sources, items)
    reasons = []
    for item in items:
        data = entries[item.source, item.position].data
        reasons.append(unfit_as_probe(data, name=item.name, view=options.view))
        shape = shape_problem(data, name=item.name, fit=options.fit or "", view=options.view) if not reasons[-1] else ""
        if shape:
            raise ProbeSetError(f"the training image {item.name!r} {shape}")
    return reasons


@contextmanager
def _store(options: BuildOptions, embedder: Embedder) -> Iterator[EmbeddingStore]:
    """The embeddings, in the cache or in a folder that is removed at the end."""
    with scratch_folder() as temporary:
        folder = options.cache or temporary
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--cache {folder} ({error.strerror})", expected="a folder to write to") from error
        with probe_set_lock(folder):
            # What was read as it is stored must not pass for an image that nothing turns.
            identity = embedder.identity + ("-stored" if options.orientation == "both" else "")
            store = EmbeddingStore(folder, identity=identity, width=embedder.scale.width)
            try:
                yield store
            finally:
                store.close()
