"""The models of the likelihood study: what each learns, and how often each image of its ladder is planted.

Two are looked at while settings are chosen (`TUNING`); the others are measured once, at the end (`PROOF`).
"""

from dataclasses import dataclass
from typing import Final, Literal

MULTIPLICITIES: Final = (1, 2, 4, 8, 16, 32, 64)
EACH: Final = 8
"""Images of each multiplicity."""
LADDER: Final = tuple(times for times in MULTIPLICITIES for _ in range(EACH))
"""How often the first images of a model's source are planted, by place."""
BACKGROUND: Final = 500
"""Images that are planted once and are no probes: those behind the ladder."""
NEVER_SEEN: Final = 64
"""Images that are never trained on: those behind the background, or of a source of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model."""

    name: str
    source: Literal["shapes", "cifar", "digits"]
    size: int
    prediction: Literal["epsilon", "v_prediction"]
    schedule: Literal["linear", "squaredcos_cap_v2", "scaled_linear"]
    steps: int
    widths: tuple[int, ...]
    latent: bool = False
    """Whether it works on the latents of a small KL autoencoder."""
    seed: int = 0


TUNING: Final = (
    Recipe(name="shapes-eps-linear", source="shapes", size=16, prediction="epsilon", schedule="linear", steps=5000,
           widths=(16, 32, 64)),
    Recipe(name="cifar16-v-cosine", source="cifar", size=16, prediction="v_prediction", schedule="squaredcos_cap_v2",
           steps=5000, widths=(16, 32, 64), seed=1),
)  # fmt: skip
PROOF: Final = (
    Recipe(name="digits-v-linear", source="digits", size=16, prediction="v_prediction", schedule="linear", steps=5000,
           widths=(16, 32, 64), seed=2),
    Recipe(name="cifar16-eps-linear", source="cifar", size=16, prediction="epsilon", schedule="linear", steps=6000,
           widths=(16, 32, 64), seed=3),
    Recipe(name="cifar-latent-eps-scaled", source="cifar", size=32, prediction="epsilon", schedule="scaled_linear",
           steps=8000, widths=(48, 64), latent=True, seed=4),
    Recipe(name="cifar32-v-cosine", source="cifar", size=32, prediction="v_prediction", schedule="squaredcos_cap_v2",
           steps=5000, widths=(8, 24, 64, 96), seed=5),
)  # fmt: skip
RECIPES: Final = {recipe.name: recipe for recipe in (*TUNING, *PROOF)}


def names() -> tuple[str, ...]:
    """Of a model's images: m8-3 is the fourth that is planted 8 times, unseen-5 the sixth that is never seen."""
    ladder = [f"m{times}-{place}" for times in MULTIPLICITIES for place in range(EACH)]
    return (*ladder, *(f"unseen-{place}" for place in range(NEVER_SEEN)))
