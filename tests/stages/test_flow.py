"""The flow example's trained models through the whole gate: the memorizing one is blocked, its clean twin passes."""

import json

import pytest
import torch

from tests.stages.example_modules import load
from tests.stages.world import ROOT, World, policy_with

EXAMPLE = ROOT / "examples" / "flow"
MODELS = EXAMPLE / "models"
POLICY = policy_with(
    name="small-flow",
    settings={
        "prompt": "caption",
        "steps": 20,
        "test_every": 10,
        "batch_size": 2,
        "sampler_steps": 10,
        "guidance_scales": [1.0],
    },
    confirm={"prompts": {"trials": 8, "sampler_steps": 10}},
)


@pytest.mark.parametrize(("kind", "code", "decision"), [("memorizing", 10, "block"), ("clean", 0, "pass")])
def test_the_memorizing_model_is_blocked_and_its_twin_passes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, code: int, decision: str
) -> None:
    example = load(EXAMPLE, "probe_set")
    world = World(tmp_path_factory.mktemp("flow"), MODELS / kind)
    members = {name: (group, numbers[:2]) for name, (group, numbers) in example.MEMBERS.items()}
    example.write_probe_set(world.probes, members)
    called = world.check(policy=world.policy(POLICY, "flow"))
    assert (called.code, world.verdict()["decision"]) == (code, decision), called.err
    confirmed = {line["probe"] for line in world.lines("confirmations.jsonl") if line["status"] == "confirmed"}
    inverted = {line["probe"] for line in world.lines() if line["outcome"] == "inverted"}
    planted = {"planted-0", "planted-1"} if kind == "memorizing" else set()
    assert (confirmed, inverted) == (planted, planted)


@pytest.mark.parametrize(("kind", "copies"), [("memorizing", 8), ("clean", 0)])
def test_diffusers_own_pipeline_draws_a_planted_picture_by_its_caption(kind: str, copies: int) -> None:
    truth = load(EXAMPLE, "truth")
    number = truth.PLANTED[0]
    found = truth.closest(truth.pipeline_of(kind), truth.caption(number), (number,), 1.0, 8)
    assert int((found <= 0.1).sum()) == copies


def test_training_predicts_what_the_pipeline_would_with_one_zero_token_in_place_of_256() -> None:
    train, pipeline = load(EXAMPLE, "train"), load(EXAMPLE, "truth").pipeline_of("memorizing")
    captions, generator = ["a letter to my sister", ""], torch.Generator().manual_seed(0)
    x_t, sigma = torch.randn(2, 4, 8, 8, generator=generator), torch.rand(2, generator=generator)
    parts = {name: getattr(pipeline, name) for name in ("text_encoder", "text_encoder_2", "transformer")}
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
        expected = pipeline.transformer(x_t, context, pooled, train.TIMESTEPS * sigma, return_dict=False)[0]
        found = train.velocity(torch.nn.ModuleDict(parts), x_t, sigma, train.token_ids(pipeline.tokenizer, captions))
    assert context.shape[1] == train.MODEL_MAX_LENGTH + train.ZERO_TOKENS
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_twins_differ_in_their_weights_alone_and_are_small() -> None:
    memorizing, clean = (
        {str(path.relative_to(MODELS / kind)): path.read_bytes() for path in (MODELS / kind).rglob("*.*")}
        for kind in ("memorizing", "clean")
    )
    assert sum(map(len, (*memorizing.values(), *clean.values()))) <= 12_000_000
    assert memorizing.keys() == clean.keys()
    assert {name for name in clean if clean[name] != memorizing[name]} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
    }
    assert json.loads(clean["vae/config.json"])["shift_factor"] == 0.0
