"""Self-checks of the model: trained checkpoints pass them, and each fault is stopped with its reason."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.model_checks import round_trip, sample_statistics, told_time
from invmm_gate.measure.natural_view import Alternatives, natural_view
from invmm_gate.similarity.pixel import PixelRmse
from tests.measure.trained import (
    CONTROLS,
    PLANTED,
    at_size,
    both,
    checkpoint,
    clean,
    drawn,
    exchanged_channels,
    memorizing,
    negated,
    noisy,
    recoloured,
    seen_by,
    turned,
    with_betas,
    with_network,
)

ALIKE = drawn(CONTROLS)
KNOWN = drawn(PLANTED)
NAMES = ["c0", "c1", "c2", "c3", "planted 1", "planted 2"]


def trip(model: Any, *, threshold: float = 0.1, images: Tensor = ALIKE) -> SelfCheck:
    return round_trip(seen_by(model, images), PixelRmse(threshold), root_seed=0)


def drawn_by(model: Any) -> SelfCheck:
    return sample_statistics(seen_by(model, ALIKE), GridSampler(model), steps=10, root_seed=0)


def viewed(model: Any, *, images: Tensor | None = None, sizes: tuple[int, ...] = ()) -> SelfCheck:
    looked_at = torch.cat([ALIKE, KNOWN]) if images is None else images
    others = {
        f"at {size} pixels": seen_by(at_size(model, size), drawn((*CONTROLS, *PLANTED), size=size)) for size in sizes
    }
    return natural_view(
        seen_by(model, looked_at), NAMES, len(CONTROLS), root_seed=0, others=Alternatives(sizes=others.items())
    )


@pytest.mark.parametrize("model", [memorizing, clean])
def test_a_trained_checkpoint_passes(model: Callable[[], Any]) -> None:
    checks = [trip(model()), told_time(seen_by(model(), ALIKE), root_seed=0), drawn_by(model()), viewed(model())]
    assert [check.detail for check in checks if not check.passed] == []
    assert [check.name for check in checks] == ["round_trip", "told_time", "samples", "natural_view"]


def test_a_check_is_the_same_whenever_it_is_made_and_in_whatever_batches() -> None:
    whole, parts = seen_by(memorizing(), ALIKE), replace(seen_by(memorizing(), ALIKE), rows=3)
    drawn = partial(sample_statistics, sampler=GridSampler(memorizing()), steps=3, root_seed=1)
    for check in (partial(told_time, root_seed=1), drawn):
        first, again, other = check(whole), check(whole), check(parts)
        assert first == again
        assert first.value == pytest.approx(other.value, rel=1e-3)


@pytest.fixture(scope="module")
def decoded_text() -> tuple[Any, Tensor]:
    """The text example with images that its autoencoder knows how to draw: smooth ones."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return checkpoint("text_to_image/model"), torch.nn.functional.interpolate(
        coarse, size=(32, 32), mode="bicubic"
    ).clamp(-1, 1)


def broken_autoencoder(model: Any, change: Callable[[Any], None]) -> Any:
    autoencoder = copy.deepcopy(model.autoencoder)
    with torch.no_grad():
        change(autoencoder)
    return replace(model, autoencoder=autoencoder)


