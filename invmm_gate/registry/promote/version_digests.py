"""The digests of a version's files, taken once and held against any number of attestations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from invmm_gate.attest.statement import Statement
from invmm_gate.core.errors import ModelError, VerificationError
from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client.checkpoint import checkpoint_in

Inspect = Callable[[Path, Weights | None], ModelManifest]
"""How the files of a checkpoint are hashed; the weights are those that count."""


def inspected(checkpoint: Path, weights: Weights | None) -> ModelManifest:
    """The manifest of the files as they are now. Raises ModelError."""
    return inspect_checkpoint(checkpoint, weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFiles:
    """The files that somebody gets who loads a version."""

    manifest: ModelManifest | Callable[[], VerificationError]
    """The manifest of the checkpoint, or the error for files that are no checkpoint, or not only one."""

    def require(self, said: Statement) -> ModelManifest:
        """The manifest, if these are the attested files and no weights were left out. Raises VerificationError.

        It is the form of the gate's own releases.
        """
        if not isinstance(self.manifest, ModelManifest):
            raise self.manifest()
        require_subject(self.manifest, said)
        if self.manifest.left_out:
            raise VerificationError(
                f"{len(self.manifest.left_out)} files were left out of the verdict,"
                f" {self.manifest.left_out[0]!a} among them",
                expected="the attested files alone, as whoever loads the version gets all of them",
                do="promote what `invmm-gate register` released",
            )
        return self.manifest


def hashed(files: Path, weights: Weights | None) -> HashedFiles:
    """The folder of all that a version's source holds."""
    try:
        return HashedFiles(manifest=inspected(checkpoint_in(files), weights))
    except ModelError as error:
        return HashedFiles(manifest=partial(no_subject, error.found, error.expected, error.do))


def require_subject(manifest: ModelManifest, said: Statement) -> None:
    """Raise VerificationError unless these are the attested files."""
    if manifest.digest != said.subject_digest:
        raise VerificationError(
            f"subject digest: the files give {manifest.digest}",
            expected=f"{said.subject_digest}, the attested model",
            do="gate these files",
        )


def no_subject(found: str, expected: str, do: str) -> VerificationError:
    """The error for files that cannot even be inspected, and so are not what was attested."""
    return VerificationError(f"subject: {found}", expected=expected, do=do)
