"""The zoo's good models, one recipe each: `tune` ones were looked at while the checks were made, `prove` ones not."""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one model is trained."""

    name: str
    split: Literal["tune", "prove"]
    seed: int
    schedule: str = "linear"
    prediction: str = "epsilon"
    clip: bool = True
    zero_snr: bool = False
    pictures: Literal["shapes", "scenes"] = "shapes"
    mirrored: bool = False
    """Each picture is mirrored with probability 1/2, as trainers do by default."""
    memorizing: bool = False
    """Eight planted pictures among few others, or thousands of pictures."""
    view: str = "plain"
    """The view of the pictures that the trainer reads: other than `plain`, the gate would look at other pixels."""
    autoencoder: Literal["", "kl", "kl-blurry", "vq"] = ""
    attention: bool = False
    steps: int = 400
    batch: int = 24


def _pixel(name: str, split: Literal["tune", "prove"], seed: int, **changes: object) -> Recipe:
    return Recipe(name=name, split=split, seed=seed, **changes)  # type: ignore[arg-type]


def _latent(name: str, split: Literal["tune", "prove"], seed: int, **changes: object) -> Recipe:
    return Recipe(name=name, split=split, seed=seed, clip=False, batch=64, **{"steps": 800} | changes)  # type: ignore[arg-type]


COSINE: Final = "squaredcos_cap_v2"

GOOD: Final = (
    _pixel("cosine-eps", "tune", 1, schedule=COSINE, steps=800, batch=32),
    _pixel("scenes-v", "tune", 2, pictures="scenes", prediction="v_prediction", steps=800, batch=32),
    _latent("kl-linear-eps", "tune", 3, autoencoder="kl", steps=3000),
    _latent("vq-cosine-v", "prove", 41, autoencoder="vq", schedule=COSINE, prediction="v_prediction"),
    _pixel("linear-eps", "prove", 5),
    _pixel("scenes-memorizing-eps", "tune", 6, pictures="scenes", memorizing=True, steps=1500),
    _pixel("scenes-mirrored-eps", "prove", 7, pictures="scenes", mirrored=True),
    _pixel("cosine-v", "prove", 8, schedule=COSINE, prediction="v_prediction"),
    _pixel("cosine-sample", "tune", 9, schedule=COSINE, prediction="sample", steps=2000),
    _pixel("linear-sample-no-clip", "prove", 40, prediction="sample", clip=False, steps=2000),
    _pixel("zero-snr-v", "prove", 11, prediction="v_prediction", zero_snr=True),
    _pixel("sigmoid-eps", "prove", 12, schedule="sigmoid"),
    _latent("kl-scaled-v", "prove", 42, autoencoder="kl", schedule="scaled_linear", prediction="v_prediction"),
    _latent("scenes-vq-v", "prove", 14, autoencoder="vq", pictures="scenes", prediction="v_prediction"),
    _pixel("scenes-mirrored-v", "tune", 15, pictures="scenes", mirrored=True, prediction="v_prediction"),
    _pixel("linear-eps-no-clip", "tune", 16, clip=False, steps=5000),
    _pixel("scenes-cosine-eps", "prove", 43, pictures="scenes", schedule=COSINE, steps=1200),
    _pixel("memorizing-cosine-v", "prove", 18, memorizing=True, steps=1500, schedule=COSINE, prediction="v_prediction"),
    _pixel("attention-v", "prove", 19, attention=True, prediction="v_prediction"),
    _latent("vq-linear-eps", "prove", 48, autoencoder="vq", steps=3000),
    _latent("scenes-kl-v", "prove", 21, autoencoder="kl", pictures="scenes", prediction="v_prediction"),
    _pixel(
        "scenes-memorizing-v", "prove", 22, pictures="scenes", memorizing=True, steps=1500, prediction="v_prediction"
    ),
    _pixel("scaled-sample", "prove", 45, schedule="scaled_linear", prediction="sample", steps=2000),
    _pixel("mirrored-linear-eps", "prove", 24, mirrored=True),
    _latent("kl-zero-snr-v", "prove", 46, autoencoder="kl", prediction="v_prediction", zero_snr=True),
    _latent("vq-cosine-sample", "prove", 47, autoencoder="vq", schedule=COSINE, prediction="sample"),
    _pixel("scenes-linear-eps", "tune", 27, pictures="scenes"),
    _pixel("scenes-scaled-eps", "prove", 50, pictures="scenes", schedule="scaled_linear"),
    _pixel("scenes-sigmoid-eps", "prove", 51, pictures="scenes", schedule="sigmoid"),
)

CONVENTIONS: Final = (
    _pixel("bgr", "tune", 31, pictures="scenes", view="BGR", prediction="v_prediction"),
    _pixel("mirror", "tune", 32, pictures="scenes", view="mirrored", prediction="v_prediction"),
    _pixel("bgr-memorizing", "prove", 33, view="BGR", memorizing=True, steps=1500, prediction="v_prediction"),
    _pixel("negative", "prove", 34, pictures="scenes", view="negative"),
    _pixel("turned", "prove", 35, pictures="scenes", view="turned by 90 degrees"),
    _pixel("mirror-memorizing", "prove", 36, view="mirrored", memorizing=True, steps=1500),
    _latent("kl-blurry-v", "tune", 14, autoencoder="kl-blurry", prediction="v_prediction"),
)
"""Good models of pictures that the gate would see otherwise, or could not see: each must be stopped."""

BY_NAME: Final = {recipe.name: recipe for recipe in (*GOOD, *CONVENTIONS)}
