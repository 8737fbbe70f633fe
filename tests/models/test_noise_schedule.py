"""alpha_bar number for number as diffusers has it, and configurations with diffusers' own defaults."""

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import ModelError
from invmm_gate.diffusion.schedule import FlowMatching
from invmm_gate.models.load.load import alpha_bar_of, flow_of, solved_flow_of
from invmm_gate.models.read import scheduler_config
from invmm_gate.models.read.autoencoder_configs import (
    DCConfig,
    Flux2AutoencoderConfig,
    KLConfig,
    QwenImageAutoencoderConfig,
    VQConfig,
)
from invmm_gate.models.read.network_configs import DIFFUSERS, UNetConditionConfig, UNetConfig, network_config
from invmm_gate.models.read.scheduler_config import (
    FLOW_SCHEDULERS,
    FLOW_SOLVERS,
    SCHEDULERS,
    WITHOUT_SAMPLE,
    FlowConfig,
    FlowSolverConfig,
    SchedulerConfig,
    read_scheduler,
)
from invmm_gate.models.read.transformer_configs import (
    AuraFlowConfig,
    ChromaConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    SD3Config,
    ZImageConfig,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2

SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_train_timesteps": 50, "beta_end": 0.2},
    {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"rescale_betas_zero_snr": True, "prediction_type": "sample", "beta_schedule": "scaled_linear"},
]


def test_the_number_of_timesteps_that_the_first_versions_of_diffusers_wrote_too_is_accepted() -> None:
    content = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
    assert read_scheduler({**content, "timesteps": 1000}, "x") == read_scheduler(
        {**content, "timesteps": 1000, "timestep_values": None}, "x"
    )
    with pytest.raises(ModelError, match="50 timesteps beside 1000"):
        read_scheduler({**content, "timesteps": 50}, "x")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_alpha_bar_is_that_of_the_scheduler_of_diffusers(name: str) -> None:
    tried = 0
    for changes in SETTINGS:
        try:
            scheduler = getattr(diffusers, name)(**changes)
        except (NotImplementedError, TypeError):
            continue
        content = json.loads(scheduler.to_json_string())
        if changes.keys() - content.keys():
            continue  # a setting that this scheduler does not have
        if name in WITHOUT_SAMPLE and changes.get("prediction_type") == "sample":
            continue
        config = read_scheduler(content, "scheduler_config.json")
        assert isinstance(config, SchedulerConfig)
        theirs = scheduler.alphas_cumprod.clone()
        if theirs[-1] == 2**-24:  # these samplers' stand-in for the 0 of training
            theirs[-1] = 0
        assert torch.equal(alpha_bar_of(config), theirs), changes
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize(
    ("config", "network", "own"),
    [
        (UNetConfig, "UNet2DModel", set()),
        (VQConfig, "VQModel", set()),
        (KLConfig, "AutoencoderKL", set()),
        (UNetConditionConfig, "UNet2DConditionModel", set()),
        (SD3Config, "SD3Transformer2DModel", set()),
        (FluxConfig, "FluxTransformer2DModel", set()),
        (ChromaConfig, "ChromaTransformer2DModel", set()),
        (AuraFlowConfig, "AuraFlowTransformer2DModel", set()),
        (PixArtConfig, "PixArtTransformer2DModel", set()),
        (Flux2Config, "Flux2Transformer2DModel", set()),
        (Flux2AutoencoderConfig, "AutoencoderKLFlux2", {"force_upcast"}),
        (ZImageConfig, "ZImageTransformer2DModel", set()),
        (Lumina2Config, "Lumina2Transformer2DModel", set()),
        (SanaConfig, "SanaTransformer2DModel", set()),
        (DCConfig, "AutoencoderDC", set()),
        (QwenImageConfig, "QwenImageTransformer2DModel", {"pooled_projection_dim"}),
        (QwenImageAutoencoderConfig, "AutoencoderKLQwenImage", set()),
    ],
)
def test_keys_and_defaults_are_those_of_diffusers(config: Any, network: str, own: set[str]) -> None:
    parameters = inspect.signature(getattr(diffusers, network).__init__).parameters
    theirs = {key: value.default for key, value in parameters.items() if key != "self"}
    theirs = {key: tuple(value) if isinstance(value, list) else value for key, value in theirs.items()}
    ours = {key: field.default for key, field in config.model_fields.items()}
    assert {key: ours[key] for key in ours.keys() - own} == {key: theirs[key] for key in theirs.keys() - own}
    assert ours.keys() - own == theirs.keys()


