"""Validate a probe set before anything is loaded onto a device: every problem, with its line. No torch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import ProbeSet
from invmm_gate.files.regular import IMAGE_LIMIT, read_probe_file
from invmm_gate.probes import fields
from invmm_gate.probes.checks import (
    TABLE_COLUMNS,
    CheckResult,
    Decide,
    Record,
    plain_results,
    probe_set_checks,
    repeats,
)
from invmm_gate.probes.fitting import misfit
from invmm_gate.probes.images import decode_image, is_one_colour, pixels_sha256
from invmm_gate.probes.manifest import Manifest, Row, probe_set_digest, read_rows, to_probes


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
    record["multiplicity_problem"] = fields.multiplicity_problem(values["multiplicity"], values["group"]) or None
    record["label_problem"] = fields.label_problem(values["label"]) or None
    if values["path"] and record["text_problem"] is None:
        record["path_problem"] = fields.path_problem(folder, values["path"]) or None
        if record["path_problem"] is None:
            record |= _file_columns(folder, values)
            record["fit_problem"] = record["fit_problem"] or _unfit(record, values, image_size)
    return record


def _file_columns(folder: Path, values: dict[str, str]) -> Record:
    try:
        data = read_probe_file(folder / values["path"], limit=IMAGE_LIMIT)
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
        "pixels": fields.picture_key(pixels_sha256(image), values["group"]),
    }


def _unfit(record: Record, values: dict[str, str], image_size: tuple[int, int] | None) -> str | None:
    """Why an image that could be opened does not fit the model."""
    width, height = record["width"], record["height"]
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    found = misfit(values["fit"], width=width, height=height, to=image_size)
    return f"{values['path']!r} {found}" if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a probe set."""

    line: int
    """Line of the manifest; 0 where the set as a whole is meant."""
    probe: str
    """Id of the probe; empty where it has none."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """The findings of all checks."""

    manifest: str
    """The manifest's path, as it stands in messages."""
    probe_set: ProbeSet | None
    """None as soon as there is a problem."""
    problems: tuple[Problem, ...]
    """By line; those of the whole set last."""

    def lines(self) -> tuple[str, ...]:
        """One `manifest:LINE: message` for each problem."""
        return tuple(
            f"{self.manifest}:{problem.line}: {problem.message}"
            if problem.line
            else f"{self.manifest}: {problem.message}"
            for problem in self.problems
        )


def validate_probe_set(
    folder: Path,
    *,
    min_controls: int = 0,
    captions_required: bool = False,
    image_size: tuple[int, int] | None = None,
) -> ProbeSet:
    """The probe set, if every check passes. `image_size` is the (height, width) that the model makes, if it is known.

    Raises ProbeSetError with the first problem and the number of further ones.
    """
    report = check_probe_set(
        folder, min_controls=min_controls, captions_required=captions_required, image_size=image_size
    )
    if report.probe_set is None:
        first, *others = report.lines()
        size = "" if image_size is None else f" --image-size {image_size[0]}x{image_size[1]}"
        listed = f"run `invmm-gate probes validate {folder}{size}` for the list"
        more = f" (and {len(others)} more; {listed})" if others else ""
        raise ProbeSetError(first + more)
    return report.probe_set


def check_probe_set(
    folder: Path,
    *,
    min_controls: int = 0,
    captions_required: bool = False,
    image_size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    decide: Decide = plain_results,
) -> ValidationReport:
    """Every problem of a probe set. `progress` is told (probes read, probes in all); `decide` runs the checks.

    `image_size` is the (height, width) that the model makes; without it, the images are held against a square.
    Raises ProbeSetError only where the manifest cannot be read as a table.
    """
    manifest = read_rows(folder)
    table = build_table(manifest, image_size=image_size, progress=progress)
    checks = probe_set_checks(min_controls=min_controls, captions_required=captions_required)
    results = decide(table, checks)
    problems = [problem for result in results for problem in _problems(manifest, table, result)]
    return ValidationReport(
        manifest=manifest.place(),
        probe_set=None if problems else _probe_set(manifest),
        problems=tuple(sorted(problems, key=lambda problem: problem.line or float("inf"))),
    )


def _probe_set(manifest: Manifest) -> ProbeSet:
    probes = to_probes(manifest.rows)
    return ProbeSet(folder=str(manifest.folder), probes=probes, digest=probe_set_digest(probes), manifest=manifest.name)


def _problems(manifest: Manifest, table: Sequence[Record], result: CheckResult) -> list[Problem]:
    if result.success:
        return []
    check = result.check
    if check.observe is not None:
        return [Problem(line=0, probe="", message=check.problem({"observed": check.observe(table)}))]
    found = list(_row_problems(manifest, table, result))
    return found or [Problem(line=0, probe="", message=f"the check {check.name!r} failed")]


def _row_problems(manifest: Manifest, table: Sequence[Record], result: CheckResult) -> Iterator[Problem]:
    repeated = repeats(table, result.check)
    for index in result.rows:
        first = repeated.get(index)
        if result.check.unique and first is None:
            continue  # the first of its kind: the later ones are the problem
        record = table[index] if first is None else {**table[index], "first_line": manifest.rows[first].line}
        row = manifest.rows[index]
        yield Problem(line=row.line, probe=row.values["id"], message=result.check.problem(record))
