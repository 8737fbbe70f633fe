"""Cosine over an encoder, and SSCD from a file: the transform, the sha256 and every file that is not SSCD."""

import math
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from invmm_gate.core.errors import ConfigError
from invmm_gate.similarity.sscd import ENVIRONMENT_VARIABLE, EncoderCosine, sscd_metric, transformed


def flattened(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_cosine_closed_forms() -> None:
    metric = EncoderCosine(flattened, name="pixels", threshold=0.5)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = metric.embed(torch.cat([image, 3 * image, -image]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(metric.compare(features, features[:1]), torch.tensor([1.0, 1.0, -1.0]))
    left, right = torch.zeros(2, 1, 3, 8, 8)
    left[..., :4], right[..., 4:] = 1.0, 1.0
    assert metric.compare(metric.embed(left), metric.embed(right)).item() == 0.0


def test_cosine_half_is_distance_one_between_unit_vectors() -> None:
    # The paper has a Euclidean distance of at most 1.
    generator = torch.Generator().manual_seed(0)
    metric = EncoderCosine(flattened, name="pixels", threshold=0.5)
    one, two = (metric.embed(torch.randn(50, 3, 4, 4, generator=generator)) for _ in range(2))
    two = nn.functional.normalize(two + one, dim=1)
    distance = (one - two).norm(dim=1)
    assert metric.is_copy(metric.compare(one, two)).tolist() == (distance <= 1.0).tolist()


def test_the_threshold_is_a_copy_and_nan_never_is() -> None:
    metric = EncoderCosine(flattened, name="pixels", threshold=0.5)
    values = torch.tensor([0.5, 0.4999, 1.0, math.nan, -math.inf])
    assert metric.is_copy(values).tolist() == [True, False, True, False, False]


def test_features_stay_float32_and_carry_no_gradient_whatever_the_encoder_does() -> None:
    weight = torch.ones(1, requires_grad=True)
    metric = EncoderCosine(lambda images: (images.flatten(1) * weight).to(torch.float16), name="half", threshold=0.5)
    features = metric.embed(torch.rand(2, 3, 8, 8))
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_an_encoder_says_where_it_is_too_coarse() -> None:
    metric = EncoderCosine(flattened, name="dino", threshold=0.5, smallest_side=64)
    assert metric.unfit_for(64, 64) is None
    assert metric.unfit_for(64, 32) == "dino is unreliable at 64x32, below 64 pixels; use pixel_rmse"


class SmallNetwork(nn.Module):
    """In the place of SSCD: four features of an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.fixture(scope="module")
def network() -> SmallNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNetwork().eval()


@pytest.fixture(scope="module")
def file(network: SmallNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as TorchScript, which is how SSCD's authors publish theirs."""
    path = tmp_path_factory.mktemp("sscd") / "small.torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates making such files, not reading them
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 32, 32)), path)
    return path


@pytest.fixture(autouse=True)
def no_file_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(3)) * 2 - 1


def as_sscd_wants_it(image: Tensor, size: int) -> Tensor:
    """The same transform by Pillow: resize each channel as float, then ImageNet's mean and deviation."""
    channels = []
    for channel, mean, deviation in zip(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True):
        pixels = Image.fromarray(((channel + 1) / 2).numpy().astype(np.float32), mode=None)
        resized = np.asarray(pixels.resize((size, size), Image.Resampling.BILINEAR))
        channels.append((torch.from_numpy(resized.copy()) - mean) / deviation)
    return torch.stack(channels)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_transform_equals_an_independent_resize_and_normalisation(images: Tensor, size: int) -> None:
    expected = torch.stack([as_sscd_wants_it(image, size) for image in images])
    torch.testing.assert_close(transformed(images, size), expected, atol=1e-4, rtol=0)


def test_sscd_is_the_cosine_of_the_network_on_transformed_images(
    file: Path, network: SmallNetwork, images: Tensor
) -> None:
    metric, digest = sscd_metric(name="sscd_disc_large", threshold=0.5, size=32, path=file)
    inputs = torch.stack([as_sscd_wants_it(image, 32) for image in images])
    with torch.no_grad():
        expected = nn.functional.cosine_similarity(network(inputs), network(inputs[:1]))
    features = metric.embed(images)
    torch.testing.assert_close(metric.compare(features, features[:1]), expected, atol=1e-4, rtol=0)
    assert metric.name == "sscd_disc_large@32"
    assert metric.higher_is_copy
    assert digest == sha256(file.read_bytes()).hexdigest()
    assert metric.unfit_for(32, 32) is not None
    assert metric.unfit_for(256, 256) is None


def test_the_file_may_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(file))
    _, digest = sscd_metric(name="sscd", threshold=0.5, size=32, expected_sha256=sha256(file.read_bytes()).hexdigest())
    assert digest == sha256(file.read_bytes()).hexdigest()


def refusal(**options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        sscd_metric(name="sscd", threshold=0.5, size=32, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_with_another_sha256_is_refused(file: Path) -> None:
    message = refusal(path=file, expected_sha256="0" * 64)
    assert sha256(file.read_bytes()).hexdigest() in message
    assert f"expected {'0' * 64}" in message


def test_no_file_named_is_refused_with_the_way_to_name_one() -> None:
    assert "give --sscd FILE or set INVMM_GATE_SSCD" in refusal(path=None)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(path=tmp_path / "none.pt")
    assert "cannot be read: Is a directory" in refusal(path=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 but no archive"])
def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.pt"
    path.write_bytes(content)
    assert "wrong.pt is not TorchScript" in refusal(path=path)


def test_plain_weights_are_refused_as_no_torchscript(tmp_path: Path, network: SmallNetwork) -> None:
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    assert "weights.pt is not TorchScript" in refusal(path=path)


class Odd(nn.Module):
    """An encoder whose output is not a row of features for each image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        pooled = images.mean(dim=(2, 3))
        odd = {
            "tuple": (pooled, pooled),
            "map": images,
            "one row": pooled[:1],
            "integers": pooled.long(),
            "NaN": pooled / 0 * 0,
        }
        return odd[self.kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("tuple", "gives a tuple for two images"),
        ("map", r"shape \(2, 3, 32, 32\)"),
        ("one row", r"shape \(1, 3\)"),
        ("integers", "torch.int64"),
        ("NaN", "NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_gives_no_features_is_refused_when_it_is_loaded(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "odd.pt"
    torch.jit.save(torch.jit.trace(Odd(kind), torch.rand(2, 3, 32, 32)), path)
    with pytest.raises(ConfigError, match=said):
        sscd_metric(name="sscd_disc_mixup", threshold=0.5, size=32, path=path)


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "sscd.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ConfigError, match="is a Git LFS pointer"):
        sscd_metric(name="sscd_disc_mixup", threshold=0.5, size=32, path=tmp_path / "sscd.pt")
