"""A loaded model with the metric and settings of a run: the only place where adapters are built."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Final

# Must be set before torch starts CUDA: without it cuBLAS picks kernels that differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from jaxtyping import Int
from torch import Tensor

from invmm_gate.core.captions import with_its_encoders
from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import (
    CopyMetric,
    DiffusionModel,
    LabelEncoder,
    NoiseSampler,
    PromptEncoder,
    Sampler,
    text_side,
)
from invmm_gate.core.records import MetricRecord, Probe
from invmm_gate.core.run_records import RunContext, RunInputs, RunRecord, Samplers
from invmm_gate.core.settings import InversionSettings, copy_metric
from invmm_gate.diffusion.samplers import GridSampler, prompts_of, sampler_of, words_of
from invmm_gate.measure.conditioning import check_prompt_setting
from invmm_gate.measure.looking import from_pixels
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.policy.schema import MetricChoice
from invmm_gate.policy.usable import rule_faults
from invmm_gate.probes.images import load_pixels
from invmm_gate.runs.identity import fingerprint, installed_environment
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.either import Either
from invmm_gate.similarity.encoders import encoder_metric
from invmm_gate.similarity.pixel import NeighbourNormalisedL2, PixelRmse
from invmm_gate.stages.captions import check_captions, require_confirmation
from invmm_gate.stages.labels import ProbeLabels, labels_for
from invmm_gate.stages.preflight import Inputs, refuse
from invmm_gate.stages.soft_choices import soft_choices

RUN_SCHEMA_VERSION: Final = 1
_DEFAULT_ROWS: Final = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """Everything that `measure` and `confirm` work with."""

    inputs: Inputs
    model: DiffusionModel
    metric: CopyMetric
    settings: InversionSettings
    record: RunRecord
    slots: int
    """Tasks in the batch at once."""
    labels: ProbeLabels | None = None
    """The labels of the probes; None for a model without classes."""
    choices: Int[Tensor, " choice"] | None = None
    """Token ids that a soft prompt may mix; None = all, or no prompts."""

    @property
    def prompts(self) -> PromptEncoder:
        """The text side. Raises ConfigError for a model without one."""
        return prompts_of(self.model)

    @property
    def words(self) -> PromptEncoder | LabelEncoder:
        """What a user gives the model. Raises ConfigError for an unconditional model."""
        return words_of(self.model)

    @property
    def released(self) -> Sampler:
        """Draws as a user of the checkpoint does."""
        return _released(self.model)

    @property
    def grid(self) -> Sampler:
        """Draws on the measure's own grid."""
        return GridSampler(self.model)

    @property
    def sampler(self) -> NoiseSampler:
        """Draws as the sensitivity tests do."""
        return sampler_of(self.model, self.settings.sampler)

    def probe(self, identifier: str) -> Probe:
        """The probe of this id."""
        return next(probe for probe in self.inputs.probe_set.probes if probe.id == identifier)

    def caption(self, probe: str) -> str:
        """What the model is told of the probe: its caption, empty if it has none, or its label in digits."""
        found = self.probe(probe)
        return found.caption if self.labels is None else str(self.labels.of(found))

    def image(self, probe: str) -> Tensor:
        """The probe's image, (3, image_height, image_width) in [-1, 1]. Raises ProbeSetError."""
        return _image(self.inputs, self.probe(probe), self.model)


def open_session(inputs: Inputs) -> Session:
    """Load the model and make ready to measure. Raises GateError."""
    device = _device(inputs.options.device)
    captions = tuple(dict.fromkeys(probe.caption for probe in inputs.probe_set.probes))
    model = load_verified(inputs.model, device=device, texts=captions)
    dimensions = prod(model.latent_shape)
    asked = inputs.policy.resolve_settings(model.family, dimensions=dimensions, pipeline=inputs.model.pipeline)
    settings = with_its_encoders(asked, inputs.model)
    refuse(inputs.policy, rule_faults(inputs.policy, family=model.family, dimensions=dimensions))
    check_prompt_setting(model, settings)
    for scale in settings.guidance_scales:
        sampler_of(model, settings.sampler).forwards(steps=settings.sampler_steps, guidance_scale=scale)
    require_confirmation(inputs.policy, model, _released(model))
    prompts = text_side(model)
    truncated = check_captions(inputs.probe_set, prompts, settings)
    choices = None if prompts is None else soft_choices(prompts, settings)
    for probe in inputs.probe_set.probes:
        _image(inputs, probe, model)  # an image that does not fit is found now, not hours later
    metric, metric_record = _metric(inputs, model, device)
    slots = _slots(inputs.options.rows or _DEFAULT_ROWS[model.device.type], settings)
    decisive = _decisive(inputs, model, settings, metric_record, rows=slots * settings.batch_size)
    identity = fingerprint(decisive)
    record = RunRecord(
        schema_version=RUN_SCHEMA_VERSION,
        run_id=identity[:12],
        fingerprint=identity,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=inputs.model,
        probe_set=inputs.probe_set,
        metric=metric_record,
        inputs=decisive,
        context=RunContext(
            command=inputs.options.command,
            policy=inputs.options.policy,
            device=device,
            seed_given=inputs.options.seed is not None,
            guidance_distilled=model.guidance_distilled,
            truncated_captions=truncated,
        ),
    )
    return Session(
        inputs=inputs,
        model=model,
        metric=metric,
        settings=settings,
        record=record,
        slots=slots,
        labels=labels_for(model, seed=inputs.seed, load_image=lambda probe: _image(inputs, probe, model)),
        choices=choices,
    )


