"""`publish`: a judged run to MLflow, and what of it is sent. Never imports torch."""

from invmm_gate.core.errors import GateError
from invmm_gate.core.run_records import RunData
from invmm_gate.report.report_images import ReportImages
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.public_edition import public_data, public_files
from invmm_gate.stages.read_verdict import judged_again
from invmm_gate.stages.report import rendered


def publish_run(folder: RunFolder, tracking_uri: str | None, *, details: bool = False) -> str:
    """Log the run to MLflow; where it can be seen. Raises PublishError; the verdict stands all the same.

    The public edition is sent; with `details` the records with ids and exact scores. publish.json says `pending` before
    the first request and `published` after the last one. Without `tracking_uri`, a pending run goes where it was to go.
    Reports are rendered anew, without pictures, whatever `--reveal` wrote into the folder: no pixel of a probe or of a
    copy of it is ever sent. Raises RunFolderError for a verdict that the records do not give.
    """
    from invmm_gate.tracking.mlflow_log import MlflowTracker
    from invmm_gate.tracking.spool import mark_published, read, spool

    sent = to_publish(folder, details=details)
    before = read(folder.path)
    uri = tracking_uri or (before.uri if before else "") or None
    spool(folder.path, uri=uri)
    try:
        place = MlflowTracker(uri).publish(sent, folder.path, rendered=_texts(sent))
    except GateError as error:
        spool(folder.path, uri=uri, error=str(error))
        raise
    mark_published(folder.path, uri=uri, place=place)
    return place


def to_publish(folder: RunFolder, *, details: bool) -> RunData:
    """The records that `publish` sends. Raises RunFolderError for a verdict that they do not give, ConfigError."""
    data = judged_again(folder)
    return data if details else public_data(folder, data)


def _texts(sent: RunData) -> dict[str, str]:
    if sent.public:
        return public_files(sent)
    made = rendered(sent, ReportImages(), reveal=False)
    return {name: content for name, content in made.items() if isinstance(content, str)}
