"""`report` and `publish`: every format, the public edition, and a run in MLflow. Never imports torch."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import GateError, ProbeSetError
from invmm_gate.core.run_records import RunData
from invmm_gate.files.regular import IMAGE_LIMIT, read_probe_file
from invmm_gate.report.formats import FORMATS
from invmm_gate.report.templates import ReportImages
from invmm_gate.runs.copies import COPIES
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import METRICS, VERDICT
from invmm_gate.stages.public_edition import PUBLIC_FILES, public_data, public_files, write_public_files
from invmm_gate.stages.read_verdict import judged_again

REPORTS: Final = (*(form.file for form in FORMATS.values()), *PUBLIC_FILES)
"""The files that `report` writes."""
OUTPUTS: Final = (VERDICT, METRICS, *COPIES, *REPORTS)
"""The files that say how a run was judged."""


def write_reports(
    folder: RunFolder, *, reveal: bool = False, note: Callable[[str], None] = lambda _: None
) -> tuple[Path, ...]:
    """Render every format and the public edition from the records; the files written.

    `note` is told of a format that is left out. Raises ConfigError for a key of the public names that cannot be used,
    RunFolderError for a verdict that the records do not give.
    """
    data = judged_again(folder)
    images = _images(folder, data) if reveal else ReportImages()
    made = rendered(data, images, reveal=reveal)
    for form in FORMATS.values():
        if form.file in made:
            folder.write(form.file, made[form.file])
        else:
            folder.forget(form.file)  # one of an earlier verdict must not stay
            note(f'{form.file} is left out; for it, `pip install "invmm-gate[{form.needs}]"`')
    return (*(folder.path / name for name in made), *write_public_files(folder, data))


def rendered(data: RunData, images: ReportImages, *, reveal: bool) -> dict[str, str | bytes]:
    """By file name; without the formats whose package is not installed."""
    made = {form.file: form.render(data, images, reveal) for form in FORMATS.values()}
    return {name: content for name, content in made.items() if content is not None}


def _images(folder: RunFolder, data: RunData) -> ReportImages:
    place = Path(data.run.probe_set.folder)
    probes = {probe.id: _image(place / probe.path) for probe in data.run.probe_set.probes}
    copies = {
        probe.id: tuple(filter(None, map(_image, sorted(folder.path.glob(f"copies/*/{probe.id}/*.png")))))
        for probe in data.run.probe_set.probes
    }
    return ReportImages(
        probes={
            probe.id: found
            for probe in data.run.probe_set.probes
            if (found := probes[probe.id]) and sha256(found).hexdigest() == probe.sha256
        },
        copies={probe: found for probe, found in copies.items() if found},
    )


def _image(path: Path) -> bytes:
    """An image file; nothing where there is none that could be one."""
    try:
        return read_probe_file(path, limit=IMAGE_LIMIT)
    except ProbeSetError:
        return b""


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
