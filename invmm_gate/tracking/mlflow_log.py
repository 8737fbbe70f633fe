"""Logs finished runs to MLflow: a parent run per gate run, child runs for the most memorized probes."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, final
from urllib.parse import urlsplit

from invmm_gate.core.errors import PublishError
from invmm_gate.core.run_records import RunData
from invmm_gate.core.version import __version__
from invmm_gate.tracking.contents import ProbeContents, RunContents, contents
from invmm_gate.tracking.server import (
    DEFAULT_URI,
    LATER,
    METRICS_PER_REQUEST,
    PARAMS_PER_REQUEST,
    absolute,
    artefacts_beside,
    batches,
    import_mlflow,
    require_reachable,
)
from invmm_gate.tracking.spool import without_credentials

_CHILD_RUNS_WITHIN: Final = 8.0
"""Seconds after which no further child run is begun: a slow server must not hold up a release."""


@final
class MlflowTracker:
    """Sends runs to one tracking server or database. Sets no global state of MLflow's."""

    def __init__(self, tracking_uri: str | None = None, experiment: str = "invmm-gate") -> None:
        self._uri, self._experiment = absolute(tracking_uri or DEFAULT_URI), experiment

    def publish(self, run: RunData, folder: Path, *, rendered: Mapping[str, str] = MappingProxyType({})) -> str:
        """Sends the run, once: equal inputs, results and verdict are found again, and a half-sent run is replaced.

        `rendered` files are sent in place of the folder's own of that name: the report without pictures, where the
        folder's shows them. Returns where it can be seen. Raises PublishError within about 10 s if the server is down.
        """
        sent = contents(run, folder, rendered=rendered)
        require_reachable(self._uri)
        try:
            mlflow = import_mlflow()
            client = mlflow.MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            return self._publish(client, mlflow.entities, sent)
        except PublishError:
            raise
        except Exception as error:  # MLflow, its HTTP client and its database each have their own kinds
            raise self._failed(error) from error

    def _publish(self, client: Any, entities: ModuleType, sent: RunContents) -> str:
        experiment = self._experiment_id(client)
        filter_string = f"tags.`invmm.key` = '{sent.key}'"
        for found in client.search_runs([experiment], filter_string=filter_string):
            if found.data.tags.get("invmm.state") == "published":
                return self._place(experiment, found.info.run_id)
            _delete(client, experiment, found.info.run_id)
        return self._place(experiment, _send(client, entities, experiment, sent))

    def _experiment_id(self, client: Any) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            return str(client.create_experiment(self._experiment, artifact_location=artefacts_beside(self._uri)))
        if found.lifecycle_stage != "active":
            raise PublishError(
                f"MLflow experiment {self._experiment} was deleted", expected="an active experiment", do="restore it"
            )
        return str(found.experiment_id)

    def _place(self, experiment: str, run: str) -> str:
        uri = without_credentials(self._uri).rstrip("/")
        if urlsplit(uri).scheme in ("http", "https"):
            return f"{uri}/#/experiments/{experiment}/runs/{run}"
        return f"{uri} (experiment {self._experiment}, run {run})"

    def _failed(self, error: Exception) -> PublishError:
        shown = without_credentials(self._uri)
        reason = str(error).replace(self._uri, shown)[:200]
        return PublishError(f"MLflow at {shown} did not take the run: {type(error).__name__}: {reason}", do=LATER)


def _delete(client: Any, experiment: str, run: str) -> None:
    """Takes away a half-sent run and its children; MLflow keeps deleted runs until its garbage collection."""
    for child in client.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{run}'"):
        client.delete_run(child.info.run_id)
    client.delete_run(run)


def _send(client: Any, entities: ModuleType, experiment: str, sent: RunContents) -> str:
    """The run's id. The tag that makes it count as published is the last thing written."""
    state = {"invmm.key": sent.key, "invmm.state": "publishing", "invmm.gate_version": __version__}
    run = str(client.create_run(experiment, tags=sent.tags | state, run_name=sent.name).info.run_id)
    now = int(time.time() * 1000)
    for params in batches(list(sent.params.items()), PARAMS_PER_REQUEST):
        client.log_batch(run, params=[entities.Param(name, value) for name, value in params])
    client.log_batch(run, metrics=[entities.Metric(name, value, now, 0) for name, value in sent.metrics.items()])
    client.log_inputs(run, [_probe_set(entities, sent)])
    for name, text in sent.files.items():
        client.log_text(run, text, name)
    shown = _send_probes(client, entities, experiment, (run, now, sent.probes))
    client.set_tag(run, "invmm.child_runs", f"{shown} of {int(sent.metrics['measured'])} probes, most memorized first")
    client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": "probes.json", "type": "table"}]))
    client.set_terminated(run, status="FINISHED")
    client.set_tag(run, "invmm.state", "published")
    return run


def _send_probes(
    client: Any, entities: ModuleType, experiment: str, children: tuple[str, int, tuple[ProbeContents, ...]]
) -> int:
    """Send child runs until the time is up; their number. probes.json holds all probes in any case."""
    parent, now, probes = children
    until = time.monotonic() + _CHILD_RUNS_WITHIN
    for number, probe in enumerate(probes):
        if time.monotonic() > until:
            return number
        _send_probe(client, entities, experiment, (parent, now, probe))
    return len(probes)


def _send_probe(client: Any, entities: ModuleType, experiment: str, child: tuple[str, int, ProbeContents]) -> None:
    parent, now, probe = child
    tags = probe.tags | {"mlflow.parentRunId": parent}
    run = client.create_run(experiment, tags=tags, run_name=probe.name).info.run_id
    single = [entities.Metric(name, value, now, 0) for name, value in probe.metrics.items()]
    curves = [entities.Metric(name, value, now, step) for name, value, step in probe.curves]
    for metrics in batches([*single, *curves], METRICS_PER_REQUEST):
        client.log_batch(run, metrics=metrics)
    client.set_terminated(run, status="FINISHED")


def _probe_set(entities: ModuleType, sent: RunContents) -> Any:
    """The probe set as a dataset input: digest and size, never its place or content. MLflow cuts digests at 36."""
    digest = sent.tags["invmm.probe_set_digest"]
    dataset = entities.Dataset(
        name="probe set",
        digest=digest[:36],
        source_type="invmm-gate probe set",
        source=json.dumps({"sha256": digest}),
        profile=json.dumps({"num_rows": int(sent.metrics["probes"])}),
    )
    return entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "probes")])
