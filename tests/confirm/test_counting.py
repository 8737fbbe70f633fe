"""Copies among samples, and how the closest of them shows the probe."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from invmm_gate.confirm.counting import CopyCount, count_copies
from invmm_gate.core.protocols import AligningMetric
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.pixel import PixelRmse


def pictures(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return interpolate(coarse, size=16, mode="bicubic", align_corners=False).clamp(-1, 1)


def rough(image: Tensor) -> Tensor:
    return image + 0.04 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))


def test_the_alignment_of_the_closest_sample_is_kept_for_a_metric_that_aligns() -> None:
    images, metric = pictures(4), PixelAligned()
    references = {"a": (metric.embed(images[:1]),), "b": (metric.embed(images[1:2]),)}
    counts = {"a": CopyCount(), "b": CopyCount()}
    count_copies(metric, torch.cat([images[2:], rough(images[:1]).flip(-1)]), references, counts)
    assert (counts["a"].hits, counts["a"].alignment) == (1, "mirrored")
    assert counts["b"].hits == 0
    exact = torch.cat([images[:1], images[3:]])
    count_copies(metric, exact, references, counts)
    assert (counts["a"].hits, counts["a"].alignment) == (2, ""), "the exact copy lies closer"
    farther = counts["a"].closest
    count_copies(metric, images[2:3], references, counts)
    assert counts["a"].closest == farther


def test_a_metric_that_moves_nothing_says_nothing() -> None:
    images, metric = pictures(2), PixelRmse()
    assert not isinstance(metric, AligningMetric)
    counts = {"a": CopyCount()}
    count_copies(metric, images, {"a": (metric.embed(images[:1]), metric.embed(images[:1].flip(-1)))}, counts)
    assert (counts["a"].hits, counts["a"].alignment) == (1, "")
