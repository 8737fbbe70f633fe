"""Two copy metrics at once: what either calls a copy, and nothing else."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from invmm_gate.core.protocols import CopyMetric
from invmm_gate.core.records import MetricRecord
from invmm_gate.policy.schema import MetricChoice
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.either import Either
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine

SIZE = (16, 16)
COSINE = EncoderCosine(lambda images: images.flatten(1), name="sscd_pixels@16", threshold=0.9)
PAIRS: dict[str, tuple[CopyMetric, CopyMetric]] = {
    "two distances": (PixelRmse(), PixelAligned()),
    "a distance and a similarity": (PixelRmse(), COSINE),
    "a similarity and a distance": (COSINE, PixelAligned()),
}


def pictures(count: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False).clamp(-1, 1)


def near(image: Tensor) -> Tensor:
    """The image, altered in many ways and less and less like itself."""
    noise = torch.randn(12, *image.shape, generator=torch.Generator().manual_seed(1))
    fading = image + noise * torch.linspace(0, 0.6, 12)[:, None, None, None]
    return torch.cat([fading, fading.flip(-1), pictures(8, seed=5)])


@pytest.mark.parametrize("name", PAIRS)
def test_a_copy_is_what_either_calls_one(name: str) -> None:
    first, second = PAIRS[name]
    either, reference = Either(first, second, size=SIZE), pictures(1, seed=3)
    images = near(reference[0])
    values = either.compare(either.embed(images), either.embed(reference))
    found = either.is_copy(values)
    own = [metric.is_copy(metric.compare(metric.embed(images), metric.embed(reference))) for metric in (first, second)]
    assert found.tolist() == (own[0] | own[1]).tolist()
    assert 0 < int(found.sum()) < len(found)
    assert bool((values >= 0).all())


def test_a_value_depends_on_no_other_row_and_nan_is_no_copy() -> None:
    either = Either(PixelRmse(), PixelAligned(), size=SIZE)
    images, references = pictures(4), pictures(2, seed=8)
    rows, owners = either.embed(images), either.embed(references[[0, 0, 1, 1]])
    alone = [either.compare(rows[row : row + 1], owners[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(either.compare(rows, owners), torch.cat(alone), rtol=0, atol=1e-4)
    images[0, 0, 0, 0] = math.nan
    broken = either.compare(either.embed(images[:1]), owners[:1])
    assert bool(broken.isnan().all())
    assert not bool(either.is_copy(broken).any())


def test_the_alignment_is_that_of_the_nearer() -> None:
    either, image = Either(PixelRmse(), PixelAligned(), size=SIZE), pictures(1)
    assert either.alignment(either.embed(image.flip(-1)), either.embed(image)) == "mirrored"
    assert either.alignment(either.embed(image), either.embed(image)) == ""


def test_it_is_unfit_where_one_of_the_two_is() -> None:
    assert Either(PixelRmse(), PixelAligned(), size=SIZE).unfit_for(16, 16) is None
    assert Either(PixelRmse(), COSINE, size=SIZE).unfit_for(128, 128) is not None


def test_a_policy_knows_its_own_pair_and_no_other() -> None:
    choice = MetricChoice.model_validate(
        {"name": "pixel_rmse", "threshold": 0.1, "also": {"name": "sscd_pixels", "threshold": 0.9, "sha256": "a" * 64}}
    )
    either = Either(PixelRmse(), COSINE, size=SIZE)
    record = MetricRecord(name=either.name, threshold=1.0, higher_is_copy=False, digest="a" * 64)
    assert record.name == "pixel_rmse at 0.1 or sscd_pixels@16 at 0.9"
    assert choice.is_of(record)
    plain = MetricChoice(name="pixel_rmse", threshold=0.1)
    for other in (
        MetricRecord(name=either.name, threshold=1.0, higher_is_copy=False, digest="b" * 64),
        MetricRecord(name="pixel_rmse", threshold=0.1, higher_is_copy=False),
        MetricRecord(name="pixel_rmse at 0.1 or pixel_aligned at 0.9", threshold=1.0, higher_is_copy=False),
        MetricRecord(name=either.name, threshold=1.5, higher_is_copy=False, digest="a" * 64),
    ):
        assert not choice.is_of(other)
    assert plain.is_of(MetricRecord(name="pixel_rmse", threshold=0.1, higher_is_copy=False))
    assert not plain.is_of(record)


def test_two_metrics_with_weights_are_both_known_by_their_digests() -> None:
    first = {"name": "sscd_pixels", "threshold": 0.9, "sha256": "a" * 64}
    choice = MetricChoice.model_validate(
        first | {"also": {"name": "onnx_pixels", "threshold": 0.8, "sha256": "b" * 64}}
    )
    name = "sscd_pixels@16 at 0.9 or onnx_pixels@16 at 0.8"
    for digest, known in (("a b", True), ("a c", False), ("c b", False), ("a", False)):
        digests = " ".join(letter * 64 for letter in digest.split())
        assert choice.is_of(MetricRecord(name=name, threshold=1.0, higher_is_copy=False, digest=digests)) is known


def test_a_policy_without_a_second_metric_says_nothing_of_one() -> None:
    plain = MetricChoice(name="pixel_rmse", threshold=0.1)
    assert "also" not in plain.model_dump()
    pair = {"name": "pixel_rmse", "threshold": 0.1, "also": {"name": "pixel_aligned", "threshold": 0.05}}
    assert MetricChoice.model_validate(MetricChoice.model_validate(pair).model_dump()).also is not None
