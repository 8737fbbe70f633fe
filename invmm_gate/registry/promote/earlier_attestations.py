"""Earlier attestations: one that still holds spares a measurement, and a new one is chained to that of the release."""

import datetime
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from invmm_gate.attest.audit_log import is_head
from invmm_gate.attest.demands import demands_of
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import Statement
from invmm_gate.attest.verification import open_statement
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.core.options import GateChoices
from invmm_gate.core.version import __version__
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.names import RUN, is_release, log_entry_tag, release_name, version_label
from invmm_gate.registry.promote.choices import trusted_roots
from invmm_gate.registry.promote.evidence import Evidence, envelopes, evidence_for
from invmm_gate.stages.audit_file import logged_at
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.public_edition import PUBLIC_REPORT


def verdict_that_holds(
    registry: Registry, record: VersionRecord, inputs: Inputs, choices: GateChoices, *, now: datetime.datetime
) -> Evidence | None:
    """A trusted pass or block on the same bytes, under the same policy, probe set and seed, that still stands."""
    roots = trusted_roots(choices)
    if roots is None:
        return None
    demands = demands_of(choices.conditions, roots=roots, policies={inputs.policy.digest: choices.policy})
    for envelope in envelopes(record.source, record.tags, registry.artefacts):
        try:
            evidence = evidence_for(Path(inputs.model.path), envelope, roots, now=now, weights=choices.weights)
            evidence.require_standing(demands, now)
        except VerificationError:
            continue
        said = evidence.statement
        found = (said.policy_digest, said.probe_set_digest, said.tested.seed)
        wanted = (inputs.policy.digest, inputs.probe_set.digest, inputs.seed)
        if found == wanted and _is_final(registry, record, said, choices):
            return evidence
    return None


def _is_final(registry: Registry, record: VersionRecord, said: Statement, choices: GateChoices) -> bool:
    """Whether judging again could not come out otherwise; waivers and baselines are no part of what is attested.

    What was signed for another version of the same files is signed again: attestation and audit log name this one.
    """
    if is_release(record.name, choices.release_name):
        return True
    if said.subject_name != version_label(record.name, record.version):
        return False
    unchanged = choices.waivers is None and choices.baseline is None and said.verifier_version == __version__
    return said.decision in ("pass", "block") and unchanged and _lies_in_our_run(registry, record, said)


def _lies_in_our_run(registry: Registry, record: VersionRecord, said: Statement) -> bool:
    """Whether the run that the version names, under which it would be released, is the gate's and has its report."""
    place = record.tags.get(RUN, "")
    if not place or not registry.uploads.is_ours(place.partition("/")[0]):
        return False
    report = registry.artefacts.read(f"runs:/{place}", PUBLIC_REPORT)
    return report is not None and sha256(report).hexdigest() == said.report_digest


def attestation_before(
    registry: Registry, name: str, choices: GateChoices, *, folder: Path, now: datetime.datetime
) -> Path | None:
    """The attestation of what the alias points at now, in a file; None if there is none that a trusted key signed."""
    roots = trusted_roots(choices)
    held = registry.alias(release_name(name, choices.release_name), choices.alias) if roots and choices.alias else None
    if roots is None or held is None:
        return None
    try:
        found = tuple(envelopes(held.source, {}, registry.artefacts))
    except RegistryDownError:
        raise
    except RegistryError:  # a release whose files are gone is followed by nothing
        return None
    for envelope in found:
        with suppress(VerificationError):
            open_statement(envelope, roots, now=now)
            path = folder / ATTESTATION
            path.write_bytes(envelope)
            return path
    return None


def log_entry_of(record: VersionRecord, envelope: bytes, log: Path) -> str:
    """Where an attestation stands in the audit log (`Head`): by our own, else as the version's tag says; else empty.

    The tag may have been set by hand where no guard stands. Raises ConfigError for a log that cannot be read.
    """
    own, said = logged_at(log, envelope), record.tags.get(log_entry_tag(envelope), "")
    return str(own) if own else said if is_head(said) else ""
