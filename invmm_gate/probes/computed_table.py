"""The manifest as a table with computed columns: what the files on disk really are."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.files.probe_files import FILE_LIMIT, read_regular_file
from invmm_gate.probes import fields
from invmm_gate.probes.checks import TABLE_COLUMNS, Record
from invmm_gate.probes.fitting import fit_problem
from invmm_gate.probes.images import decode_image, is_one_colour, pixels_sha256
from invmm_gate.probes.manifest import Manifest, Row


def build_table(
    manifest: Manifest,
    *,
    image_size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """One record a row, in order; every image is read and decoded once, one at a time.

    A cell is None where a field is empty or an earlier check already failed. `image_size` is the (height, width) that
    the model makes; None where it is not known. `progress` is told (rows done, rows in all).
    """
    records: list[Record] = []
    for row in manifest.rows:
        records.append(_record(manifest.folder, row, image_size))
        if progress is not None:
            progress(len(records), len(manifest.rows))
    return records


def _record(folder: Path, row: Row, image_size: tuple[int, int] | None) -> Record:
    values = row.values
    record: Record = dict.fromkeys(TABLE_COLUMNS)
    record |= {column: value for column, value in values.items() if value.strip()}
    record |= {f"{column}_key": fields.name_key(values[column]) for column in fields.UNIQUE if values[column]}
    record["is_control"] = int(values["group"] == "control")
    record["text_problem"] = fields.text_problem(values) or None
    record["date_problem"] = fields.date_problem(values["added_on"]) or None
    record["fit_problem"] = fields.fit_problem(values["fit"]) or None
    if values["path"] and record["text_problem"] is None:
        record["path_problem"] = fields.path_problem(folder, values["path"]) or None
        if record["path_problem"] is None:
            record |= _file_columns(folder, values)
            record["fit_problem"] = record["fit_problem"] or _unfit(record, values, image_size)
    return record


def _file_columns(folder: Path, values: dict[str, str]) -> Record:
    try:
        data = read_regular_file(folder / values["path"], limit=FILE_LIMIT)
    except ProbeSetError as error:
        return {"file_problem": str(error)}
    actual = hashlib.sha256(data).hexdigest()
    if actual != values["sha256"]:  # not the image that was added: what it shows does not matter
        return {"sha256_actual": actual}
    try:
        image = decode_image(data, name=values["path"])
    except ProbeSetError as error:
        return {"sha256_actual": actual, "image_problem": str(error)}
    return {
        "sha256_actual": actual,
        "width": image.width,
        "height": image.height,
        "one_colour": is_one_colour(image),
        "pixels": pixels_sha256(image),
    }


def _unfit(record: Record, values: dict[str, str], image_size: tuple[int, int] | None) -> str | None:
    """Why an image that could be opened does not fit the model."""
    width, height = record["width"], record["height"]
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    found = fit_problem(values["fit"], width=width, height=height, to=image_size)
    return f"{values['path']!r} {found}" if found else None