def _image(inputs: Inputs, probe: Probe, model: DiffusionModel) -> Tensor:
    height, width = model.image_size
    return from_pixels(load_pixels(inputs.probe_set, probe, height=height, width=width))


def _device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name!r}", expected="auto, cpu, cuda or cuda:N")
    if name != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    return name


def _slots(rows: int, settings: InversionSettings) -> int:
    if rows < settings.batch_size:
        raise ConfigError(
            f"--rows {rows} is below the batch of one probe",
            expected=f"at least {settings.batch_size}",
            do="give more rows, or a smaller measure.settings.batch_size in the policy",
        )
    return rows // settings.batch_size


def _metric(inputs: Inputs, model: DiffusionModel, device: str) -> tuple[CopyMetric, MetricRecord]:
    choice = inputs.policy.metric_for(*model.image_size)
    metric, digest = _METRICS[copy_metric(choice.name)](inputs, model, choice, device)
    if choice.also is not None:
        other = MetricChoice(**choice.also.model_dump())
        second, also = _METRICS[copy_metric(other.name)](inputs, model, other, device)
        metric, digest = Either(metric, second, size=model.image_size), " ".join(filter(None, (digest, also)))
    record = MetricRecord(
        name=metric.name,
        threshold=metric.threshold,
        higher_is_copy=metric.higher_is_copy,
        digest=digest,
        unfit=metric.unfit_for(*model.image_size) or "",
    )
    return metric, record


def _pixel_rmse(_: Inputs, __: DiffusionModel, choice: MetricChoice, ___: str) -> tuple[CopyMetric, str]:
    return PixelRmse(choice.threshold), ""


def _pixel_aligned(_: Inputs, __: DiffusionModel, choice: MetricChoice, ___: str) -> tuple[CopyMetric, str]:
    return PixelAligned(choice.threshold), ""


def _neighbours(inputs: Inputs, model: DiffusionModel, choice: MetricChoice, _: str) -> tuple[CopyMetric, str]:
    controls = [_image(inputs, probe, model) for probe in inputs.probe_set.probes if probe.group == "control"]
    if not controls:
        raise ConfigError(
            "metric pixel_l2_neighbours compares with the controls, and there are none",
            expected="probes of group control",
            do="add some with `invmm-gate probes add DIR IMAGE... --group control`",
        )
    return NeighbourNormalisedL2(torch.stack(controls).to(model.device), threshold=choice.threshold), ""


def _encoder(inputs: Inputs, model: DiffusionModel, choice: MetricChoice, device: str) -> tuple[CopyMetric, str]:
    return encoder_metric(
        name=choice.name,
        threshold=choice.threshold,
        image_size=model.image_size,
        path=inputs.options.sscd,
        expected_sha256=choice.sha256 or "",
        device=device,
    )


_Builder = Callable[[Inputs, DiffusionModel, MetricChoice, str], tuple[CopyMetric, str]]
_METRICS: Final[dict[str, _Builder]] = {
    "pixel_rmse": _pixel_rmse,
    "pixel_aligned": _pixel_aligned,
    "pixel_l2_neighbours": _neighbours,
    "sscd": _encoder,
    "onnx": _encoder,
}


def _decisive(
    inputs: Inputs, model: DiffusionModel, settings: InversionSettings, metric: MetricRecord, *, rows: int
) -> RunInputs:
    """The inputs that decide a score or a verdict, and so the run's identity."""
    cuda, installed = model.device.type == "cuda", installed_environment()
    return RunInputs(
        model=inputs.model.digest,
        pipeline=inputs.model.pipeline,
        weights=inputs.model.weights,
        pickles=inputs.model.pickles,
        family=model.family,
        probe_set=inputs.probe_set.digest,
        policy=inputs.policy.digest,
        profile=inputs.policy.measure.profile,
        settings=settings,
        confirm=inputs.policy.confirm.plan(),
        metric=metric,
        samplers=Samplers(released=_released(model).name, grid=GridSampler(model).name),
        seed=inputs.seed,
        image_size=model.image_size,
        latent_shape=model.latent_shape,
        rows=rows,
        device=torch.cuda.get_device_name(model.device) if cuda else "cpu",
        threads=0 if cuda else torch.get_num_threads(),
        code=installed.code,
        environment=installed.digest,
        versions=installed.versions,
    )


def _released(model: DiffusionModel) -> Sampler:
    if model.released is None:
        raise ModelError("the model has no pipeline to draw with", expected="a checkpoint that `load_model` read")
    return model.released
