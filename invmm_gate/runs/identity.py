"""The identity of a run: its inputs, the plan of its confirmations, the installed gate and its packages.

Versions are what the metadata of the packages says. That the files are those of the version is the installer's job:
`pip install --require-hashes`, or an image that is named by its digest (docs/security.md).
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError, RunFolderError
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.run_records import ConfirmPlan, RunInputs, RunRecord, differences, named_difference
from invmm_gate.core.version import __version__
from invmm_gate.files.strict_json import canonical
from invmm_gate.models.read.checkpoint_files import digest_of
from invmm_gate.probes.manifest import probe_set_digest
from invmm_gate.runs.stage_files import CONFIRM, CONFIRMING, MEASURE, RUN

CONFIRM_SCHEMA_VERSION: Final = 1
WITHOUT_SCORES: Final = frozenset({"policy", "confirm"})
"""Inputs that no score depends on: what was measured under one policy may be confirmed and judged under another."""
APPROVED: Final = "INVMM_GATE_ENVIRONMENT"
"""The environment variable with the digest of the approved environment."""
_SCORES: Final = (
    "torch", "triton", "diffusers", "transformers", "tokenizers", "sentencepiece", "ftfy", "regex", "huggingface-hub",
    "accelerate", "peft", "xformers", "safetensors", "numpy", "pillow", "onnxruntime",
)  # fmt: skip
"""Packages whose versions decide a score."""
_VERDICTS: Final = (
    "scipy", "pydantic", "pydantic-core", "pyyaml", "pyarrow", "jinja2", "markupsafe", "cryptography", "typer",
)  # fmt: skip
"""Packages whose versions decide a verdict."""
_COMPILED: Final = re.compile(r"((?:nvidia|cuda)_\w+)-[^-]+\.dist-info")
"""CUDA's libraries as torch requires them; their names differ with CUDA's version."""
_VERSION: Final = re.compile(r"^Version: *(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRecord:
    """confirm.json: how the confirmations were made. The plan may be another than that in run.json."""

    schema_version: int = CONFIRM_SCHEMA_VERSION
    """Of this file."""
    policy: str
    """Digest of the policy that asked for them."""
    confirm: ConfirmPlan
    """How probes were confirmed."""
    rate_limit: float
    """Where plain sampling could stop: the smallest limit of the rules `confirmed`."""
    reduced_rows: tuple[int, ...] = ()
    """Rows that were left each time memory ran out."""
    self_checks: tuple[SelfCheck, ...] = ()
    """The control of the search before its first use, and the check after the last use of the model."""

    def differences(self, asked: "ConfirmRecord") -> list[str]:
        """Names of what makes confirmations of the one plan no confirmations of the other."""
        return [name for name in ("confirm", "rate_limit") if getattr(self, name) != getattr(asked, name)]


def fingerprint(inputs: RunInputs) -> str:
    """The fingerprint of a run: the sha256 of the inputs as canonical JSON.

    Raises RunFolderError for a number that is not finite: NaN is no JSON, and stands in a file that somebody edited.
    """
    try:
        return sha256(canonical(asdict(inputs)).encode()).hexdigest()
    except ValueError as error:
        raise RunFolderError(
            "an input of the run is no finite number",
            expected="run.json as the gate wrote it",
            do="restore the file, or begin anew with another --out",
        ) from error


def run_faults(run: RunRecord) -> Iterator[str]:
    """Where run.json says of model, probe set and metric what its inputs, and so its fingerprint, do not say."""
    if fingerprint(run.inputs) != run.fingerprint:
        yield f"{RUN} has another fingerprint than its inputs give"
    if not run.model.digest == run.inputs.model == digest_of(run.model.files):
        yield f"{RUN} has another model digest than its files and its inputs give"
    if not run.probe_set.digest == run.inputs.probe_set == probe_set_digest(run.probe_set.probes):
        yield f"{RUN} has another probe-set digest than its probes and its inputs give"
    named = {name: getattr(run.model, name) for name in ("pipeline", "weights", "pickles")} | {"metric": run.metric}
    different = [name for name, value in named.items() if getattr(run.inputs, name) != value]
    if different:
        yield f"{RUN} names another {', '.join(different)} than its inputs do"


def changed_inputs(found: RunRecord, asked: RunRecord) -> list[str]:
    """Names of the inputs that differ, sorted. Inputs that do not give their own fingerprint were edited."""
    if found.fingerprint == asked.fingerprint and fingerprint(found.inputs) == found.fingerprint:
        return []
    return differences(found.inputs, asked.inputs) or ["fingerprint than its inputs give"]


def changed_for_confirming(found: RunRecord, asked: RunRecord) -> list[str]:
    """The changed inputs, as in `changed_inputs`, among those that a confirmation depends on."""
    if fingerprint(found.inputs) != found.fingerprint:
        return ["fingerprint than its inputs give"]
    return [name for name in differences(_kept(found), _kept(asked)) if name not in WITHOUT_SCORES]


def another_run(folder: Path, changed: list[str], *, found: RunRecord, asked: RunRecord) -> RunFolderError:
    """The refusal to go on with a run of other inputs; of an input with parts, the parts that differ are named."""
    named = (
        named_difference(name, getattr(found.inputs, name, None), getattr(asked.inputs, name, None)) for name in changed
    )
    return RunFolderError(
        f"{folder} holds a run with another {', '.join(named)}",
        expected="the same inputs as when it began",
        do="give another --out",
    )


def refuse_orphans(folder: Path) -> None:
    """Records without their run.json could be of any inputs. A crash cannot leave them: run.json comes first."""
    names = (*MEASURE.records, MEASURE.end, CONFIRM, *CONFIRMING.records, CONFIRMING.end)
    orphans = [name for name in names if (folder / name).exists()]
    if orphans:
        raise RunFolderError(
            f"{folder} holds {', '.join(orphans)} without run.json",
            expected="the folder of one run, or an empty one",
            do="restore run.json, or give another --out",
        )


def as_confirmed(run: RunRecord, record: ConfirmRecord | None) -> RunRecord:
    """The run with the policy and the plan that its confirmations were really made under, and the fingerprint of both.

    What was begun under one policy and confirmed under another is a run of its own.
    """
    if record is None:
        return run
    inputs = replace(run.inputs, policy=record.policy, confirm=record.confirm)
    context = replace(run.context, reduced_rows_in_confirm=record.reduced_rows)
    identity = run.fingerprint if inputs == run.inputs else fingerprint(inputs)
    return replace(run, inputs=inputs, fingerprint=identity, context=context)


def _kept(run: RunRecord) -> RunInputs:
    """Without the setting that no confirmation depends on: it follows from the rules, which may have changed since."""
    return replace(run.inputs, settings=replace(run.inputs.settings, stop_above=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The gate and the versions of the packages that decide a score or a verdict."""

    digest: str
    """sha256 over sorted lines `name NUL version LF`, and the line `code NUL digest LF`."""
    code: str
    """sha256 over the package's own source: records of other code do not mix, whatever its version says."""
    versions: dict[str, str]
    """By name, sorted; the gate is one of them."""


