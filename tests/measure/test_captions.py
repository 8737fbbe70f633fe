"""Whether a probe's score depends on its caption: what is said of each pipeline is what the soft prompts do."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from invmm_gate.core.captions import ENCODERS, caption_readers, with_its_encoders
from invmm_gate.core.records import ModelFile, ModelManifest
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.measure.conditioning import conditioning
from invmm_gate.measure.slots import Slot, Task, WeightState
from invmm_gate.models.read.pipelines import TEXT_FAMILIES
from invmm_gate.stages.soft_choices import soft_choices
from tests.models.tiny_text import NAMES, Tiny, build

SOFT = InversionSettings(steps=2, batch_size=1, test_every=1, prompt="joint", prompt_tokens=4)
CHOICES = [
    {},
    {"soft_encoders": "clip"},
    {"soft_encoders": "all"},
    {"other_prompt": "empty"},
    {"soft_encoders": "clip", "other_prompt": "empty"},
    {"prompt": "prompt_only"},
    {"prompt": "caption"},
    {"prompt": "caption", "other_prompt": "empty"},
]


@cache
def tiny(name: str) -> Tiny:
    return build(name)


def condition(name: str, settings: InversionSettings, caption: str) -> dict[str, torch.Tensor]:
    """What the network is told at a test, with one probe of this caption."""
    model = tiny(name).model
    choices = soft_choices(model.prompts, settings)
    made = conditioning(model, settings, slots=1, root_seed=0, load_caption=lambda _: caption, choices=choices)
    task = Task(probe="p", content="c", seed=0)
    made.enter(0, task)
    slot = Slot(
        index=0,
        task=task,
        reference=torch.zeros(1),
        energy=1.0,
        noise_stream=torch.Generator(),
        weight=WeightState(1.0),
        step=1,
    )
    found = made.for_test(slot, "test", 1)
    assert found is not None
    return dict(found.tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", CHOICES, ids=lambda changes: ",".join(changes.values()) or "default")
def test_the_caption_reaches_the_network_where_an_encoder_is_said_to_read_it(
    name: str, changes: dict[str, str]
) -> None:
    settings = replace(SOFT, **changes)
    one, other = (condition(name, settings, caption) for caption in ("the cat", "a red house"))
    reaches = any(not torch.equal(one[key], other[key]) for key in one)
    pipeline = type(tiny(name).pipeline).__name__
    assert reaches == bool(caption_readers(pipeline, settings, has_t5=name == "sd3_t5"))


def test_an_unconditional_pipeline_reads_no_caption() -> None:
    assert caption_readers("DDPMPipeline", PROFILES["gate"]["pixel"], has_t5=False) == ()
    assert caption_readers("DDPMPipeline", replace(SOFT, prompt="caption"), has_t5=True) == ()


def of_files(pipeline: str, *files: str) -> ModelManifest:
    return ModelManifest(
        path="m",
        name="m",
        pipeline=pipeline,
        files=tuple(ModelFile(path=path, size=1, sha256="") for path in files),
        digest="",
    )


def test_a_checkpoint_whose_encoders_all_read_the_same_tokens_is_measured_and_judged_as_before() -> None:
    """So a run that was made before soft prompts reached T5 still answers the same policy."""
    gate = PROFILES["gate"]["stable_diffusion_3"]
    files = ("text_encoder/model.safetensors", "text_encoder_2/model.safetensors")
    without = of_files("StableDiffusion3Pipeline", *files)
    assert with_its_encoders(gate, without) == replace(gate, soft_encoders="clip")
    t5 = of_files("StableDiffusion3Pipeline", *files, "text_encoder_3/model-00001-of-00002.safetensors")
    assert with_its_encoders(gate, t5) == gate
    for model in (without, t5):
        asked = PROFILES["reference"]["stable_diffusion_3"]
        assert with_its_encoders(asked, model) == asked
    everything = replace(PROFILES["gate"]["stable_diffusion"], soft_encoders="all")
    assert with_its_encoders(everything, of_files("FluxPipeline", *files)) == everything
    assert with_its_encoders(everything, of_files("StableDiffusionPipeline", *files)).soft_encoders == "clip"


def test_the_page_says_of_each_pipeline_who_reads_the_caption(root: Path) -> None:
    page = (root / "docs" / "text-to-image.md").read_text()
    rows = {
        pipeline: (ours, theirs)
        for pipeline, ours, theirs in re.findall(r"^\| `(\w+Pipeline)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    }
    assert rows.keys() == ENCODERS.keys()
    for pipeline, said in rows.items():
        family = TEXT_FAMILIES[pipeline]
        for profiles, cell in ((("gate",), said[0]), (("reference", "paper"), said[1])):
            for profile in profiles:
                readers = caption_readers(pipeline, PROFILES[profile][family], has_t5=True)
                assert re.findall(r"`(\w+)`", cell) == list(readers), (pipeline, profile)
                for name in ENCODERS[pipeline].others:
                    assert (name in cell) == (name in readers)


@pytest.mark.parametrize("page", ["README.md", "docs/measure.md", "docs/text-to-image.md", "docs/glossary.md"])
def test_no_page_promises_a_score_that_no_caption_moves(root: Path, page: str) -> None:
    """Not true of FLUX.1, whose CLIP reads the caption."""
    text = (root / page).read_text()
    assert not re.search(r"so (the|a) score does not depend on the caption|whatever (the|its) caption says", text)
