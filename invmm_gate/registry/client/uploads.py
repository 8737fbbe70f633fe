"""Uploads of the gate to MLflow: logged models, and files of its own runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.connection import asked, is_missing, transferring
from invmm_gate.tracking.server import artefacts_beside

EXPERIMENT: Final = "invmm-gate"
"""The experiment that the gate's runs and the models that it logs belong to; the tracker's own."""
_MODEL_TYPE: Final = "diffusers"


@final
@dataclass(frozen=True, slots=True)
class Uploads:
    """Writes to the tracking side of the server. Every failure is a RegistryError."""

    uri: str
    client: Callable[[], Any]

    def log_model(self, name: str, files: Mapping[str, Path], *, run_id: str | None = None) -> str:
        """A new logged model of these files, by their paths in it; its source, `models:/m-...`.

        A folder of plain files cannot be registered as it is (`register_model("runs:/...")` fails on it, and leaves an
        empty model behind). What could not be sent whole is marked FAILED and never becomes a version.
        """
        with asked(self.uri, f"take the files of {name}"):
            client = self.client()
            made = client.create_logged_model(
                self._experiment(), name=name, source_run_id=run_id, model_type=_MODEL_TYPE
            )
            try:
                self._send(made.artifact_location, files)
            except Exception:
                client.finalize_logged_model(made.model_id, "FAILED")
                raise
            client.finalize_logged_model(made.model_id, "READY")
            return f"models:/{made.model_id}"

    def run_of(self, key: str) -> str:
        """The id of the run that the tracker published under this key."""
        with asked(self.uri, "tell of the gate's run"):
            wanted = f"tags.`invmm.key` = '{key}' and tags.`invmm.state` = 'published'"
            found = self.client().search_runs([self._experiment()], filter_string=wanted, max_results=1)
        if not found:
            raise RegistryError("the run that was just published is not there", do="try again")
        return str(found[0].info.run_id)

    def is_ours(self, run_id: str) -> bool:
        """Whether it is a run that the tracker published, in the gate's own experiment."""
        with asked(self.uri, "tell of the gate's run"):
            try:
                run = self.client().get_run(run_id)
            except Exception as error:
                if is_missing(error):
                    return False
                raise
            ours = str(run.info.experiment_id) == self._experiment()
            return ours and run.data.tags.get("invmm.state") == "published"

    def add_file(self, run_id: str, path: Path, folder: str) -> None:
        """Put one file into a folder of a run, in place of one of its name."""
        with asked(self.uri, f"take {path.name}"), transferring():
            self.client().log_artifact(run_id, str(path), folder)

    def _experiment(self) -> str:
        client = self.client()
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(EXPERIMENT, artifact_location=artefacts_beside(self.uri)))

    def _send(self, location: str, files: Mapping[str, Path]) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(location, tracking_uri=self.uri)
        with transferring():
            for path, local in files.items():
                if local.name != path.rpartition("/")[2]:
                    raise RegistryError(f"{local.name} would be stored as {path}", expected="the file's own name")
                store.log_artifact(str(local), path.rpartition("/")[0] or None)
