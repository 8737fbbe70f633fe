"""The copy metrics that a policy can name are those that the gate can build."""

import torch

from invmm_gate.core.settings import COPY_METRICS
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.pixel import NeighbourNormalisedL2, PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from invmm_gate.stages.session import _METRICS


def test_each_name_has_a_builder_and_each_builder_a_name() -> None:
    assert set(_METRICS) == set(COPY_METRICS)


def test_the_table_says_for_each_whether_a_higher_value_means_a_copy() -> None:
    images = torch.eye(3).reshape(3, 1, 3, 1).expand(3, 3, 3, 3)
    cosine = EncoderCosine(lambda batch: batch.flatten(1), name="sscd", threshold=0.5)
    built = {
        "pixel_rmse": PixelRmse(0.1),
        "pixel_aligned": PixelAligned(0.06),
        "pixel_l2_neighbours": NeighbourNormalisedL2(images),
        "sscd": cosine,
        "onnx": cosine,
    }
    assert {name: metric.higher_is_copy for name, metric in built.items()} == COPY_METRICS