def test_a_flow_schedule_of_another_kind_is_refused() -> None:
    content = json.loads(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).to_json_string())
    config = read_scheduler(content, "scheduler_config.json", allowed=FLOW_SCHEDULERS)
    assert isinstance(config, FlowConfig)
    assert (config.shift, config.num_train_timesteps, config.prediction_type) == (3.0, 1000, "velocity")
    for change in (
        {"use_dynamic_shifting": True, "base_shift": None}, {"use_karras_sigmas": True}, {"shift": 0},
        {"use_beta_sigmas": True},
        {"use_exponential_sigmas": True}, {"invert_sigmas": True}, {"stochastic_sampling": True}, {"shift": "3"},
        {"shift_terminal": 1.0}, {"num_train_timesteps": 2_000_000_000}, {"surprise": 1},
    ):  # fmt: skip
        with pytest.raises(ModelError, match=next(iter(change))):
            read_scheduler({**content, **change}, "scheduler_config.json", allowed=FLOW_SCHEDULERS)


SOLVED = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("steps", [1, 3, 4, 20, 50, 250])
def test_the_levels_of_a_solver_are_those_of_its_scheduler(steps: int, shift: float) -> None:
    """The network is told whole timesteps. Training levels begin at pure noise, and their time has fractions."""
    scheduler = diffusers.DPMSolverMultistepScheduler(flow_shift=shift, **SOLVED)
    config = read_scheduler(json.loads(scheduler.to_json_string()), "scheduler.json", allowed=FLOW_SOLVERS)
    assert isinstance(config, FlowSolverConfig)
    assert (config.flow_shift, config.num_train_timesteps, config.prediction_type) == (shift, 1000, "velocity")
    scheduler.set_timesteps(steps)
    schedule = solved_flow_of(config, torch.device("cpu"))
    levels = schedule.grid(steps)
    torch.testing.assert_close(torch.cat([level.sigma for level in levels]), scheduler.sigmas[:-1], rtol=0, atol=1e-7)
    assert torch.equal(torch.cat([level.time for level in levels]), scheduler.timesteps.float())
    assert (schedule.at(torch.tensor([999])).sigma, schedule.at(torch.tensor([999])).time) == (1.0, 1000.0)


