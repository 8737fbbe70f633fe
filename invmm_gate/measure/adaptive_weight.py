"""lambda, the weight of the normality: halved on a plateau of the watched loss, else grown a little at each step."""

from dataclasses import dataclass, replace

from invmm_gate.core.settings import InversionSettings


@dataclass(frozen=True, slots=True)
class WeightState:
    """lambda and what its next test compares with.

    Source: arXiv:2405.05846v3, Algorithm 1, lines 5 to 15, in the order of the authors' code: lambda changes after the
    optimiser's step, and grows by delta at every step that is no test, those before the first test included.
    """

    weight: float
    watched: float = float("inf")
    """The watched loss at the last test; +inf before the first."""


def weights_until_test(state: WeightState, settings: InversionSettings) -> tuple[float, ...]:
    """The weight of each optimisation step up to the next test, the first one included."""
    growth = settings.weight_step if settings.weight_rule == "adaptive" else 0.0
    return tuple(state.weight + index * growth for index in range(settings.test_every))


def adapt(state: WeightState, watched: float, settings: InversionSettings) -> WeightState:
    """The state after a test, given the watched loss of now (averaged over the window)."""
    if settings.weight_rule == "fixed":
        return replace(state, watched=watched)
    used_last = weights_until_test(state, settings)[-1]
    improvement = state.watched - watched
    compared = improvement if settings.plateau_sign == "improvement" else -improvement
    halved = compared < settings.plateau_tolerance
    return WeightState(weight=used_last / 2 if halved else used_last + settings.weight_step, watched=watched)
