"""One truth: what diffusers loads and draws with is what is measured, or nothing is measured."""

import inspect
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler, LDMPipeline
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers

from invmm_gate.core.errors import ModelError
from invmm_gate.core.records import Weights
from invmm_gate.models import networks
from invmm_gate.models.load.agreement import load_verified, require_agreement
from invmm_gate.models.load.load import load_model
from invmm_gate.models.load.observation import Observation
from invmm_gate.models.load.reference import in_child, observed_by_diffusers
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from invmm_gate.models.read.scheduler_config import SCHEDULERS
from invmm_gate.models.read.tokenizer_files import TokenizerFiles
from tests.models import tiny_text
from tests.models.conftest import edit_json, tiny_kl, tiny_unet

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2

WEIGHTS = "diffusion_pytorch_model.safetensors"
DRAWN = tuple(name for name in tiny_text.NAMES if name != "ldm")


def verified(path: Path, *, weights: Weights | None = None) -> None:
    load_verified(inspect_checkpoint(path, weights=weights))


@pytest.mark.parametrize("name", ["ddpm", "vq", "kl", "bare"])
def test_checkpoints_without_prompts_are_what_diffusers_loads(checkpoint: Callable[[str], Path], name: str) -> None:
    verified(checkpoint(name))


@pytest.mark.parametrize("name", DRAWN)
def test_checkpoints_with_prompts_are_what_diffusers_loads(text_checkpoint: Callable[[str], Path], name: str) -> None:
    verified(text_checkpoint(name))


def test_raw_and_averaged_weights_are_each_held_against_their_own(ddpm: Path) -> None:
    average = EMAModel(tiny_unet(seed=5).parameters(), model_cls=type(tiny_unet()), model_config=tiny_unet().config)
    average.save_pretrained(ddpm / "unet_ema")
    verified(ddpm, weights="raw")
    verified(ddpm, weights="ema")


def test_one_file_with_its_configurations_is_held_against_the_network_that_they_describe(tmp_path: Path) -> None:
    texts = {"unet_config": tiny_unet().to_json_string(), "scheduler_config": DDPMScheduler().to_json_string()}
    save_file(tiny_unet().state_dict(), tmp_path / "single.safetensors", metadata=texts)
    verified(tmp_path / "single.safetensors")


def test_half_precision_weights_agree(ddpm: Path) -> None:
    tiny_unet().half().save_pretrained(ddpm / "unet")
    verified(ddpm)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_pipeline_that_nobody_can_draw_with_is_refused_with_the_scheduler_to_save(tmp_path: Path, kind: str) -> None:
    scheduler = getattr(diffusers, kind)()
    DDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "m")
    if "generator" in inspect.signature(scheduler.step).parameters:
        assert inspect_checkpoint(tmp_path / "m").scheduler == kind
        return
    with pytest.raises(ModelError, match=f"cannot draw with {kind}") as caught:
        inspect_checkpoint(tmp_path / "m")
    remedied = eval(caught.value.do.split("save it with ")[1].split(", which")[0], {"DDPMScheduler": DDPMScheduler})
    assert torch.equal(remedied.alphas_cumprod, scheduler.alphas_cumprod)
    DDPMPipeline(tiny_unet(), remedied).save_pretrained(tmp_path / "n")
    inspect_checkpoint(tmp_path / "n")


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")  # torchsde's own, for rounded times
@pytest.mark.parametrize(
    "kind",
    [
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverSDEScheduler",
        "TCDScheduler",
        "SASolverScheduler",
    ],
)
def test_a_prompted_model_is_drawn_with_any_solver_of_its_schedule(tmp_path: Path, kind: str) -> None:
    pipeline = tiny_text.build("sd1").pipeline
    pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "m")
    assert inspect_checkpoint(tmp_path / "m").scheduler == kind
    verified(tmp_path / "m")


# What is measured differs from what diffusers loads, one thing at a time.
@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Observation]]:
    """A saved checkpoint and what diffusers makes of it."""
    found: dict[str, tuple[Path, Observation]] = {}

    def observed(name: str) -> tuple[Path, Observation]:
        if name not in found:
            path = tmp_path_factory.mktemp(name) / "m"
            if name == "ddpm":
                DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(path)
            elif name == "kl":
                unet = tiny_unet(in_channels=4, out_channels=4)
                LDMPipeline(tiny_kl(), unet, DDIMScheduler()).save_pretrained(path)
            else:
                tiny_text.build(name).pipeline.save_pretrained(path)
            found[name] = (path, observed_by_diffusers(inspect_checkpoint(path)))
        return found[name]

    return observed


def other_weight(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(key for key, tensor in tensors.items() if tensor.dim() > 1)[0]
    tensors[name][0] += 1e-6
    save_file(tensors, path, metadata={"format": "pt"})


def edits(file: str, **changes: object) -> Callable[[Path], None]:
    return lambda path: edit_json(path / file, **changes)


def other_scheduler(path: Path) -> None:
    DDIMScheduler(clip_sample=True).save_pretrained(path / "scheduler")
    edit_json(path / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])


