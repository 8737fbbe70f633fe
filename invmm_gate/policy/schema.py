"""Policy files -> frozen Policy. Unknown keys, wrong types and rules that could never be decided are refused."""

import hashlib
import importlib.resources
import json
import os
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    field_validator,
    model_serializer,
    model_validator,
)

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.marks import LOWER, NAME, OTHER, PART, apart, ranked
from invmm_gate.core.records import MetricRecord
from invmm_gate.core.settings import EITHER_AT, PROFILES, Family, InversionSettings, copy_metric, either_name
from invmm_gate.core.usual_draws import drawn_as_usual
from invmm_gate.files.strict_model import StrictModel, nearest, parse
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.policy.confirm_schema import ConfirmChoice
from invmm_gate.policy.field_types import (
    Digest,
    Name,
    Number,
    Samples,
    SettingsOverrides,
    Whole,
    check,
    guarded,
    seeks_nearer,
)
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihoodConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.rules.known import RuleConfig

_SUFFIX: Final = ".yaml"


def policies_folder() -> Path:
    """`_data/policies` in an installed wheel, the repository's `policies` in a source checkout."""
    package = Path(str(importlib.resources.files("invmm_gate")))
    installed = package / "_data" / "policies"
    folder = installed if installed.is_dir() else package.parent / "policies"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: the shipped policies are missing", do="install invmm-gate again")
    return folder


