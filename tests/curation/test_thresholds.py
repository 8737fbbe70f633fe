"""A copy threshold as a distance: the metric and the distance agree on every pair."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.errors import ConfigError
from invmm_gate.curation.embedder import CopyScale
from invmm_gate.similarity.pixel import PixelRmse


@given(st.sampled_from(["cosine", "rmse"]), st.floats(0.01, 0.99))
def test_value_and_distance_are_inverse(kind, value):
    scale = CopyScale(kind=kind, threshold=0.5, width=48)
    assert scale.value(scale.distance(value)) == pytest.approx(value, abs=1e-12)


def test_the_distance_of_pixels_is_that_of_the_metric():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    metric = PixelRmse()
    features = metric.embed(images)
    distance = float(np.linalg.norm(features[0].double() - features[1].double()))
    scale = CopyScale(kind="rmse", threshold=0.1, width=192)
    assert scale.value(distance) == pytest.approx(float(metric.compare(features[:1], features[1:])), rel=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "rmse"])
@pytest.mark.parametrize("threshold", [0.03, 0.1, 0.5, 0.9, 0.99])
def test_the_sweep_goes_from_strict_to_loose_and_holds_the_threshold(kind, threshold):
    scale = CopyScale(kind=kind, threshold=threshold, width=48)
    distances = [scale.distance(value) for value in scale.sweep()]
    assert threshold in scale.sweep()
    assert distances == sorted(set(distances))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        CopyScale(kind="cosine", threshold=threshold, width=4)
