"""Does the gate look at the pixels that training looked at? Another view must not be clearly more natural to the model.

Two signs, both paired within an image, both in the logarithm of the denoising error: all controls together are
denoised better in another view, or one image far better than the controls are, as only a memorized image is. Another
fit shows another part of an image, which may be easier by itself: there a memorized image is one that is denoised far
better than its own middle in the same fit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.schedule import level_at, timestep_at
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.looking import Pictures, View, mixed, noise_like, row_means, views_of

NATURAL_VIEW: Final = "natural_view"
_IMAGES: Final = "give the images as the training read them"
_SIZE: Final = (
    "hold sample_size in the configuration against the training; where the configuration has none, name the size in the"
    " policy, measure.settings.image_size"
)
_FIT: Final = "state the fit that the training used"
_CONFIGURATION: Final = "hold the configurations of scheduler and networks against the training"
RATIOS: Final = (1.0, 2.0, 4.0)
"""sigma / alpha at which images are noised."""
JOINT_RATIOS: Final = (1.0,)
"""Where a view changes two things or single channels: many views, and here chance has the smallest part."""
JOINT_LIMIT: Final = 1.2
"""Gain of one image in such a view over the median control's: of latents, chance has given up to 1.04."""
JOINT_CONTROLS: Final = 8
JOINT_OTHERS: Final = 32
"""Images that are seen in such views, at most: what changes weights changes every image that they know."""
CONTROLS_LIMIT: Final = 0.1
"""Mean gain of the controls in a view, log(error as given / error in the view): a tenth less error."""
READING_LIMIT: Final = 0.03
"""Mean gain of the controls under another reading of the weights: the very same x_t, so chance has a smaller part."""
STANDARD_ERRORS: Final = 4.0
READING_ERRORS: Final = 2.5
"""And as many standard errors, so that a few odd controls are no sign; with the limit itself as the least standard
deviation of a gain, as two controls may agree by chance."""
IMAGE_LIMIT: Final = 0.8
"""Gain of one image, and over the median control's: less than half the error."""
SIZE_LIMIT: Final = 1.2
"""Gain of one image at another size over the median control's: an image is smoother when larger, and not all alike."""
FIT_LIMIT: Final = 0.5
"""Gain of one image with another fit, over the given one and over its middle with that fit. The middle is four fifths
of each side: an image with plain margins may gain log(1 / 0.8^2) = 0.45 over it without having been seen."""
CONTROLS_FIT_LIMIT: Final = 0.5
"""Mean gain of the controls with another fit: bars that only one of both has give 0.4 to 1.5, crop and squeeze 0.24."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refitted:
    """Some of the images as another fit gives them."""

    name: str
    places: Sequence[int]
    """The places of these images among all."""
    whole: Pictures
    middle: Pictures
    """The middle of each image alone, with the same fit."""
    stated: bool = True
    """Whether a manifest can say so. Else the controls are not asked: many like plain backgrounds better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sign:
    """How far a view is beyond a limit, and what that means."""

    excess: float
    value: float
    limit: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """What the images as they are given are held against beside the views; each is made when its turn comes."""

    sizes: Iterable[tuple[str, Pictures]] = ()
    """All images at another size."""
    fits: Iterable[Refitted] = ()
    readings: Iterable[tuple[str, DiffusionModel]] = ()
    """Other readings of the weights."""


def natural_view(
    images: Pictures,
    names: Sequence[str],
    controls: int,
    *,
    root_seed: int,
    others: Alternatives = Alternatives(),
) -> SelfCheck:
    """The images as they are against each view, and against the other sizes, fits and readings of the weights.

    The first `controls` images are the controls. A model trained on mirrored images as well sees no difference. Value
    = the gain that is farthest beyond its limit; low = good. 36 evaluations an image, and three more a size or reading;
    103 more for each of 8 controls and 32 other images, in views that change two things or single channels; six more
    for each other fit of an image whose shape is not the model's (24, as there are four others), else none.
    """
    with torch.no_grad():
        plain = log_errors(images, root_seed)
        broken = plain.isnan() | plain.isposinf()
        if bool(broken.any()):
            return _without_estimates(names[int(broken.int().argmax())])
        single = [view for view in views_of(images.model.image_size) if view.single]
        signs = [
            sign
            for view, errors in _in_views(images, root_seed, single)
            for sign in _view_signs(view.name, plain - errors, names, controls)
        ]
        signs += _joint_signs(images, names, controls, root_seed)
        for name, resized in others.sizes:
            gains = plain - log_errors(resized, root_seed)
            signs.append(_image_sign(name, gains - gains[:controls].median(), names, SIZE_LIMIT, do=_SIZE))
        for refitted in others.fits:
            signs += _fit_signs(refitted, plain, names, controls, root_seed)
        for name, other in others.readings:
            gains = plain[:controls] - log_errors(images.first(controls, other), root_seed)
            signs.append(_controls_sign(name, gains, READING_LIMIT, READING_ERRORS, do=_CONFIGURATION))
    worst = max(signs, key=_importance)
    passed = worst.excess <= 0
    return SelfCheck(
        name=NATURAL_VIEW,
        passed=passed,
        detail="no other view of the images is more natural to the model" if passed else worst.detail,
        value=worst.value if torch.tensor(worst.value).isfinite() else None,
        limit=worst.limit,
    )