@pytest.mark.parametrize(
    "change",
    [
        {"prediction_type": "epsilon"}, {"use_flow_sigmas": False}, {"use_karras_sigmas": True}, {"flow_shift": 0},
        {"use_beta_sigmas": True}, {"use_exponential_sigmas": True}, {"use_lu_lambdas": True},
        {"use_dynamic_shifting": True}, {"flow_shift": "3"}, {"variance_type": "learned"}, {"trained_betas": [0.1]},
        {"rescale_betas_zero_snr": True}, {"num_train_timesteps": 1}, {"surprise": 1}, {"sample_max_value": 0.5},
        {"timestep_spacing": {}},
    ],
)  # fmt: skip
def test_a_solver_of_another_process_is_refused(change: dict[str, object]) -> None:
    content = json.loads(diffusers.DPMSolverMultistepScheduler(flow_shift=3.0, **SOLVED).to_json_string())
    with pytest.raises(ModelError, match=next(iter(change))):
        read_scheduler({**content, **change}, "scheduler_config.json", allowed=FLOW_SOLVERS)


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("tokens", [16, 4096, 5000])
def test_a_shift_that_grows_with_the_steps_is_that_of_the_klein_pipeline(steps: int, tokens: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    config = read_scheduler(json.loads(scheduler.to_json_string()), "scheduler.json", allowed=FLOW_SCHEDULERS)
    assert isinstance(config, FlowConfig)
    scheduler.set_timesteps(
        sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=compute_empirical_mu(tokens, num_steps=steps)
    )
    levels = flow_of(config, "Flux2KleinPipeline", tokens, torch.device("cpu")).grid(steps)
    torch.testing.assert_close(torch.cat([level.sigma for level in levels]), scheduler.sigmas[:steps])


@pytest.mark.parametrize("steps", [2, 4, 50])
@pytest.mark.parametrize("pipeline", ["QwenImagePipeline", "StableDiffusion3Pipeline"])
def test_the_samplers_last_level_is_the_terminal_one_of_the_scheduler(pipeline: str, steps: int) -> None:
    """Training levels reach every sigma all the same."""
    qwen = pipeline == "QwenImagePipeline"
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=qwen, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02
    )
    config = read_scheduler(json.loads(scheduler.to_json_string()), "scheduler.json", allowed=FLOW_SCHEDULERS)
    assert isinstance(config, FlowConfig)
    if qwen:
        mu = calculate_shift(4096, max_seq_len=8192, max_shift=0.9)
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    else:
        scheduler.set_timesteps(steps)
    schedule = flow_of(config, pipeline, 4096, torch.device("cpu"))
    levels = schedule.grid(steps)
    torch.testing.assert_close(torch.cat([level.sigma for level in levels]), scheduler.sigmas[:steps])
    torch.testing.assert_close(torch.cat([level.time for level in levels]), scheduler.timesteps)
    assert levels[-1].sigma.item() == pytest.approx(0.02)
    assert schedule.grid(1)[0].sigma.item() == 1.0
    assert schedule.at(torch.tensor([0])).sigma.item() < 0.004


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [16, 1024, 4096])
def test_a_shift_that_grows_with_the_image_is_that_of_the_flux_pipeline(kind: str, tokens: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    content = json.loads(scheduler.to_json_string())
    config = read_scheduler(content, "scheduler_config.json", allowed=FLOW_SCHEDULERS)
    assert isinstance(config, FlowConfig)
    schedule = FlowMatching(shift=config.shift_at(tokens), spacing="pipeline")
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift(tokens))
    levels = schedule.grid(4)
    torch.testing.assert_close(torch.cat([level.sigma for level in levels]), scheduler.sigmas[:4])
    torch.testing.assert_close(torch.cat([level.time for level in levels]), scheduler.timesteps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_where_a_scheduler_has_defaults_of_its_own_they_count(name: str) -> None:
    config = read_scheduler({"_class_name": name}, "scheduler_config.json")
    assert isinstance(config, SchedulerConfig)
    assert torch.equal(alpha_bar_of(config), getattr(diffusers, name)().alphas_cumprod)


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")  # torchsde's own, for rounded times
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_is_accepted_is_what_diffusers_can_draw_with(name: str, prediction_type: str) -> None:
    content = {"_class_name": name, "prediction_type": prediction_type}
    scheduler = getattr(diffusers, name)(prediction_type=prediction_type)
    if prediction_type == "sample" and name in WITHOUT_SAMPLE:
        with pytest.raises((NotImplementedError, ValueError), match="prediction_type"):
            drawn_once(scheduler)
        with pytest.raises(ModelError, match="cannot draw with a network that predicts the sample"):
            read_scheduler(content, "x")
    else:
        read_scheduler(content, "x")
        assert bool(drawn_once(scheduler).isfinite().all())


def drawn_once(scheduler: Any) -> torch.Tensor:
    scheduler.set_timesteps(4)
    x_t = torch.ones(1, 3, 4, 4) * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        x_t = scheduler.step(scheduler.scale_model_input(x_t, time) / 2, time, x_t, return_dict=False)[0]
    return x_t


def test_a_scheduler_whose_package_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_config, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"through torchsde, which is not installed.*'invmm-gate\[sde\]'"):
        read_scheduler({"_class_name": "DPMSolverSDEScheduler"}, "x")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*DIFFUSERS, *SCHEDULERS, *FLOW_SCHEDULERS]), st.data())
def test_any_value_under_any_key_is_a_configuration_or_a_clear_error(kind: str, data: st.DataObject) -> None:
    fields = (
        UNetConfig.model_fields | VQConfig.model_fields | UNetConditionConfig.model_fields | FlowConfig.model_fields
    )
    keys = sorted({*fields, "beta_end", "trained_betas", "x"})
    content = {"_class_name": kind, **data.draw(st.dictionaries(st.sampled_from(keys), values, max_size=3))}
    message = ""
    try:
        if kind in DIFFUSERS:
            network_config(content, name="config.json", allowed=(kind,))
        else:
            read_scheduler(content, "config.json", allowed=(kind,))
    except ModelError as error:
        message = str(error)
    assert message == "" or "config.json" in message
    assert message.isprintable()
