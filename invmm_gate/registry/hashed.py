"""All that a version's source holds, hashed once and then held against any number of attestations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from invmm_gate.attestation.dsse import ATTESTATION
from invmm_gate.attestation.statement import Statement
from invmm_gate.errors import ModelError, VerificationError
from invmm_gate.models.files import list_files
from invmm_gate.models.inspect import inspect_checkpoint
from invmm_gate.records import ModelManifest, Weights
from invmm_gate.registry.artefacts import checkpoint_in

Inspect = Callable[[Path, Weights | None], ModelManifest]
"""How the files of a checkpoint are hashed; the weights are those that count."""


def inspected(checkpoint: Path, weights: Weights | None) -> ModelManifest:
    """The manifest of the files as they are now. Raises ModelError."""
    return inspect_checkpoint(checkpoint, weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFiles:
    """What whoever loads a version gets: its checkpoint, and what lies beside it."""

    manifest: ModelManifest | Callable[[], VerificationError]
    """Of the checkpoint, or the error for files of which there is none."""
    beside: tuple[str, ...] = ()
    """Files that are no part of the checkpoint, the attestation apart."""

    def require(self, said: Statement) -> ModelManifest:
        """The manifest, if these are the attested files and no others lie there. Raises VerificationError.

        It is the form of the gate's own releases.
        """
        if not isinstance(self.manifest, ModelManifest):
            raise self.manifest()
        require_subject(self.manifest, said)
        if self.beside:
            raise VerificationError(
                f"{len(self.beside)} files that are not attested lie beside the checkpoint,"
                f" {self.beside[0]!a} among them",
                expected=f"the attested files and {ATTESTATION} alone, as whoever loads the version gets all of them",
                do="register the checkpoint by itself: `invmm-gate register`",
            )
        return self.manifest


def hashed(files: Path, weights: Weights | None) -> HashedFiles:
    """The folder of all that a version's source holds."""
    try:
        manifest = inspected(checkpoint_in(files), weights)
        return HashedFiles(manifest=manifest, beside=_beside(files, manifest))
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


def _beside(files: Path, manifest: ModelManifest) -> tuple[str, ...]:
    checkpoint = Path(manifest.path)
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    attested = {(root / file.path).relative_to(files).as_posix() for file in manifest.files}
    return tuple(sorted(set(list_files(files)) - attested - {ATTESTATION}))
