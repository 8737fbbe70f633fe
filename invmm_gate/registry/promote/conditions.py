"""What is asked of a verdict beside its signature, its files and its policy, as a user gives it."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.attest.revocation import Revocations, load_revocations
from invmm_gate.core.records import Weights
from invmm_gate.registry.promote.evidence import Demands
from invmm_gate.runs.installed import approved_environment
from invmm_gate.stages.sign import parse_image_size, require_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Nothing by default. The files are read each time: a revocation counts at once."""

    revoked: Path | None = None
    """YAML list of revoked verdicts and keys."""
    max_age: int | None = None
    """Days since a verdict was signed."""
    refuse_waivers: bool = False
    reviewers: Path | None = None
    """Keys, one of which must have approved each waiver; None = whoever the gate that signed accepted."""
    min_probes: int = 1
    """Controls not counted."""
    probe_set_digest: str | None = None
    image_size: str | None = None
    """HEIGHTxWIDTH in pixels, or one side: the size at which models are served."""
    refuse_chosen_seed: bool = False
    max_attempts: int | None = None
    """Most different results of a model in the audit log."""

    def demands(self, *, roots: TrustRoots, policies: Mapping[str, str], weights: Weights | None = None) -> Demands:
        """All that is demanded. Raises ConfigError for what cannot be read."""
        if self.probe_set_digest is not None:
            require_digest(self.probe_set_digest)
        return Demands(
            roots=roots,
            policies=policies,
            weights=weights,
            allow_waivers=not self.refuse_waivers,
            reviewers=None if self.reviewers is None else load_roots(self.reviewers),
            revoked=self.revocations(),
            probe_set_digest=self.probe_set_digest,
            min_probes=self.min_probes,
            image_size=None if self.image_size is None else parse_image_size(self.image_size),
            allow_chosen_seed=not self.refuse_chosen_seed,
            max_attempts=self.max_attempts,
            environment=approved_environment(),
            max_age=None if self.max_age is None else datetime.timedelta(days=self.max_age),
        )

    def revocations(self) -> Revocations:
        """What is revoked now. Raises ConfigError."""
        return Revocations() if self.revoked is None else load_revocations(self.revoked)