DIFFERENCES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a weight": ("ddpm", lambda path: other_weight(path / "unet" / WEIGHTS), "weights of unet"),
    "an activation": ("ddpm", edits("unet/config.json", act_fn="relu"), "x_0_hat"),
    "the time embedding": ("ddpm", edits("unet/config.json", flip_sin_to_cos=False), "x_0_hat"),
    "padding": ("ddpm", edits("unet/config.json", downsample_padding=0), "x_0_hat"),
    "centred input": ("ddpm", edits("unet/config.json", center_input_sample=True), "x_0_hat"),
    "the size": ("ddpm", edits("unet/config.json", sample_size=16), r"\(3, 16, 16\) is measured"),
    "the last beta": ("ddpm", edits("scheduler/scheduler_config.json", beta_end=0.019), "x_0_hat"),
    "the schedule": ("ddpm", edits("scheduler/scheduler_config.json", beta_schedule="squaredcos_cap_v2"), "x_0_hat"),
    "the prediction": ("ddpm", edits("scheduler/scheduler_config.json", prediction_type="v_prediction"), "x_0_hat"),
    "clipping": ("ddpm", edits("scheduler/scheduler_config.json", clip_sample=False), "x_t at call 2|image"),
    "the spacing": ("ddpm", edits("scheduler/scheduler_config.json", timestep_spacing="trailing"), "x_0_hat|x_t"),
    "the latent's scale": ("kl", edits("vqvae/config.json", scaling_factor=0.6), "decoded latent|image"),
    "the decoder": ("kl", lambda path: other_weight(path / "vqvae" / WEIGHTS), "weights of vqvae"),
    "the text encoder": (
        "sd1", lambda path: other_weight(path / "text_encoder" / "model.safetensors"), "weights of text_encoder"
    ),
    "a sampler": (
        "ddpm",
        other_scheduler,
        "the scheduler is DDIMScheduler, diffusers' DDPMScheduler",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_is_refused_and_named(
    theirs: Callable[[str], tuple[Path, Observation]], tmp_path: Path, name: str
) -> None:
    base, change, said = DIFFERENCES[name]
    saved, seen = theirs(base)
    path = shutil.copytree(saved, tmp_path / "m")
    require_agreement(load_model(inspect_checkpoint(path)), seen, denoiser="unet")
    change(path)
    with pytest.raises(ModelError, match=said):
        require_agreement(load_model(inspect_checkpoint(path)), seen, denoiser="unet")


def test_a_caption_that_users_tokenizer_reads_as_other_tokens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the gate's tokenizer reads one word as another, which the class of transformers does not."""
    own: list[Any] = []

    def from_json(library: Any, files: TokenizerFiles) -> Any:
        backend = Tokenizer.from_str(files.content["tokenizer.json"].decode())
        if own:
            backend.normalizer = own[0]
        special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        return library.PreTrainedTokenizerFast(tokenizer_object=backend, **special)

    monkeypatch.setitem(networks._TOKENIZERS, "t5", from_json)
    tiny_text.build("sd3_t5").pipeline.save_pretrained(tmp_path / "m")
    manifest = inspect_checkpoint(tmp_path / "m")
    load_verified(manifest, texts=("a cat", "a dog", ""))
    own.append(normalizers.Replace("cat", "zzz"))
    load_verified(manifest, texts=("a dog", ""))
    with pytest.raises(ModelError, match="tokenizer_3 reads 1 of 2 captions as other tokens") as caught:
        load_verified(manifest, texts=("a dog", "a cat"))
    assert "a cat" not in str(caught.value), "captions are private, and refusals stand in job logs"


def test_a_network_that_gives_nan_agrees_with_nothing(theirs: Callable[[str], tuple[Path, Observation]]) -> None:
    saved, seen = theirs("ddpm")
    model = load_model(inspect_checkpoint(saved))
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="nan away"):
        require_agreement(model, seen, denoiser="unet", exact=False)


def test_the_measured_process_is_that_of_the_pipelines_scheduler(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), EulerDiscreteScheduler()).save_pretrained(tmp_path / "m")
    _, layout = layout_of(inspect_checkpoint(tmp_path / "m"))
    assert layout.scheduler_content["_class_name"] == "EulerDiscreteScheduler"


# The child process.
def test_what_the_child_returns_and_what_ends_it_come_back() -> None:
    assert in_child(lambda: b"answer", memory=10**9) == b"answer"
    with pytest.raises(ModelError, match="ZeroDivisionError: "):
        in_child(lambda: bytes(1 // 0), memory=10**9)


def test_memory_beyond_the_limit_ends_the_child_alone() -> None:
    with pytest.raises(ModelError, match=r"MemoryError|alloc"):
        in_child(lambda: bytes(torch.ones(2_000_000_000, dtype=torch.uint8).numel()), memory=500_000_000)


def test_a_child_that_is_killed_is_told_with_its_limits() -> None:
    def end() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(ModelError, match=r"ended without an answer \(code -9\); it may take 1.0 GB"):
        in_child(end, memory=10**9)


def test_the_child_can_write_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"OSError|File too large"):
        in_child(lambda: bytes((tmp_path / "x").write_bytes(b"1") * 0), memory=10**9)
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0