def _without_estimates(name: str) -> SelfCheck:
    return SelfCheck(
        name=NATURAL_VIEW,
        passed=False,
        detail=f"the model's estimates of {name} are NaN or infinity, under the label or the caption that it is told: "
        "check the checkpoint's weights",
        value=None,
        limit=IMAGE_LIMIT,
    )


def _view_signs(name: str, gains: Tensor, names: Sequence[str], controls: int) -> Iterator[_Sign]:
    yield _controls_sign(name, gains[:controls], CONTROLS_LIMIT, STANDARD_ERRORS)
    yield _image_sign(name, gains - gains[:controls].median().clamp(min=0), names, IMAGE_LIMIT)


def _joint_signs(images: Pictures, names: Sequence[str], controls: int, root_seed: int) -> Iterator[_Sign]:
    """Signs of views that no trainer would choose, so that the controls need not be asked."""
    few = min(controls, JOINT_CONTROLS)
    places = [*range(few), *range(controls, len(names))[:JOINT_OTHERS]]
    chosen, called = images.at(places), [names[place] for place in places]
    plain = log_errors(chosen, root_seed, ratios=JOINT_RATIOS)
    joint = [view for view in views_of(images.model.image_size) if not view.single]
    for view, errors in _in_views(chosen, root_seed, joint, ratios=JOINT_RATIOS):
        gains = plain - errors
        yield _image_sign(view.name, gains - gains[:few].median().clamp(min=0), called, JOINT_LIMIT)


def _fit_signs(fits: Refitted, plain: Tensor, names: Sequence[str], controls: int, root_seed: int) -> Iterator[_Sign]:
    whole = log_errors(fits.whole, root_seed)
    gains = plain[list(fits.places)] - whole
    of_controls = gains[[place < controls for place in fits.places]]
    if fits.stated and len(of_controls):
        yield _controls_sign(fits.name, of_controls, CONTROLS_FIT_LIMIT, STANDARD_ERRORS, do=_FIT)
    over_middle = log_errors(fits.middle, root_seed) - whole
    yield _image_sign(
        fits.name, gains.minimum(over_middle), [names[place] for place in fits.places], FIT_LIMIT, do=_FIT
    )


def _controls_sign(
    name: str, gains: Float[Tensor, " control"], least: float, errors: float, *, do: str = _IMAGES
) -> _Sign:
    mean = float(gains.mean())
    spread = max(float(gains.std(correction=1)) if len(gains) > 1 else 0.0, least)
    limit = max(least, errors * spread / len(gains) ** 0.5)
    return _Sign(
        excess=_excess(mean, limit),
        value=mean,
        limit=limit,
        detail=f"the model denoises the controls better {name} than as they are given (log error smaller by {mean:.2f},"
        f" limit {limit:.2f}): {do}",
    )


def _image_sign(
    name: str, beyond: Float[Tensor, " image"], names: Sequence[str], limit: float, *, do: str = _IMAGES
) -> _Sign:
    place = int(beyond.nan_to_num(torch.inf).argmax())
    value = float(beyond[place])
    return _Sign(
        excess=_excess(value, limit),
        value=value,
        limit=limit,
        detail=f"the model denoises {names[place]} far better {name} than as it is (log error smaller by {value:.2f},"
        f" limit {limit:g}), as if it had memorized it so: {do}",
    )


def _importance(sign: _Sign) -> tuple[bool, float]:
    """The largest gain beyond its limit says most; without one, the sign that came nearest to its limit."""
    beyond = sign.excess > 0
    return beyond, sign.value if beyond and sign.excess < float("inf") else sign.excess


def _excess(value: float, limit: float) -> float:
    """NaN is beyond every limit."""
    return value - limit if value == value else float("inf")


def log_errors(images: Pictures, root_seed: int, *, ratios: Sequence[float] = RATIOS) -> Float[Tensor, " image"]:
    """Log denoising error of each image as it is, a mean over noise levels."""
    return _log_errors(images, root_seed, (View(),), ratios)[0]


def _in_views(
    images: Pictures, root_seed: int, views: Sequence[View], *, ratios: Sequence[float] = RATIOS
) -> Iterator[tuple[View, Float[Tensor, " image"]]]:
    """Each view with the log denoising errors of the images in it; as many views in one call as its rows hold."""
    each = max(1, images.rows // len(images.images))
    for start in range(0, len(views), each):
        some = views[start : start + each]
        yield from zip(some, _log_errors(images, root_seed, some, ratios), strict=True)


def _log_errors(
    images: Pictures, root_seed: int, views: Sequence[View], ratios: Sequence[float]
) -> Float[Tensor, "view image"]:
    """Log denoising errors, a mean over noise levels; the noises are seen in the view too."""
    seen, count = images.seen_in(views), len(images.images)
    pixels = images.model.latent_shape == (3, *images.model.image_size)
    x_0 = seen.encoded()
    errors = []
    for ratio in ratios:
        level = level_at(images.model.schedule, timestep_at(images.model.schedule, ratio), images.model.device)
        drawn = noise_like(x_0[:count], stream(root_seed, NATURAL_VIEW, str(ratio)))
        eps = torch.cat([view.of_noise(drawn, pixels=pixels) for view in views])
        errors.append(row_means((seen.estimates(mixed(x_0, eps, level), level) - x_0).square()).log())
    return torch.stack(errors).mean(dim=0).view(len(views), count)
