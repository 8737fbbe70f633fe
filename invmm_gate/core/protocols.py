"""The seams: what a model family and a copy metric must offer. All tensors are float32 unless said."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invmm_gate.core.settings import Family, SoftEncoders


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseLevel:
    """x_t = alpha * x_0 + sigma * eps, for each row; `time` is what the network is told."""

    alpha: Float[Tensor, " row"]
    sigma: Float[Tensor, " row"]
    time: Float[Tensor, " row"] | Int[Tensor, " row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a conditional network is given beside x_t: named tensors, all with the row first."""

    tensors: Mapping[str, Tensor]


@runtime_checkable
class Schedule(Protocol):
    """Where x_t lies between data and noise, one notation for all families."""

    @property
    def timesteps(self) -> int:
        """Number of training timesteps T; indices run from 0 (almost data) to T - 1 (almost noise)."""
        ...

    def at(self, timestep: Int[Tensor, " row"]) -> NoiseLevel:
        """The noise level of each training timestep."""
        ...

    def grid(self, steps: int) -> tuple[NoiseLevel, ...]:
        """`steps` sampling levels, noisiest first, each with one row; the sampler ends at alpha = 1, sigma = 0."""
        ...


@runtime_checkable
class PromptEncoder(Protocol):
    """The text side of a model: prompts, hard or soft, to conditions. Token ids are those of its first tokenizer."""

    @property
    def positions(self) -> int:
        """Tokens that a prompt may have, the start and end tokens not counted."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: start, end, padding, unknown."""
        ...

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token."""
        ...

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt, without start, end and padding, and without a limit on its length."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        ...

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a prompt, as the diffusers pipeline encodes it; what is beyond the limit is cut off."""
        ...

    def mix(
        self,
        weights: Float[Tensor, "row position choice"],
        choices: Int[Tensor, " choice"],
        *,
        rest: Condition,
        encoders: SoftEncoders = "first",
    ) -> Condition:
        """Soft prompts: at each position a mixture of the embeddings of `choices`; differentiable in `weights`.

        The `position` <= `positions` mixtures stand where a prompt stands; a one-hot mixture is the hard prompt.
        `encoders` says which encoders see it, each by its own embeddings; for `all`, `read_by_all` must hold of each of
        the choices. The others keep what they made of `rest`, a condition of `encode` with as many rows.
        """
        ...

    def read_by_all(self) -> Bool[Tensor, " vocabulary"] | None:
        """Of which ids every encoder reads the text as one token; None where all read the first one's tokens."""
        ...


@runtime_checkable
class LabelEncoder(Protocol):
    """The classes of a class-conditional model: labels to conditions. A label is the number of a class, from 0."""

    @property
    def classes(self) -> int:
        """Number of classes; their labels are 0 to `classes` - 1."""
        ...

    @property
    def null(self) -> int | None:
        """The label that stands for no class; None where the model has none, or nobody knows which it is."""
        ...

    @property
    def inputs(self) -> range:
        """All labels that a user can give: those of the classes, and that of no class."""
        ...

    @property
    def guided(self) -> bool:
        """Whether estimates can be led away from those of no class."""
        ...

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a label, each given as its number in digits. Raises ModelError for any other text."""
        ...


Streams = Callable[[int], torch.Generator]
"""The random stream of each sample, by its number: no sample depends on how many are drawn, or on their batches."""


@runtime_checkable
class Sampler(Protocol):
    """A way to draw images from a model."""

    @property
    def name(self) -> str:
        """The name of the sampler, in words: for records and reports."""
        ...

    def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
        """Network forwards that one image takes."""
        ...

    def images(
        self,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        prompt: str | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row 3 image_height image_width"]:
        """One image in [-1, 1] for each random stream. Raises MeasurementError for NaN or infinity."""
        ...


@runtime_checkable
class NoiseSampler(Sampler, Protocol):
    """A sampler that can begin at a given noise, under any condition."""

    def x_0(
        self,
        noise: Float[Tensor, "row channel height width"],
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 reached from x_T = `noise`; what the sampler draws on its way comes from the stream of each row."""
        ...


@runtime_checkable
class DiffusionModel(Protocol):
    """A frozen denoiser. `estimate_x_0` is all that the measure sees of a network."""

    @property
    def family(self) -> Family:
        """A key of the profiles in settings.py."""

    @property
    def schedule(self) -> Schedule:
        """The noise that the network was trained with."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of x_0: pixels for pixel-space models."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the model makes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network lies."""

    @property
    def prompts(self) -> PromptEncoder | LabelEncoder | None:
        """What a user's words become a condition by: prompts, or class labels; None for an unconditional model."""
        ...

    @property
    def guidance_distilled(self) -> bool:
        """Whether the guidance scale is an input of the network, which then has no unconditional branch."""
        ...

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards that one row of `estimate_x_0` takes: two where guidance needs both branches.

        Raises ModelError for a scale that the model cannot be given.
        """
        ...

    def encode(
        self, images: Float[Tensor, "row 3 image_height image_width"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 of images in [-1, 1]; with a generator, a draw from the autoencoder's posterior where it has one."""
        ...

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped."""
        ...

    def limited(self, x_0_hat: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row channel height width"]:
        """x_0_hat within the bounds that the checkpoint's own scheduler keeps it in at each sampling step."""
        ...

    @property
    def released(self) -> NoiseSampler | None:
        """How a user of the checkpoint draws images; None for a model that is no checkpoint."""
        ...

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t and condition; float32 whatever the network's dtype.

        `condition` has as many rows as x_t; None = the empty prompt. The guided estimate is
        u + guidance_scale * (c - u) of the conditional c and the unconditional u: 1 is conditional, 0 unconditional.
        Between and beyond, a family whose pipeline scales the guided prediction to the norm of c has it scaled so.
        """
        ...


def text_side(model: DiffusionModel) -> PromptEncoder | None:
    """The text side of a model; None for one that takes no prompts."""
    return None if isinstance(model.prompts, LabelEncoder) else model.prompts


def label_side(model: DiffusionModel) -> LabelEncoder | None:
    """The classes of a model; None for one that takes no labels."""
    return model.prompts if isinstance(model.prompts, LabelEncoder) else None


@runtime_checkable
class AligningMetric(Protocol):
    """A copy metric that moves an image before it compares, and can say how."""

    def alignment(self, feature: Float[Tensor, "1 feature"], reference: Float[Tensor, "1 feature"]) -> object:
        """How the reference lies in the image that `feature` is of; its text is for a record, empty for as it is."""
        ...


@runtime_checkable
class CopyMetric(Protocol):
    """How alike a sample and an image are, and from where on the sample is a copy."""

    @property
    def name(self) -> str:
        """Names the transform too, e.g. `sscd_disc_large@320` or `pixel_rmse`."""
        ...

    @property
    def threshold(self) -> float:
        """The value at which a sample becomes a copy."""

    @property
    def higher_is_copy(self) -> bool:
        """Whether a copy lies at or above the threshold; else at or below."""

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Features of images in [-1, 1]; the metric owns its transform."""
        ...

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """The metric's value for each pair of rows, or for each row and one reference."""
        ...

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Whether each value lies on the copy side of the threshold, the threshold included."""
        ...

    def unfit_for(self, height: int, width: int) -> str | None:
        """Why the metric should not be used at this resolution; None if it may."""
        ...
