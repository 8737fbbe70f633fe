"""The sensitivity test: does every noise drawn from q regenerate the probe, or nearly every one?

Sequential and exact: a probe's noises are fixed beforehand and tried in order; a guidance scale is dropped at the first
miss that is too many, and a probe passes at the first scale at which enough noises replicate it. The decision is that
of the full test, for fewer network evaluations. A case may ask for a few samples whatever the decision. Rows left over
in a call try the next noises early; what lies further behind is thrown away, so that neither decision nor record
depends on batch mates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import Condition, CopyMetric, DiffusionModel, NoiseSampler
from invmm_gate.diffusion.prediction import join_rows, rows_of, take_rows
from invmm_gate.diffusion.samplers import GridSampler, streams_of
from invmm_gate.measure.distributions import noise_from

_COPIES_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestCase:
    """One probe under test."""

    mu: Float[Tensor, "channel height width"]
    log_var: Float[Tensor, "channel height width"]
    standard: Float[Tensor, "sample channel height width"]
    """Standard normal draws from the probe's own stream."""
    seeds: Int[Tensor, " sample"]
    """Of what the sampler draws by itself for each of them."""
    reference: Float[Tensor, "1 feature"]
    """The metric's features of the target image."""
    condition: Condition | None = None
    """The prompt: one row for all samples, or one row a sample; None for unconditional models."""
    needed: tuple[int, ...]
    """After how many samples none, one, two, .. of them may be no copies; the last counts all samples."""
    fewest: int = 0
    """Samples that are drawn whatever the decision, to learn the share that replicates. As many as there are noises =
    all of them, at every scale."""

    __test__ = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestResult:
    """The result of a test. `passed` means: enough samples replicate the probe at one guidance scale."""

    passed: bool
    best_scale: float
    """The scale that passed, or at which most samples replicate; NaN where none was drawn."""
    hits: int
    """Replicating samples at the best scale, of those that were tried."""
    trials: int
    """Samples tried at that scale."""
    best_value: float
    """Copy-metric value of the closest sample tried; NaN where not `finite`."""
    samples: int
    """Samples that count, over all scales."""
    evaluations: int
    """Network forwards of these samples; guidance takes two a step."""
    finite: bool
    """False where the network or the metric gave NaN or infinity."""
    copies: tuple[Float[Tensor, "3 image_height image_width"], ...]
    """Up to four replicating samples, in [-1, 1]."""

    __test__ = False

    @property
    def guidance_scale(self) -> float | None:
        """The scale that passed."""
        return self.best_scale if self.passed else None


UNTESTED: Final = TestResult(
    passed=False, best_scale=nan, hits=0, best_value=nan, trials=0, samples=0, evaluations=0,
    finite=True, copies=(),
)  # fmt: skip
"""The result where no sample was drawn."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One probe at one guidance scale: the values of its samples so far, in the order of its noises."""

    case: int
    scale: float
    values: list[float] = field(default_factory=list)
    hits: int = 0
    passed: bool = False
    copies: list[Tensor] = field(default_factory=list)

    def add(self, value: float, needed: Sequence[int], *, copied: bool) -> None:
        """Note a sample. A lane that passed once has passed, whatever is drawn afterwards for the share."""
        self.values.append(value)
        self.hits += copied
        misses = len(self.values) - self.hits
        self.passed = self.passed or (misses < len(needed) and len(self.values) >= needed[misses])

    def is_done(self, case: TestCase) -> bool:
        """Whether it is decided, and has the samples that are drawn in any case."""
        decided = self.passed or len(self.values) - self.hits >= len(case.needed)
        return decided and len(self.values) >= case.fewest


def run_tests(
    model: DiffusionModel,
    metric: CopyMetric,
    cases: Sequence[TestCase],
    *,
    rows: int,
    sampler_steps: int,
    guidance_scales: Sequence[float] = (1.0,),
    sampler: NoiseSampler | None = None,
) -> tuple[TestResult, ...]:
    """Test many probes at once in calls of exactly `rows` samples; results in the order of the cases.

    `sampler` None = that of the measure's own grid.
    """
    sampler = sampler or GridSampler(model)
    # Ordered by scale, so that a probe reaches its next scale only after the one before was decided.
    lanes = [_Lane(index, scale) for scale in guidance_scales for index in range(len(cases))]
    while waiting := _next_batch(lanes, cases, rows):
        _try(model, sampler, metric, cases, waiting, rows=rows, sampler_steps=sampler_steps)
    costs = {scale: sampler.forwards(steps=sampler_steps, guidance_scale=scale) for scale in guidance_scales}
    return tuple(_result(index, case, lanes, metric, costs) for index, case in enumerate(cases))


