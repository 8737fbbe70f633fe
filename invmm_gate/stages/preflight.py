"""The inputs of a run, read and checked before torch is imported."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import Options
from invmm_gate.core.records import ModelManifest, Probe, ProbeSet
from invmm_gate.models.read.checkpoint_layout import Layout, denoiser_of
from invmm_gate.models.read.image_sizes import check_asked_size, image_size, is_of_any_size
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from invmm_gate.models.read.network_configs import classes_of
from invmm_gate.models.read.parts_fit import family_of
from invmm_gate.policy.evidence import content_seed
from invmm_gate.policy.rules.below_controls import AgainstControls
from invmm_gate.policy.schema import Policy, load_policy
from invmm_gate.policy.usable import baseline_faults, model_faults, probe_faults, prompt_faults, rule_faults
from invmm_gate.probes.fitting import THE_SIZE
from invmm_gate.probes.manifest import manifest_name, probe_set_digest, read_manifest
from invmm_gate.probes.validate import validate_probe_set
from invmm_gate.runs.identity import require_environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Validated inputs of a run."""

    options: Options
    policy: Policy
    probe_set: ProbeSet
    model: ModelManifest
    classes: int = 0
    """How many classes the model is told; 0 for a model without classes."""

    @property
    def unused_labels(self) -> int:
        """Labels of the manifest that a model without classes is not told."""
        return 0 if self.classes else sum(probe.label is not None for probe in self.probe_set.probes)

    @property
    def seed(self) -> int:
        """The seed of all random streams. Run folder, device and row count have no part in it."""
        if self.options.seed is not None:
            return self.options.seed
        return content_seed(model=self.model.digest, probe_set=self.probe_set.digest, policy=self.policy.digest)


def prepare(options: Options, *, baseline: bool | None = None) -> Inputs:
    """Read the policy, inspect the checkpoint and validate the probe set, cheapest first. Raises GateError.

    `baseline` says whether one was named; None where that is asked later. A policy whose rules cannot be decided on
    this probe set and model is refused before an image is opened.
    """
    require_environment(options.environment)
    policy = load_policy(options.policy)
    probes = read_manifest(options.probes)
    _refuse_other_set(options.probes, probe_set_digest(probes), policy)
    refuse(policy, (*rule_faults(policy), *probe_faults(policy, probes)))
    refuse(policy, baseline_faults(policy) if baseline is False else ())
    model = inspect_checkpoint(
        options.model, allow_pickle=options.allow_pickle, weights=options.weights, loras=options.loras
    )
    model, layout = _at_asked_size(model, policy)
    family, size = family_of(layout), image_size(layout)
    refuse(policy, (*rule_faults(policy, family=family), *prompt_faults(policy, probes, family=family)))
    refuse(policy, model_faults(policy, family=family, image_size=size))
    classes = classes_of(denoiser_of(layout))
    _refuse_other_labels(options.probes, probes, classes)
    probe_set = _probe_set(options.probes, policy, layout)
    return Inputs(options=options, policy=policy, probe_set=probe_set, model=model, classes=classes)


def _probe_set(folder: Path, policy: Policy, layout: Layout) -> ProbeSet:
    """The probe set, valid for the model's size. Raises ProbeSetError, which says where a policy may name the size."""
    size = image_size(layout)
    try:
        return validate_probe_set(folder, min_controls=controls_needed(policy), image_size=size)
    except ProbeSetError as error:
        if layout.asked_size is not None or not is_of_any_size(layout) or THE_SIZE not in str(error):
            raise
        raise ProbeSetError(
            str(error),
            do=f"or, as this checkpoint does not say its size, and training may have used another than {size[1]} x "
            f"{size[0]}: name it in the policy, measure.settings.image_size",
        ) from error


def _at_asked_size(model: ModelManifest, policy: Policy) -> tuple[ModelManifest, Layout]:
    """The checkpoint as the policy asks for its images. Raises ConfigError for a size that it cannot have."""
    side: int | None = getattr(policy.measure.settings, "image_size", None)
    asked = replace(model, asked_size=side)
    _, layout = layout_of(asked)
    if asked.asked_size is not None:
        check_asked_size(replace(layout, asked_size=None), asked.asked_size)
    return asked, layout


def controls_needed(policy: Policy) -> int:
    """How many controls a probe set must have for this policy."""
    compares = any(isinstance(rule, AgainstControls) for rule in policy.rules)
    return max(policy.coverage.min_controls, 1 if compares else 0)


def refuse(policy: Policy, faults: Iterable[str]) -> None:
    """Raise ConfigError with all faults of a policy, if there are any."""
    found = "; ".join(faults)
    if found:
        raise ConfigError(
            f"policy {policy.name}: {found}",
            expected="a policy whose every rule can be decided on this probe set and model",
            do="change the policy, or give what it asks for",
        )


def _refuse_other_labels(folder: Path, probes: Sequence[Probe], classes: int) -> None:
    """Raises ProbeSetError for the first label that a class-conditional model does not have."""
    for probe in probes if classes else ():
        if probe.label is not None and probe.label >= classes:
            raise ProbeSetError(
                f"{folder / manifest_name(folder)}:{probe.line}: probe {probe.id} has the label {probe.label}",
                expected=f"a class of the model, 0 to {classes - 1}",
                do="correct it, or leave it empty where nobody knows the class: the model's labels are then tried",
            )


def _refuse_other_set(folder: Path, digest: str, policy: Policy) -> None:
    if policy.coverage.probe_set not in (None, digest):
        raise ProbeSetError(
            f"{folder} has the digest {digest}",
            expected=f"{policy.coverage.probe_set}, the probe set that policy {policy.name} names",
            do="give that set, or let the policy's owner change coverage.probe_set",
        )
