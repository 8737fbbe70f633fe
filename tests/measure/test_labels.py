"""The order in which labels are tried: that under which the image is denoised best comes first."""

import pytest
import torch
from torch import Tensor, nn

from invmm_gate.core.protocols import LabelEncoder
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure import labels as module
from invmm_gate.measure.labels import DRAWS, by_denoising_error
from invmm_gate.models.adapters.class_conditional import ClassConditionalModel, Labels
from invmm_gate.models.adapters.unconditional import PixelModel

CLASSES = 7
IMAGES = torch.rand(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


class Known(nn.Module):
    """Predicts x_0: under each label the one image that it knows, and under the null class the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.broken = list[int](), -1

    def forward(self, x_t: Tensor, time: Tensor, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        del time, return_dict
        self.rows.append(len(x_t))
        return (torch.stack([self._known(label) for label in class_labels.tolist()]),)

    def _known(self, label: int) -> Tensor:
        if label == self.broken:
            return torch.full((3, 8, 8), torch.nan)
        return IMAGES.mean(dim=0) if label == CLASSES else IMAGES[label]


@pytest.fixture
def network() -> Known:
    return Known()


@pytest.fixture
def model(linear_schedule: VariancePreserving, network: Known) -> ClassConditionalModel:
    cpu = torch.device("cpu")
    space = PixelModel(
        network=network, schedule=linear_schedule, prediction_type="sample", latent_shape=(3, 8, 8), device=cpu
    )
    labels = Labels(classes=CLASSES, null=CLASSES, unconditional=None, device=cpu)
    return ClassConditionalModel(network=network, prompts=labels, space=space)


def order(model: ClassConditionalModel, image: Tensor, seed: int = 0) -> tuple[int, ...]:
    assert isinstance(model.prompts, LabelEncoder)
    return by_denoising_error(model, model.prompts, image, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("known", range(CLASSES))
def test_the_label_under_which_the_image_is_denoised_best_comes_first_and_the_null_class_before_strangers(
    model: ClassConditionalModel, known: int
) -> None:
    found = order(model, IMAGES[known])
    assert found[:2] == (known, CLASSES)
    assert sorted(found) == list(range(CLASSES + 1))


def test_each_label_takes_as_many_forwards_in_calls_of_one_size(model: ClassConditionalModel, network: Known) -> None:
    order(model, IMAGES[0])
    assert network.rows == [module._ROWS] * (-(-(CLASSES + 1) * DRAWS // module._ROWS))


def test_a_label_that_breaks_the_network_comes_last(model: ClassConditionalModel, network: Known) -> None:
    network.broken = 2
    assert order(model, IMAGES[2])[-1] == 2


def test_the_same_stream_gives_the_same_order(model: ClassConditionalModel) -> None:
    assert order(model, IMAGES.mean(dim=0), seed=5) == order(model, IMAGES.mean(dim=0), seed=5)


def test_a_model_without_classes_has_no_labels(linear_schedule: VariancePreserving) -> None:
    assert not isinstance(MixtureDenoiser(IMAGES, torch.ones(CLASSES), linear_schedule).prompts, LabelEncoder)
