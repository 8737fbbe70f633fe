"""baseline.yaml: which run was blessed by whom, when and why. The newest entry counts, the older ones stay."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from invmm_gate.core.errors import ConfigError, RunFolderError
from invmm_gate.core.verdict_records import Decision
from invmm_gate.files.regular import write_whole
from invmm_gate.files.strict_model import StrictModel, parse
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.policy.field_types import Digest, Name, Whole
from invmm_gate.policy.waivers import Sentence

_HEADER: Final = (
    "# Written by `invmm-gate bless`: newest last, and only the newest is used. Nothing blesses by itself.\n"
)


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected one line of 1 to 1000 printable characters")
    return text


def _relative(text: str) -> str:
    if os.path.isabs(text):
        raise ValueError("expected a path relative to this file")
    return text


Line = Annotated[Sentence, AfterValidator(_one_line)]


class Entry(StrictModel):
    """One blessing."""

    run: Annotated[Line, AfterValidator(_relative)]
    """The run folder, relative to the file's own folder."""
    run_id: Line
    fingerprint: Digest
    model_digest: Digest
    probe_set_digest: Digest
    policy: Name
    policy_digest: Digest
    measurements_sha256: Digest
    confirmations_sha256: Digest
    """sha256 of confirmations.jsonl; that of an empty file where nothing was confirmed."""
    likelihoods_sha256: Digest
    """sha256 of likelihoods.jsonl; that of an empty file where no probe was ever copied."""
    decision: Decision
    waived: Annotated[Whole, Field(ge=0)]
    """Findings that a waiver covered then."""
    even_if_blocked: Annotated[bool, Field(strict=True)]
    blessed_by: Line
    blessed_on: Line
    """UTC, ISO 8601."""
    reason: Line

    @model_validator(mode="after")
    def _passed_or_asked_for(self) -> Self:
        if self.decision != "pass" and not self.even_if_blocked:
            raise ValueError(f"decision {self.decision} without even_if_blocked")
        return self


class BaselineFile(StrictModel):
    """The whole file."""

    kind: Literal["invmm-gate baseline"]
    version: Annotated[Whole, Field(ge=1, le=1)]
    blessed: Annotated[tuple[Entry, ...], Field(min_length=1)]


_FILE: Final = TypeAdapter(BaselineFile)


def read_baseline_file(path: Path) -> tuple[Entry, ...]:
    """Every blessing, newest last. Raises ConfigError with FILE:LINE for a file that is no baseline file."""
    return parse(_FILE, load_document(path)).blessed


def append_entry(path: Path, entry: Entry) -> None:
    """Add the newest blessing; the entries before it stay as they are. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", expected="a baseline file", do="give another --baseline")
    earlier = read_baseline_file(path) if path.exists() or path.is_symlink() else ()
    entries = [each.model_dump(mode="json") for each in (*earlier, entry)]
    content = {"kind": "invmm-gate baseline", "version": 1, "blessed": entries}
    text = _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    try:
        write_whole(path, text)
    except RunFolderError as error:
        reason = f"{path} cannot be written ({error.__cause__})"
        raise ConfigError(reason, expected="a place for a baseline file", do="give another --baseline") from error
