"""What a checkpoint is, for somebody who looks at it before it is checked: parts, sizes and what is left out."""

from dataclasses import dataclass

from invmm_gate.core.records import ModelManifest
from invmm_gate.models.read.allowed_places import is_harmless
from invmm_gate.models.read.image_sizes import image_size
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.parts_fit import family_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A network of the checkpoint."""

    name: str
    kind: str
    """Class name in diffusers or transformers."""
    files: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a verdict would be about."""

    pipeline: str
    family: str
    height: int
    """Of the images, in pixels."""
    width: int
    prediction_type: str
    scheduler: str
    weights: str
    """`raw`, or `ema`."""
    parts: tuple[Part, ...]
    tokenizers: tuple[str, ...]
    not_loaded: tuple[str, ...]
    """Components that ship with the checkpoint and decide nothing about its images."""
    left_out: tuple[str, ...]
    """Files that the digest does not cover."""
    beside: tuple[str, ...]
    """Texts and pictures of the model card, and what systems leave behind; the digest covers them."""
    pickles: tuple[str, ...]
    adapters: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str


def describe(manifest: ModelManifest) -> Description:
    """The description of an inspected checkpoint. Raises ModelError for files that changed since."""
    files, layout = layout_of(manifest)
    height, width = image_size(layout)
    parts = tuple(
        Part(
            name=name,
            kind=component.kind,
            files=component.weights,
            bytes=sum(files.files[path].size for path in component.weights),
        )
        for name, component in layout.components.items()
    )
    return Description(
        pipeline=manifest.pipeline,
        family=family_of(layout),
        height=height,
        width=width,
        prediction_type=manifest.prediction_type,
        scheduler=manifest.scheduler,
        weights=manifest.weights,
        parts=parts,
        tokenizers=tuple(layout.tokenizers),
        not_loaded=manifest.not_loaded,
        left_out=manifest.left_out,
        beside=tuple(file.path for file in manifest.files if is_harmless(file.path)),
        pickles=manifest.pickles,
        adapters=manifest.adapters,
        notes=manifest.notes,
        digest=manifest.digest,
    )
