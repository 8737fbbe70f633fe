"""`report`: every format and the public edition, from the records of a judged run. Never imports torch."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.run_records import RunData
from invmm_gate.files.probe_files import FILE_LIMIT, read_regular_file
from invmm_gate.report.formats import FORMATS
from invmm_gate.report.report_images import ReportImages
from invmm_gate.runs.copies import COPIES
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.layout import METRICS, VERDICT
from invmm_gate.stages.public_edition import PUBLIC_FILES, write_public_files
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
        return read_regular_file(path, limit=FILE_LIMIT)
    except ProbeSetError:
        return b""
