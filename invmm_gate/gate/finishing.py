"""The stages after the device: judge, report, publish. They read the run folder and never import torch."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from invmm_gate.errors import ConfigError, GateError
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.verdict import judge as decide
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.records import Measurement, RunData, Verdict, Waiver
from invmm_gate.report.images import ReportImages
from invmm_gate.report.registry import FORMATS
from invmm_gate.runs.folder import RunFolder

OUTPUTS: Final = ("verdict.json", *(form.file for form in FORMATS.values()))
"""The files that say how a run was judged."""


_CONDITIONS: Final = ("family", "profile", "settings", "metric")
"""Those of a run's inputs without which two scores do not compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What `judge` weighs beside the records and the policy."""

    waivers: tuple[Waiver, ...] = ()
    baseline: tuple[Measurement, ...] | None = None
    """The last approved run's measurements; None if no run was named."""
    conditions: dict[str, object] | None = None
    """What decided the baseline's scores (its run.json's inputs)."""


def circumstances(waivers: Path | None, baseline: Path | None) -> Circumstances:
    """Read both files. Before anything is measured: a slip in them must not cost hours. Raises GateError."""
    listed = load_waivers(waivers) if waivers else ()
    if baseline is None:
        return Circumstances(waivers=listed)
    run = RunFolder(baseline)
    # The record is read first: a mistyped folder is an error, not a baseline without measurements.
    return Circumstances(waivers=listed, conditions=run.run().inputs, baseline=run.measurements())


def judge(folder: RunFolder, policy: Policy, beside: Circumstances, *, today: datetime.date) -> Verdict:
    """Hold the records against the policy and write verdict.json. Raises ConfigError for a baseline of another kind."""
    data = folder.data()
    if beside.conditions is not None:
        _refuse_other_conditions(data.run.inputs, beside.conditions)
    verdict = decide(data, policy, beside.waivers, today=today, baseline=beside.baseline)
    folder.write_verdict(verdict)
    return verdict


def _refuse_other_conditions(now: dict[str, object], before: dict[str, object]) -> None:
    """Scores compare only under one profile, metric and settings (MEASURES D26)."""
    different = [name for name in _CONDITIONS if now.get(name) != before.get(name)]
    if different:
        raise ConfigError(
            f"the baseline was measured under another {', '.join(different)}",
            expected="a baseline under the same conditions, as only such scores compare",
            do="measure the baseline's model again, or leave out --baseline",
        )


def report(folder: RunFolder, *, reveal: bool = False) -> tuple[Path, ...]:
    """Render every format from the records; the files written."""
    data = folder.data()
    images = _images(folder, data) if reveal else ReportImages()
    for name, text in _rendered(data, images, reveal=reveal).items():
        folder.write(name, text)
    return tuple(folder.path / name for name in OUTPUTS if name != "verdict.json")


def _rendered(data: RunData, images: ReportImages, *, reveal: bool) -> dict[str, str]:
    return {form.file: form.render(data, images, reveal) for form in FORMATS.values()}


def _images(folder: RunFolder, data: RunData) -> ReportImages:
    probes = {
        probe.id: (Path(data.run.probe_set.folder) / probe.path).read_bytes()
        for probe in data.run.probe_set.probes
        if (Path(data.run.probe_set.folder) / probe.path).is_file()
    }
    copies = {
        probe.id: tuple(path.read_bytes() for path in sorted(folder.path.glob(f"copies/{probe.id}-*-[0-9]*.png")))
        for probe in data.run.probe_set.probes
    }
    return ReportImages(probes=probes, copies={probe: found for probe, found in copies.items() if found})


def publish(folder: RunFolder, tracking_uri: str | None) -> str:
    """Log the run to MLflow; where it can be seen. Raises PublishError; the verdict stands all the same.

    publish.json says `pending` before the first request and `published` after the last one. Without `tracking_uri`, a
    pending run goes where it was to go. Reports are rendered anew, without pictures, whatever `--reveal` wrote into the
    folder: no pixel of a probe or of a copy of it is ever sent.
    """
    from invmm_gate.tracking.mlflow_log import MlflowTracker
    from invmm_gate.tracking.spool import mark_published, read, spool

    before = read(folder.path)
    uri = tracking_uri or (before.uri if before else "") or None
    spool(folder.path, uri=uri)
    data = folder.data()
    try:
        place = MlflowTracker(uri).publish(data, folder.path, rendered=_rendered(data, ReportImages(), reveal=False))
    except GateError as error:
        spool(folder.path, uri=uri, error=str(error))
        raise
    mark_published(folder.path, uri=uri, place=place)
    return place