@cache
def installed_environment() -> Environment:
    """The environment of this process."""
    code, versions = _code_digest(), {"invmm-gate": __version__} | installed_versions()
    versions = dict(sorted(versions.items()))
    text = "".join(f"{name}\0{version}\n" for name, version in versions.items()) + f"code\0{code}\n"
    return Environment(digest=sha256(text.encode()).hexdigest(), code=code, versions=versions)


def installed_versions(path: Sequence[str] | None = None) -> dict[str, str]:
    """The versions of the deciding packages that are there, by name; `path` is by default sys.path."""
    path = sys.path if path is None else path
    names = sorted({*_SCORES, *_VERDICTS, *_compiled(path)})
    return {name: version for name in names if (version := _version(name, path)) is not None}


def _version(name: str, path: Sequence[str]) -> str | None:
    found = next(iter(distributions(name=name, path=list(path))), None)
    if found is None:
        return None
    # `found.version` parses all of METADATA, the longest part of which is a README.
    version = _VERSION.search(found.read_text("METADATA") or found.read_text("PKG-INFO") or "")
    return version[1] if version else "unknown"


def _compiled(path: Sequence[str]) -> Iterator[str]:
    for folder in path:
        names = os.listdir(folder or ".") if Path(folder).is_dir() else ()
        yield from (match[1].replace("_", "-") for name in names if (match := _COMPILED.fullmatch(name)))


def require_environment(approved: str | None = None) -> None:
    """Raise ConfigError unless this environment is the approved one, by default that of INVMM_GATE_ENVIRONMENT.

    Where neither names one, any will do; an empty name is none that was approved.
    """
    approved, here = approved_environment() if approved is None else approved, installed_environment().digest
    if approved is not None and approved != here:
        raise ConfigError(
            f"the installed environment is {here}",
            expected=f"the approved one, {approved!a} (--environment or ${APPROVED})",
            do="`invmm-gate environment` shows what is installed",
        )


def require_measured_in(environment: str) -> None:
    """Raise ConfigError unless a run was measured in the environment that INVMM_GATE_ENVIRONMENT names, if it does."""
    approved = approved_environment()
    if approved is not None and environment != approved:
        raise ConfigError(
            f"the run was measured in the environment {environment}",
            expected=f"the approved one, {approved!a} (${APPROVED})",
            do="measure the model again where that is installed",
        )


def approved_environment() -> str | None:
    """The digest in INVMM_GATE_ENVIRONMENT; None where it is not set."""
    return os.environ.get(APPROVED)


def _code_digest() -> str:
    digest = sha256()
    for entry in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(entry.read_bytes())
    return digest.hexdigest()