def shipped_policies() -> dict[str, Path]:
    """Name and file of each shipped policy, sorted by name."""
    return {path.stem: path for path in sorted(policies_folder().glob(f"*{_SUFFIX}"))}


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of verdict.json."""
    text = importlib.resources.files("invmm_gate.policy").joinpath("verdict.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


class MeasureChoice(StrictModel):
    """The profile of the measure and what the policy changes in it."""

    profile: Annotated[str, Field(strict=True), OTHER] = "gate"
    """`gate`, `reference` or `paper`: where the settings come from."""
    settings: Annotated[SettingsOverrides, apart("compared as resolved for each model family")] = SettingsOverrides()
    """What the policy changes in the profile, key by key."""

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, profile: str) -> str:
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}; {nearest(profile, PROFILES)}")
        return profile


class OtherMetric(StrictModel):
    """A second copy metric: a sample is a copy if either calls it one, each by its own threshold."""

    name: Annotated[Name, OTHER]
    """As `metric[].name`."""
    threshold: Annotated[Number, Field(gt=0), apart("the direction is the metric's")]
    """As `metric[].threshold`."""
    sha256: Annotated[Digest | None, apart("pins the metric's weights; strict pins none")] = None
    """As `metric[].sha256`."""

    @field_validator("name")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        copy_metric(name)
        return name


class MetricChoice(StrictModel):
    """A copy metric, its threshold, and up to which image size (the larger side, in pixels) it is used."""

    name: Annotated[Name, OTHER]
    """`pixel_rmse`, `pixel_aligned`, `pixel_l2_neighbours`, or a name that begins with `sscd` or `onnx`."""
    threshold: Annotated[Number, Field(gt=0), apart("the direction is the metric's")]
    """The distance (pixels) up to which, or the similarity (encoders) from which, a sample is a copy."""
    up_to: Annotated[Annotated[Whole, Field(ge=1)] | None, apart("compared for every image size")] = None
    """The larger side, in pixels, up to which the entry is used; None = any size. The first entry that fits counts."""
    sha256: Annotated[Digest | None, apart("pins the metric's weights; strict pins none")] = None
    """sha256 of the file with the metric's weights, of an ONNX encoder that of its declaration; None = any file."""
    also: Annotated[OtherMetric | None, apart("only adds copies")] = None
    """A second metric beside this one: a sample is a copy if either calls it one."""

    @field_validator("name")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        copy_metric(name)
        return name

    @model_serializer(mode="wrap")
    def _without_absent(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A policy without a second metric keeps the digest, and so the seeds, that it had before this key."""
        plain: dict[str, Any] = serialized(self)
        return plain if self.also is not None else {key: value for key, value in plain.items() if key != "also"}

    def is_of(self, metric: MetricRecord) -> bool:
        """Whether a run's metric is this one."""
        name, threshold, pinned = self.name, self.threshold, {self.sha256}
        if self.also is not None:
            name = either_name((name, threshold), (self.also.name, self.also.threshold))
            threshold, pinned = EITHER_AT, {self.sha256, self.also.sha256}
        own = re.sub(r"@\d+", "", metric.name)
        return (own, metric.threshold) == (name, threshold) and pinned <= {None, *metric.digest.split()}


class Coverage(StrictModel):
    """How much must have been measured for a verdict to stand."""

    min_probes: Annotated[Samples, LOWER] = 1
    """Fewest probes, controls and canaries of a known multiplicity not counted, that must have been measured."""
    min_controls: Annotated[Whole, Field(ge=0, le=10_000), LOWER] = 16
    """Fewest controls that must have been measured."""
    max_errors: Annotated[Whole, Field(ge=0), apart("only 0 is valid")] = 0
    """Only 0 is valid: whoever breaks, control or other probe, leaves the run inconclusive."""
    probe_set: Annotated[Digest | None, apart("pins the probe set; strict pins none")] = None
    """Digest of the only probe set that counts, as `probes validate` prints it; None = any of that size."""

    @field_validator("max_errors")
    @classmethod
    def _no_error_is_tolerated(cls, errors: int) -> int:
        if errors:
            raise ValueError("a control that broke may have been trained on, so that none may break; leave the key out")
        return errors


class Policy(StrictModel):
    """A policy: what is allowed. `load_policy` makes it."""

    name: Annotated[Name, NAME]
    """Names the policy in reports. A name of a shipped policy is for that policy alone."""
    version: Annotated[Whole, Field(ge=1), NAME]
    """Counts the changes of the policy; the digest is what binds."""
    measure: Annotated[MeasureChoice, PART] = MeasureChoice()
    """How probes are measured."""
    metric: Annotated[tuple[MetricChoice, ...], Field(min_length=1), apart("compared for every image size")]
    """What a copy is: copy metrics with their thresholds, by image size."""
    confirm: Annotated[ConfirmChoice, PART] = ConfirmChoice()
    """How probes are confirmed by inputs that a user could give."""
    rules: Annotated[
        tuple[RuleConfig, ...],
        Field(min_length=1),
        apart("compared rule by rule; a rule that strict has not only adds findings"),
    ]
    """What blocks a release."""
    coverage: Annotated[Coverage, PART] = Coverage()
    """How much must have been measured."""
    waivers: Annotated[Literal["approved", "owned"], ranked("approved", "owned")] = "approved"
    """Which waivers count: those that a reviewer signed (`invmm-gate waivers approve`), or any that has an owner."""

    @model_validator(mode="after")
    def _decidable(self) -> "Policy":
        confirms = self.confirm.plain_sampling or self.confirm.prompts
        if any(isinstance(rule, ConfirmedConfig) for rule in self.rules) and confirms is None:
            raise ValueError(
                "the rule 'confirmed' needs confirm.plain_sampling or confirm.prompts, and neither is given"
            )
        estimates = any(isinstance(rule, ExtractionLikelihoodConfig) for rule in self.rules)
        if estimates and self.confirm.likelihood is None:
            raise ValueError("the rule 'extraction_likelihood' needs confirm.likelihood, and it is not given")
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 of the parsed policy as canonical JSON: spelling, comments and key order do not matter."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()

    def score_threshold(self, dimensions: int | None) -> float | None:
        """The largest threshold of the rules `invmm_below`, in nats per dimension of a latent of so many.

        None without such a rule, and where a threshold takes a number of dimensions that is unknown.
        """
        limits = [rule.limit(dimensions) for rule in self.rules if isinstance(rule, InvmmBelowConfig)]
        return None if None in limits else max((limit for limit in limits if limit is not None), default=None)

    def resolve_settings(self, family: str, *, dimensions: int | None = None, pipeline: str = "") -> InversionSettings:
        """The profile's settings for a model family, with this policy's overrides. Raises ConfigError.

        Under profile `gate` with a single attempt at success, a probe is stopped above the largest threshold of
        `invmm_below` and its guard band unless the policy sets `stop_above` itself. `dimensions` of the latent and
        diffusers' `pipeline`: where a model is at hand.
        """
        profile: dict[Family, InversionSettings] = PROFILES[self.measure.profile]
        defaults = next((settings for key, settings in profile.items() if key == family), None)
        if defaults is None:
            raise ConfigError(
                f"profile {self.measure.profile!r} has no model family {family!r}", do=nearest(family, profile)
            )
        changes: dict[str, Any] = self.measure.settings.given()
        threshold = self.score_threshold(dimensions)
        lowest_stop = None if threshold is None else guarded(threshold)
        settings = drawn_as_usual(replace(defaults, **changes), pipeline, changes)
        if self.measure.profile == "gate" and lowest_stop is not None and not seeks_nearer(settings):
            settings = replace(settings, **{"stop_above": lowest_stop} | changes)
        check(settings, lowest_stop=lowest_stop)
        return settings

    def metric_for(self, height: int, width: int) -> MetricChoice:
        """The first metric whose `up_to` reaches the larger side of the image. Raises ConfigError if none does."""
        side = max(height, width)
        for choice in self.metric:
            if choice.up_to is None or side <= choice.up_to:
                return choice
        raise ConfigError(
            f"policy {self.name}: no metric for images of {height} x {width} pixels",
            do="add a metric entry without up_to",
        )


_POLICY: Final = TypeAdapter(Policy)


def canonical(policy: Policy) -> str:
    """The parsed policy as JSON with sorted keys; overrides that are not given are left out."""
    data = policy.model_dump(mode="json") | {
        "measure": {"profile": policy.measure.profile, "settings": policy.measure.settings.given()}
    }
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by name, or a policy file by path. Raises ConfigError with FILE:LINE and the key.

    A file that has a shipped policy's name must be that policy: the name is all that most readers of a report look at.
    """
    shipped = shipped_policies()
    path = shipped.get(name_or_path)
    if path is None:
        path = Path(name_or_path)
        plain = path.suffix not in (".yaml", ".yml") and path.name == name_or_path
        if plain and not os.path.isfile(path):  # false also for a name that no file can have
            raise ConfigError(
                f"no policy named {name_or_path[:200]!r}; {nearest(name_or_path, shipped)}",
                do="give the name of a shipped policy, or the path of a policy file",
            )
    document = load_document(path)
    policy = parse(_POLICY, document)
    namesake = shipped.get(policy.name)
    if namesake and namesake != path and parse(_POLICY, load_document(namesake)).digest != policy.digest:
        where = f"{document.file}:{document.line(('name',))}: name"
        raise ConfigError(
            f"{where}: {policy.name} is the name of a shipped policy, and this is another one",
            do="give the policy a name of its own",
        )
    return policy