def _next_batch(lanes: Sequence[_Lane], cases: Sequence[TestCase], rows: int) -> list[tuple[_Lane, int]]:
    """The next noises to try, all of one scale: one of each open lane, then further ones while rows are left."""
    won = {lane.case for lane in lanes if lane.passed and lane.is_done(cases[lane.case])}
    open_lanes = [lane for lane in lanes if _is_open(lane, cases, won)]
    if not open_lanes:
        return []
    # One call has one guidance scale: guidance takes two forwards a step, and 1 takes one.
    same_scale = [lane for lane in open_lanes if lane.scale == open_lanes[0].scale]
    batch: list[tuple[_Lane, int]] = []
    for ahead in range(max(len(case.standard) for case in cases)):
        for lane in same_scale:
            noise = len(lane.values) + ahead
            if noise < len(cases[lane.case].standard) and len(batch) < rows:
                batch.append((lane, noise))
    return batch


def _is_open(lane: _Lane, cases: Sequence[TestCase], won: set[int]) -> bool:
    case = cases[lane.case]
    return not lane.is_done(case) and (lane.case not in won or case.fewest == len(case.standard))


def _try(
    model: DiffusionModel,
    sampler: NoiseSampler,
    metric: CopyMetric,
    cases: Sequence[TestCase],
    batch: Sequence[tuple[_Lane, int]],
    *,
    rows: int,
    sampler_steps: int,
) -> None:
    """Sample a batch of one scale, padded to `rows` with inert rows, and note each value in its lane."""
    scale = batch[0][0].scale
    noises = torch.stack([_noise(cases[lane.case], index) for lane, index in batch])
    noises = torch.cat([noises, noises.new_zeros(rows - len(batch), *noises.shape[1:])])
    seeds = torch.stack([cases[lane.case].seeds[index] for lane, index in batch])
    streams = streams_of(torch.cat([seeds, seeds.new_zeros(rows - len(batch))]))
    condition = _conditions(cases, batch, rows)
    x_0 = sampler.x_0(noises, streams, steps=sampler_steps, condition=condition, guidance_scale=scale)
    images = model.decode(x_0)
    features = metric.embed(images)
    references = torch.cat([cases[lane.case].reference for lane, _ in batch])
    values = metric.compare(features[: len(batch)], references)
    values = values.masked_fill(~x_0[: len(batch)].isfinite().flatten(1).all(dim=1), float("nan")).cpu()
    for row, ((lane, _), value, is_copy) in enumerate(
        zip(batch, values.tolist(), metric.is_copy(values).tolist(), strict=True)
    ):
        # An earlier row of this call decided the lane. What lies behind was only tried because rows were left: to keep
        # it would make the record depend on how many probes share the batch.
        if lane.is_done(cases[lane.case]):
            continue
        lane.add(value, cases[lane.case].needed, copied=is_copy)
        if is_copy and len(lane.copies) < _COPIES_KEPT:
            lane.copies.append(images[row].cpu())


def _conditions(cases: Sequence[TestCase], batch: Sequence[tuple[_Lane, int]], rows: int) -> Condition | None:
    """A row for each sample of the batch; the padding repeats the first."""
    found = []
    for lane, noise in batch:
        condition = cases[lane.case].condition
        if condition is None:
            return None
        found.append(take_rows(condition, torch.tensor([noise if rows_of(condition) > 1 else 0])))
    return join_rows([*found, *[found[0]] * (rows - len(found))])


def _noise(case: TestCase, index: int) -> Tensor:
    standard = case.standard[None, index : index + 1].to(case.mu.device)
    return noise_from(case.mu[None], case.log_var[None], standard)[0, 0]


def _result(
    index: int, case: TestCase, lanes: Sequence[_Lane], metric: CopyMetric, costs: Mapping[float, int]
) -> TestResult:
    own = [lane for lane in lanes if lane.case == index]
    tried = [value for lane in own for value in lane.values]
    finite = all(isfinite(value) for value in tried)
    best = max(own, key=lambda lane: (lane.passed, lane.hits))
    return TestResult(
        passed=best.passed,
        best_scale=best.scale,
        hits=best.hits,
        best_value=(max if metric.higher_is_copy else min)(tried) if finite else nan,
        trials=len(best.values),
        samples=len(tried),
        evaluations=sum(len(lane.values) * costs[lane.scale] for lane in own),
        finite=finite,
        copies=tuple(best.copies),
    )
