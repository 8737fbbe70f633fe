"""Names in the registry: the tags of a version, what a model or alias may be called, and which models are gated."""

import re
import unicodedata
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from invmm_gate.core.errors import ConfigError

STATE: Final = "invmm.gate"
"""Where the gate is with a version: one of UNDECIDED or DECISIONS. A version without it was never looked at."""
PENDING: Final = "pending"
RUNNING: Final = "running"
ERROR: Final = "error"
DECISIONS: Final = ("pass", "block", "inconclusive")
UNDECIDED: Final = (PENDING, RUNNING, ERROR)
"""What STATE may say without a verdict. Anything else could be read as one."""

VERDICT: Final = "invmm.verdict"
"""The decision of the attestation: `pass`, `pass_with_waiver`, `block` or `inconclusive`."""
MODEL_DIGEST: Final = "invmm.model_digest"
REPORT_DIGEST: Final = "invmm.report_digest"
POLICY_DIGEST: Final = "invmm.policy_digest"
PROBE_SET_DIGEST: Final = "invmm.probe_set_digest"
RUN: Final = "invmm.run"
"""`<run id>/<folder>`: the gate's MLflow run, and where in it report.html, verdict.json and attestation.json lie."""
LOG_ENTRY: Final = "invmm.log_entry"
"""Begins a tag (`log_entry_tag`): `NUMBER:DIGEST`, the audit log's head when the verdict was signed, for
`audit-log verify --head`. One for each attestation, so that nobody ever has a reason to write another over it."""
REASON: Final = "invmm.reason"
"""One line for the reader of a version that has no verdict."""
PROMOTED_FROM: Final = "invmm.promoted_from"
"""On a version of a release model: `name/version` of the one that was gated."""
PROMOTED_CREATED: Final = "invmm.promoted_created"
"""When the registry made that one, in ms: a model that is deleted and made again begins at version 1 again."""

POSING: Final = "mlflow.prompt.is_prompt"
"""MLflow's own tag of prompts: its searches pass over every version of a model of which one version carries it."""

VERDICT_TAGS: Final = frozenset({VERDICT, MODEL_DIGEST, REPORT_DIGEST, POLICY_DIGEST, PROBE_SET_DIGEST})
"""The tags that only an attestation may set; STATE is one of them unless its value is UNDECIDED."""

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ALIAS_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
RELEASE_SUFFIX: Final = "-release"
APPROVED: Final = "approved-"
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
_LATIN: Final = re.compile(r"LATIN .*?\b([A-Z]{1,2})( WITH .*)?")
"""The Unicode name of a form of a Latin letter, or of two in one."""


def is_registry_name(name: str) -> bool:
    """Whether the gate works on a model of this name: it can be a file name and needs no quoting in a filter."""
    return NAME_PATTERN.fullmatch(name) is not None and bool(set(name) - {"."})


def folded(text: str) -> str:
    """The plain ASCII that a database which compares loosely may take this for.

    MySQL and SQL Server by default ignore accents, width, case, blanks at the end, and characters they do not know.
    """
    return "".join(map(_plain, unicodedata.normalize("NFKD", text))).strip().lower()


def _plain(char: str) -> str:
    """The ASCII character, or those of which it is a form, or nothing."""
    if char.isascii():
        return char if char.isprintable() else ""
    letter = _LATIN.fullmatch(unicodedata.name(char, ""))
    return letter[1] if letter else ""


def safe_registry_name(name: str) -> str:
    """The name itself. Raises ConfigError if the gate does not work on such a name."""
    if not is_registry_name(name):
        raise unusable_name(name)
    return name


def unusable_name(name: str) -> ConfigError:
    """The error for a model that gets no verdict, as the gate does not work on such a name."""
    return ConfigError(
        f"registered model {name[:200]!a}",
        expected="a name of 1 to 128 letters, digits, dots, dashes and underscores",
        do="register it under such a name: it is not gated under this one",
    )


def release_name(name: str, chosen: str | None = None) -> str:
    """The model that versions which pass are promoted to. Raises ConfigError."""
    return safe_registry_name(chosen or f"{safe_registry_name(name)}{RELEASE_SUFFIX}")


def version_label(name: str, version: str) -> str:
    """`name-v3`: how a version is called in folder names, in what is signed of it and in the audit log."""
    return f"{name}-v{version}"


def approved_alias(digest: str) -> str:
    """The alias that names the bytes that were approved."""
    return f"{APPROVED}{digest[:12]}"


def is_verdict_tag(key: str, value: str | None) -> bool:
    """Whether setting this tag claims a verdict; with value None, whether deleting it hides one."""
    return key in VERDICT_TAGS or (key == STATE and value not in UNDECIDED) or is_log_entry(key)


def is_log_entry(key: str) -> bool:
    """Whether a tag of this key would be read as the audit log's head."""
    return key.startswith(LOG_ENTRY)


def log_entry_tag(envelope: bytes) -> str:
    """The tag's key for an attestation file: `invmm.log_entry.` and 12 digits of the digest that its line has."""
    return f"{LOG_ENTRY}.{sha256(envelope).hexdigest()[:12]}"


def is_release(name: str, chosen: str | None = None) -> bool:
    """Whether only the gate should write versions of this model: they are judged again, but never promoted further."""
    return name == chosen or name.endswith(RELEASE_SUFFIX)


def candidate_name(name: str, chosen: str | None = None) -> str:
    """The name itself. Raises ConfigError for one that the gate does not work on, and for that of a release model."""
    if is_release(safe_registry_name(name), chosen):
        raise ConfigError(
            f"model {name} is for what the gate releases",
            expected=f"a name that does not end in {RELEASE_SUFFIX} and is not that of --release-name",
            do="register the checkpoint under another name",
        )
    return name


def is_version(text: object) -> bool:
    """Whether it can be the number of a version, written as MLflow writes it."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The models whose versions are gated: those named, or all but the release models where none is named."""

    names: tuple[str, ...] = ()
    release: str | None = None
    """The model that what passes is promoted to, where it is not `<name>-release`."""

    def gates(self, name: str) -> bool:
        """Whether the versions of this model are gated. What the gate itself writes is a release, not a candidate."""
        return is_registry_name(name) and (name in self.names if self.names else not self.is_release(name))

    def is_release(self, name: str) -> bool:
        """Whether only the gate should write versions of this model."""
        return is_release(name, self.release)