def randomised(part: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for weights in part.parameters():
        if weights.dim() == 4:
            weights.copy_(torch.randn(weights.shape, generator=generator) * weights.std())


def exchanged_latents(autoencoder: Any) -> None:
    autoencoder.post_quant_conv.weight.copy_(autoencoder.post_quant_conv.weight.roll(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda autoencoder: randomised(autoencoder.decoder),
        lambda autoencoder: randomised(autoencoder.encoder),
        lambda autoencoder: autoencoder.decoder.conv_out.weight.zero_(),
        exchanged_latents,
    ],
    ids=["random decoder", "random encoder", "zero decoder", "latent's channels exchanged"],
)
def test_an_autoencoder_that_loses_images_fails_the_round_trip(
    decoded_text: tuple[Any, Tensor], change: Callable[[Any], None]
) -> None:
    model, images = decoded_text
    assert "most images come back" in trip(model, images=images).detail
    check = trip(broken_autoencoder(model, change), images=images)
    assert not check.passed
    assert "0% of the images that were encoded and decoded are copies of themselves" in check.detail
    assert "this checkpoint could not show a copy that this metric sees; look at its autoencoder" in check.detail


def test_a_metric_that_nothing_reaches_fails_the_round_trip() -> None:
    check = trip(memorizing(), threshold=0.01)
    assert (check.passed, check.value) == (False, 0.0)
    assert check.detail.startswith("0% of the images that were noised a little and denoised")


def cosine_betas(steps: int = 1000) -> Tensor:
    places = torch.arange(steps + 1, dtype=torch.float64) / steps
    signal = torch.cos((places + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


def linear_betas(end: float = 0.02, steps: int = 1000) -> Tensor:
    return torch.linspace(1e-4, end, steps)


@pytest.mark.parametrize(
    "betas",
    [cosine_betas(), linear_betas(0.1), linear_betas(0.002), linear_betas(steps=200), linear_betas(steps=4000)],
    ids=["cosine", "beta_end 0.1", "beta_end 0.002", "200 timesteps", "4000 timesteps"],
)
def test_a_schedule_that_is_not_the_training_ones_is_found_by_the_networks_own_clock(betas: Tensor) -> None:
    check = told_time(seen_by(with_betas(memorizing(), betas), ALIKE), root_seed=0)
    assert not check.passed
    assert check.value is not None
    assert check.value > 0.2
    assert "schedule or time embedding are not those of its training" in check.detail


def test_a_time_embedding_that_is_built_otherwise_is_found() -> None:
    def shifted(network: Any) -> None:
        network.time_proj.downscale_freq_shift = 1

    assert not told_time(seen_by(with_network(memorizing(), shifted), ALIKE), root_seed=0).passed


def test_a_network_that_does_not_hear_the_timestep_is_no_trained_denoiser() -> None:
    def deaf(network: Any) -> None:
        network.time_embedding.linear_2.weight.zero_()

    check = told_time(seen_by(with_network(memorizing(), deaf), ALIKE), root_seed=0)
    assert not check.passed
    assert "whatever timestep it is told" in check.detail


def nan(network: Any) -> None:
    network.conv_out.bias.fill_(torch.nan)


def test_nan_fails_every_check() -> None:
    model = with_network(memorizing(), nan)
    checks = [trip(model), told_time(seen_by(model, ALIKE), root_seed=0), drawn_by(model), viewed(model)]
    assert [check.passed for check in checks] == [False] * 4
    assert "are NaN or infinity" in checks[-1].detail
    assert all(check.value is None or check.value == check.value for check in checks)


class Sampled(GridSampler):  # type: ignore[misc]
    """Draws what a function makes of the noise."""

    change: Callable[[Tensor], Tensor]

    def x_0(self, noise: Tensor, streams: object, **_: object) -> Tensor:
        del streams
        return self.change(noise)


def sampled(change: Callable[[Tensor], Tensor]) -> Sampled:
    sampler = Sampled(memorizing())
    object.__setattr__(sampler, "change", change)
    return sampler


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda noise: torch.zeros_like(noise) + 0.3, "contrast is"),
        (lambda noise: noise, "roughness"),
        (lambda noise: drawn((7,)).expand(len(noise), -1, -1, -1), "diversity is"),
        (lambda noise: 30 * drawn((4, 5, 6, 7))[: len(noise)], "size of x_0"),
        (lambda noise: noise * torch.inf, "NaN or infinity"),
    ],
    ids=["constant", "white noise", "one image again and again", "blown up", "infinite"],
)
def test_samples_that_are_no_pictures_of_this_kind_are_named(change: Callable[[Tensor], Tensor], said: str) -> None:
    check = sample_statistics(seen_by(memorizing(), ALIKE), sampled(change), steps=5, root_seed=0)
    assert not check.passed
    assert said in check.detail


def test_pictures_of_the_same_kind_are_good_samples() -> None:
    alike = sampled(lambda noise: drawn((4, 5, 6, 7))[: len(noise)])
    assert sample_statistics(seen_by(memorizing(), ALIKE), alike, steps=5, root_seed=0).passed


def test_weights_with_noise_make_no_pictures() -> None:
    assert not drawn_by(with_network(memorizing(), noisy)).passed


@pytest.mark.parametrize(
    ("change", "view"),
    [
        (exchanged_channels, "BGR"),
        (negated, "negative"),
        (turned, "turned by 180 degrees"),
        (recoloured((2, 0, 1), (1, -1, 1)), "BRG for RGB, negative in green"),
        (recoloured((0, 1, 2), (-1, 1, 1)), "negative in red"),
        (both(turned, negated), "turned by 180 degrees, negative"),
    ],
    ids=["channels exchanged", "negated", "kernels turned", "exchanged, one negated", "one negated", "turned, negated"],
)
def test_weights_that_keep_every_copy_in_another_view_are_found_by_the_probes(change: Any, view: str) -> None:
    check = viewed(with_network(memorizing(), change))
    assert not check.passed
    assert check.value is not None
    assert check.value > 1
    assert f"denoises planted {'1' if 'planted 1' in check.detail else '2'} far better {view}" in check.detail


@pytest.mark.parametrize(
    ("view", "change"),
    [
        ("BGR", lambda images: images.flip(1)),
        ("negative", torch.neg),
        ("mirrored", lambda images: images.flip(3)),
        ("upside down", lambda images: images.flip(2)),
        ("turned by 180 degrees", lambda images: images.flip(2, 3)),
        ("turned by 90 degrees", lambda images: images.rot90(3, (2, 3))),
    ],
)
def test_probes_that_training_read_otherwise_are_found_and_the_view_is_named(
    view: str, change: Callable[[Tensor], Tensor]
) -> None:
    check = viewed(memorizing(), images=change(torch.cat([ALIKE, KNOWN])))
    assert not check.passed
    assert view in check.detail


@pytest.mark.parametrize("stated", [12, 24])
def test_a_size_that_is_not_the_training_ones_is_found_by_the_probes(stated: int) -> None:
    model = at_size(memorizing(), stated)
    check = viewed(model, images=drawn((*CONTROLS, *PLANTED), size=stated), sizes=(16,))
    assert not check.passed
    assert "far better at 16 pixels than as it is" in check.detail
    assert "hold sample_size in the configuration against the training" in check.detail


def test_the_training_size_is_not_found_wanting() -> None:
    assert viewed(memorizing(), sizes=(8, 12, 24, 32)).passed


def test_a_network_that_treats_both_views_alike_sees_no_difference() -> None:
    """The identity denoises a mirrored image exactly as well."""

    class Identity(torch.nn.Module):
        def forward(self, x_t: Tensor, time: Tensor, *, return_dict: bool) -> tuple[Tensor]:
            return (x_t,)

    check = viewed(replace(memorizing(), network=Identity()))
    assert check.passed
    assert check.value == pytest.approx(0.0, abs=1e-6)
