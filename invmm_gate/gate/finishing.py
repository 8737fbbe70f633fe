"""The stages after the device: judge, report, publish. They read the run folder and never import torch."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from invmm_gate.policy.schema import Policy
from invmm_gate.policy.verdict import judge as decide
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.records import Measurement, RunData, Verdict, Waiver
from invmm_gate.report.images import ReportImages
from invmm_gate.report.registry import FORMATS
from invmm_gate.runs.folder import RunFolder


def judge(
    folder: RunFolder,
    policy: Policy,
    *,
    waivers: Path | None = None,
    baseline: Path | None = None,
    today: datetime.date,
) -> Verdict:
    """Hold the records against the policy and write verdict.json."""
    listed: Sequence[Waiver] = load_waivers(waivers) if waivers else ()
    earlier: Sequence[Measurement] | None = RunFolder(baseline).measurements() if baseline else None
    verdict = decide(folder.data(), policy, listed, today=today, baseline=earlier)
    folder.write_verdict(verdict)
    return verdict


def report(folder: RunFolder, *, reveal: bool = False) -> tuple[Path, ...]:
    """Render every format from the records; the files written."""
    data = folder.data()
    images = _images(folder, data) if reveal else ReportImages()
    for form in FORMATS.values():
        folder.write(form.file, form.render(data, images, reveal))
    return tuple(folder.path / form.file for form in FORMATS.values())


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
    """Log the run to MLflow; where it can be seen. Raises PublishError; the verdict stands all the same."""
    from invmm_gate.tracking.mlflow_log import MlflowTracker

    return MlflowTracker(tracking_uri).publish(folder.data(), folder.path)
