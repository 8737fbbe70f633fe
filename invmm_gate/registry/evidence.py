"""What proves a verdict: an attestation whose signature holds and whose subject is the bytes as they are now.

Tags, aliases and sources are pointers at most: who can write them could point at anything, and then nothing verifies.
"""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.attestation.dsse import ATTESTATION
from invmm_gate.attestation.keys import TrustRoots
from invmm_gate.attestation.statement import Statement
from invmm_gate.attestation.verification import Expected, Trusted, check_statement, open_statement
from invmm_gate.errors import ModelError, VerificationError
from invmm_gate.models.inspect import inspect_checkpoint
from invmm_gate.records import ModelManifest, Weights
from invmm_gate.registry.artefacts import Artefacts
from invmm_gate.registry.names import (
    MODEL_DIGEST,
    POLICY_DIGEST,
    PROBE_SET_DIGEST,
    REPORT_DIGEST,
    RUN,
    VERDICT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What an attestation must say before anything is promoted or let through."""

    roots: TrustRoots
    policies: Mapping[str, str]
    """Accepted policies: digest -> name."""
    weights: Weights | None = None
    allow_waivers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """An attestation that holds for a checkpoint's bytes, whatever it decides."""

    envelope: bytes
    trusted: Trusted
    manifest: ModelManifest
    """The files that it holds for."""

    @property
    def statement(self) -> Statement:
        """What was signed."""
        return self.trusted.statement

    def require_pass(self, demands: Demands, now: datetime.datetime) -> None:
        """Raise VerificationError, naming the field, unless it is a pass under an accepted policy that still holds."""
        expected = Expected(
            subject_digest=self.statement.subject_digest,
            policies=demands.policies,
            now=now,
            weights=demands.weights,
            allow_waivers=demands.allow_waivers,
        )
        check_statement(self.trusted, expected)


def verdict_tags(statement: Statement) -> dict[str, str]:
    """The tags that a statement entitles a version to."""
    return {
        VERDICT: statement.decision,
        MODEL_DIGEST: statement.subject_digest,
        REPORT_DIGEST: statement.report_digest,
        POLICY_DIGEST: statement.policy_digest,
        PROBE_SET_DIGEST: statement.probe_set_digest,
    }


def state_of(decision: str) -> str:
    """The value of tag STATE for a decision: a pass with waivers is a pass."""
    return "pass" if decision == "pass_with_waiver" else decision


def evidence_for(
    checkpoint: Path,
    envelope: bytes,
    roots: TrustRoots,
    *,
    now: datetime.datetime,
    weights: Weights | None = None,
    left_out: bool = False,
) -> Evidence:
    """The attestation, if a trusted key signed it for exactly these files. Raises VerificationError.

    `weights` are those that count where there are raw and EMA weights. Without it all files must be attested, unless
    `left_out` lets those lie there that the statement itself says were left out.
    """
    trusted = open_statement(envelope, roots, now=now)
    said = trusted.statement
    try:
        manifest = inspect_checkpoint(checkpoint, weights=said.weights if left_out and said.left_out else weights)
    except ModelError as error:  # what cannot even be inspected is not what was attested
        raise VerificationError(f"subject: {error.found}", expected=error.expected, do=error.do) from error
    if manifest.digest != said.subject_digest:
        raise VerificationError(
            f"subject digest: the files give {manifest.digest}",
            expected=f"{said.subject_digest}, the attested model",
            do="gate these files",
        )
    return Evidence(envelope=envelope, trusted=trusted, manifest=manifest)


def envelopes(source: str, tags: Mapping[str, str], artefacts: Artefacts) -> Iterator[bytes]:
    """The attestations that may belong to a version: that beside its checkpoint, then that of the gate's run."""
    places = (source, f"runs:/{tags[RUN]}") if tags.get(RUN) else (source,)
    for place in places:
        found = artefacts.read(place, ATTESTATION)
        if found is not None:
            yield found


def no_evidence() -> VerificationError:
    """The error for a version that nothing was ever attested of."""
    return VerificationError(
        "there is no attestation for this version",
        expected="a version that the gate has judged",
        do="gate it: `invmm-gate registry gate NAME VERSION`",
    )
