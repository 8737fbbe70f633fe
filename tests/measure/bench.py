"""What the tests of the measure share: a run as the gate makes it, and models with a known fault or ability."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from invmm_gate.core.protocols import Condition, CopyMetric, DiffusionModel, NoiseLevel
from invmm_gate.core.records import Measurement, Probe
from invmm_gate.core.settings import InversionSettings
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.prediction import guided
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.trials import summarise, tasks_for
from invmm_gate.similarity.pixel import PixelRmse

QUICK = InversionSettings(steps=100, batch_size=8, test_every=10, sampler_steps=10)
"""Enough for the closed-form model: it inverts what it can within a few tests."""


def probe(number: int) -> Probe:
    """The probe that shows known image `number`; its streams are seeded from the number."""
    return Probe(id=str(number), path=f"{number}.png", sha256=f"{number:064x}", group="sensitive", line=number + 2)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave, by number of the image."""

    measurements: dict[int, Measurement]
    inversions: dict[int, list[Inversion]]

    def score(self, number: int) -> float:
        """InvMM of an inverted image; fails for any other outcome."""
        measurement = self.measurements[number]
        assert measurement.outcome == "inverted", measurement
        assert measurement.invmm is not None
        return measurement.invmm


def measure(
    model: DiffusionModel,
    images: Tensor | Callable[[str], Tensor],
    numbers: Iterable[int],
    *,
    settings: InversionSettings = QUICK,
    slots: int = 4,
    seed: int = 0,
    metric: CopyMetric | None = None,
    captions: Mapping[int, str] | None = None,
    choices: Tensor | None = None,
) -> Run:
    """Measure images by number through `slots` slots."""
    probes = [probe(number) for number in numbers]
    load = (lambda name: images[int(name)]) if isinstance(images, Tensor) else images
    said = captions or {}
    inverter = Inverter(
        model,
        metric or PixelRmse(0.1),
        settings,
        load_image=load,
        load_caption=lambda name: said[int(name)],
        root_seed=seed,
        slots=slots,
        choices=choices,
    )
    done: dict[int, list[Inversion]] = defaultdict(list)
    for event in inverter.run(tasks_for(probes, settings)):
        if isinstance(event, Inversion):
            done[int(event.task.probe)].append(event)
    measured = {int(each.id): summarise(each, [inversion.trial for inversion in done[int(each.id)]]) for each in probes}
    return Run(measured, dict(done))


class Wrapped:
    """A model that passes everything on; the wrappers below change its estimate."""

    def __init__(self, inner: MixtureDenoiser) -> None:
        self.inner = inner
        self.family, self.schedule, self.device = inner.family, inner.schedule, inner.device
        self.latent_shape, self.image_size = inner.latent_shape, inner.image_size

    prompts = None

    guidance_distilled = False
    released = None

    def limited(self, x_0_hat: Tensor) -> Tensor:
        return x_0_hat

    def forwards(self, guidance_scale: float) -> int:
        return 1

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return self.inner.estimate_x_0(x_t, level)


class NanNear(Wrapped):
    """NaN for every row whose estimate comes close to one image: a fault that only this image's probe meets."""

    def __init__(self, inner: MixtureDenoiser, image: Tensor) -> None:
        super().__init__(inner)
        self.image = image

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        x_0_hat = self.inner.estimate_x_0(x_t, level)
        close = (x_0_hat - self.image).square().flatten(1).mean(dim=1) < 1e-3
        return torch.where(close[:, None, None, None], torch.nan, x_0_hat)


class BrokenWhenSampling(Wrapped):
    """Sound while the noise distribution is optimised; after `sound` sampling steps its samples are not finite."""

    def __init__(self, inner: MixtureDenoiser, value: float = torch.nan, *, sound: int = 0) -> None:
        super().__init__(inner)
        self.value, self.sound = value, sound

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        x_0_hat = self.inner.estimate_x_0(x_t, level)
        if torch.is_grad_enabled():
            return x_0_hat
        self.sound -= 1
        return x_0_hat if self.sound >= 0 else x_0_hat * self.value


class RowCounter(Wrapped):
    """Notes how many rows each call had: (optimising, rows)."""

    def __init__(self, inner: MixtureDenoiser) -> None:
        super().__init__(inner)
        self.calls: set[tuple[bool, int]] = set()

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        self.calls.add((torch.is_grad_enabled(), x_t.shape[0]))
        return self.inner.estimate_x_0(x_t, level)


class Guided(Wrapped):
    """Guidance between two closed-form models: `inner` knows the images evenly, `conditional` prefers some."""

    def __init__(self, inner: MixtureDenoiser, conditional: MixtureDenoiser) -> None:
        super().__init__(inner)
        self.conditional = conditional

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        preferred = self.conditional.estimate_x_0(x_t, level)
        return guided(self.inner.estimate_x_0(x_t, level), preferred, guidance_scale)
