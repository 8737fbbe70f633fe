"""The records of a run, where neither its rows nor what run.json says of them was edited."""

from collections.abc import Iterator

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.models.read.digest import digest_of
from invmm_gate.probes.manifest import probe_set_digest
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.layout import RUN


def unedited(folder: RunFolder) -> RunData:
    """All records. Raises RunFolderError for an edited row, and for a run.json that contradicts its own inputs."""
    data = folder.data()
    found = "; ".join(run_faults(data.run))
    if found:
        raise RunFolderError(
            f"{folder.path}: {found}",
            expected="run.json as the gate wrote it",
            do="restore the file, or begin anew with another --out",
        )
    folder.refuse_edited()
    return data


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
