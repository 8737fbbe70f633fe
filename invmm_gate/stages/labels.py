"""Labels of a class-conditional run: which label each probe has, and whether the model has it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from invmm_gate.core.protocols import DiffusionModel, LabelEncoder, label_side
from invmm_gate.core.records import Probe
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.labels import by_denoising_error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeLabels:
    """The labels of the probes of a run; what was found out once is kept."""

    model: DiffusionModel
    labels: LabelEncoder
    seed: int
    load_image: Callable[[Probe], Tensor]
    _orders: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, probe: Probe) -> int:
        """The label under which the image is denoised best. That of the manifest may be wrong, or of other numbers."""
        return self.order(probe)[0]

    def first(self, probe: Probe) -> tuple[int, ...]:
        """Labels that are tried before any search: the manifest's and the best one, all where it gives none."""
        order = self.order(probe)
        return order if probe.label is None else tuple(dict.fromkeys((probe.label, order[0])))

    def order(self, probe: Probe) -> tuple[int, ...]:
        """All labels of the model, that under which the probe's image is denoised best first."""
        if probe.id not in self._orders:
            generator = stream(self.seed, probe.sha256, "labels")
            image = self.load_image(probe)
            self._orders[probe.id] = by_denoising_error(self.model, self.labels, image, generator=generator)
        return self._orders[probe.id]


def labels_for(model: DiffusionModel, *, seed: int, load_image: Callable[[Probe], Tensor]) -> ProbeLabels | None:
    """The labels of a run's probes; None for a model without classes."""
    labels = label_side(model)
    return None if labels is None else ProbeLabels(model=model, labels=labels, seed=seed, load_image=load_image)
