"""invmm-gate: a release gate for diffusion models that memorize.

`import invmm_gate` is cheap; the public names below are loaded when they are first used. For a researcher:

    from invmm_gate import PROFILES, Inverter, PixelRmse, Task, inspect_checkpoint, load_model

    model = load_model(inspect_checkpoint(Path("runs/ckpt")))
    inverter = Inverter(model, PixelRmse(), PROFILES["reference"]["pixel"], load_image=load, root_seed=0, slots=4)
    for event in inverter.run([Task(probe="cat", content="cat", seed=0)]):
        ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from invmm_gate.core.version import __version__ as __version__

if TYPE_CHECKING:
    from invmm_gate.confirm.plain_sampling import SamplingPlan, confirm_by_sampling
    from invmm_gate.core.errors import GateError
    from invmm_gate.core.options import Finish, Options
    from invmm_gate.core.protocols import CopyMetric, DiffusionModel, NoiseLevel
    from invmm_gate.core.records import Confirmation, Measurement, Probe, ProbeSet, Trial
    from invmm_gate.core.run_records import RunData
    from invmm_gate.core.settings import PROFILES, InversionSettings
    from invmm_gate.core.verdict_records import Verdict
    from invmm_gate.diffusion.closed_form import MixtureDenoiser
    from invmm_gate.diffusion.sampling import sample
    from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
    from invmm_gate.measure.inversion import Advanced, Inversion, Inverter
    from invmm_gate.measure.slots import Task
    from invmm_gate.models.load.load import load_model
    from invmm_gate.models.read.inspect import inspect_checkpoint
    from invmm_gate.policy.judge import judge
    from invmm_gate.policy.schema import Policy, load_policy
    from invmm_gate.probes.expectations import probe_set_suite, probe_set_table
    from invmm_gate.probes.validate import validate_probe_set
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.similarity.calibrate import calibrate
    from invmm_gate.similarity.pixel import NeighbourNormalisedL2, PixelRmse
    from invmm_gate.similarity.sscd import EncoderCosine, sscd_metric
    from invmm_gate.stages.check import Checked, check


_HOMES: Final[dict[str, str]] = {
    "Advanced": "measure.inversion",
    "Checked": "stages.check",
    "Confirmation": "core.records",
    "CopyMetric": "core.protocols",
    "DiffusionModel": "core.protocols",
    "EncoderCosine": "similarity.sscd",
    "Finish": "core.options",
    "FlowMatching": "diffusion.schedule",
    "GateError": "core.errors",
    "Inversion": "measure.inversion",
    "InversionSettings": "core.settings",
    "Inverter": "measure.inversion",
    "Measurement": "core.records",
    "MixtureDenoiser": "diffusion.closed_form",
    "NeighbourNormalisedL2": "similarity.pixel",
    "NoiseLevel": "core.protocols",
    "Options": "core.options",
    "PROFILES": "core.settings",
    "PixelRmse": "similarity.pixel",
    "Policy": "policy.schema",
    "Probe": "core.records",
    "ProbeSet": "core.records",
    "RunData": "core.run_records",
    "RunFolder": "runs.folder",
    "SamplingPlan": "confirm.plain_sampling",
    "Task": "measure.slots",
    "Trial": "core.records",
    "VariancePreserving": "diffusion.schedule",
    "Verdict": "core.verdict_records",
    "calibrate": "similarity.calibrate",
    "check": "stages.check",
    "confirm_by_sampling": "confirm.plain_sampling",
    "inspect_checkpoint": "models.read.inspect",
    "judge": "policy.judge",
    "load_model": "models.load.load",
    "load_policy": "policy.schema",
    "probe_set_suite": "probes.expectations",
    "probe_set_table": "probes.expectations",
    "sample": "diffusion.sampling",
    "sscd_metric": "similarity.sscd",
    "validate_probe_set": "probes.validate",
}

__all__ = [
    "PROFILES",
    "Advanced",
    "Checked",
    "Confirmation",
    "CopyMetric",
    "DiffusionModel",
    "EncoderCosine",
    "Finish",
    "FlowMatching",
    "GateError",
    "Inversion",
    "InversionSettings",
    "Inverter",
    "Measurement",
    "MixtureDenoiser",
    "NeighbourNormalisedL2",
    "NoiseLevel",
    "Options",
    "PixelRmse",
    "Policy",
    "Probe",
    "ProbeSet",
    "RunData",
    "RunFolder",
    "SamplingPlan",
    "Task",
    "Trial",
    "VariancePreserving",
    "Verdict",
    "calibrate",
    "check",
    "confirm_by_sampling",
    "inspect_checkpoint",
    "judge",
    "load_model",
    "load_policy",
    "probe_set_suite",
    "probe_set_table",
    "sample",
    "sscd_metric",
    "validate_probe_set",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'invmm_gate' has no attribute {name!r}")
    return getattr(import_module(f"invmm_gate.{_HOMES[name]}"), name)
