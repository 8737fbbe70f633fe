import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from invmm_gate.core.errors import PublishError
from invmm_gate.report.formats import render_html
from invmm_gate.report.public_records import PublicNames, public
from invmm_gate.report.templates import ReportImages
from invmm_gate.tracking import mlflow_log
from invmm_gate.tracking.mlflow_log import MlflowTracker
from tests.tracking.conftest import CAPTION, IMAGE, PROMPT, SOURCE, fill, make_data


def parents(client, experiment="invmm-gate"):
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    return [run for run in runs if "invmm.key" in run.data.tags]


def children(client, parent):
    runs = client.search_runs([parent.info.experiment_id])
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def artefacts(client, run):
    return {item.path for item in client.list_artifacts(run.info.run_id)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_published_without_settings_lands_in_a_local_database(data, folder, here):
    place = MlflowTracker().publish(data, folder)
    assert (here / "mlflow.db").is_file()
    client = MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    (parent,) = parents(client)
    assert parent.info.run_id in place
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["invmm.verdict"] == "block"
    assert parent.data.tags["invmm.fingerprint"] == "f" * 64
    assert parent.data.tags["invmm.model_digest"] == "d" * 64
    assert parent.data.params["settings.steps"] == "150"
    assert parent.data.params["versions.odd _name__"] == "1"
    assert "device" not in parent.data.params, "it holds a private text"
    assert parent.data.metrics["invmm_min"] == 0.01
    assert parent.data.metrics["findings"] == 1
    assert parent.inputs.dataset_inputs[0].dataset.digest == "e" * 36
    wanted = {"verdict.json", "measurements.jsonl", "confirmations.jsonl", "report.html", "summary.md", "probes.json"}
    assert artefacts(client, parent) == wanted
    assert "invmm.withheld" not in parent.data.tags
    assert list((here / "mlartifacts").rglob("verdict.json"))


def test_each_probe_is_a_child_run_with_its_curve_and_no_number_for_a_missing_score(data, folder, server):
    MlflowTracker(server.uri, "children").publish(data, folder)
    client = MlflowClient(tracking_uri=server.uri)
    (parent,) = parents(client, "children")
    by_probe = {run.data.tags["invmm.probe"]: run for run in children(client, parent)}
    assert set(by_probe) == {"p-0", "p-1", "p-2"}
    assert "invmm" not in by_probe["p-0"].data.metrics
    assert by_probe["p-1"].data.metrics["invmm"] == 0.01
    assert by_probe["p-1"].data.metrics["confirmation_rate"] == 0.3
    history = client.get_metric_history(by_probe["p-1"].info.run_id, "seed 0/denoising_error")
    assert [point.step for point in history] == [0, 50, 100]
    assert "seed 0/closest_sample" not in by_probe["p-1"].data.metrics


def test_a_run_is_published_once_and_a_new_verdict_again(data, folder, server):
    tracker = MlflowTracker(server.uri, "once")
    first = tracker.publish(data, folder)
    assert tracker.publish(data, folder) == first
    client = MlflowClient(tracking_uri=server.uri)
    assert len(parents(client, "once")) == 1
    assert tracker.publish(replace(data, verdict=replace(data.verdict, decision="pass")), folder) != first
    assert tracker.publish(replace(data, measurements=data.measurements[:2]), folder) != first
    assert len(parents(client, "once")) == 3


def test_a_half_sent_run_is_replaced(data, folder, server):
    tracker = MlflowTracker(server.uri, "half")
    tracker.publish(data, folder)
    client = MlflowClient(tracking_uri=server.uri)
    (whole,) = parents(client, "half")
    client.set_tag(whole.info.run_id, "invmm.state", "publishing")
    tracker.publish(data, folder)
    (again,) = parents(client, "half")
    assert again.info.run_id != whole.info.run_id
    assert again.data.tags["invmm.state"] == "published"
    assert len(children(client, again)) == 3
    assert children(client, whole) == []


def test_nothing_private_reaches_the_server(data, folder, server):
    MlflowTracker(server.uri, "privacy").publish(data, folder)
    (server.disk / "control").write_bytes(CAPTION.encode())
    hits = {canary: grep(server.disk, canary) for canary in (CAPTION.encode(), SOURCE.encode(), PROMPT.encode())}
    assert hits == {CAPTION.encode(): ["control"], SOURCE.encode(): [], PROMPT.encode(): []}
    assert grep(server.disk, IMAGE) == grep(server.disk, b"918273645") == []
    (server.disk / "control").unlink()


def grep(folder, canary):
    return [path.name for path in folder.rglob("*") if path.is_file() and canary in path.read_bytes()]


def test_a_revealed_report_stays_at_home_and_the_run_says_so(data, folder, here):
    images = ReportImages(probes={"p-1": IMAGE})
    (folder / "report.html").write_text(render_html(data, images=images, reveal=True))
    (folder / "verdict.json").write_text(json.dumps({"message": CAPTION}))
    (folder / "summary.md").unlink()
    (folder / "summary.md").symlink_to("/etc/hostname")
    MlflowTracker().publish(data, folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    (parent,) = parents(client)
    assert artefacts(client, parent) == {"measurements.jsonl", "confirmations.jsonl", "probes.json"}
    assert parent.data.tags["invmm.withheld"] == "report.html, verdict.json"


def test_a_large_set_sends_few_child_runs_and_one_table_of_all(data, folder, here, monkeypatch):
    many = [replace(data.measurements[1], probe=f"p-{n}", invmm=0.5 - n / 1000) for n in range(200)]
    MlflowTracker().publish(replace(data, measurements=tuple(many)), folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    (parent,) = parents(client)
    shown = children(client, parent)
    assert 1 <= len(shown) <= 24
    assert "p-199" in {run.data.tags["invmm.probe"] for run in shown}
    (path,) = (here / "mlartifacts").rglob("probes.json")
    assert len(json.loads(path.read_text())["data"]) == 200


def test_a_slow_server_gets_no_further_child_runs(data, folder, here, monkeypatch):
    monkeypatch.setattr(mlflow_log, "_CHILD_RUNS_WITHIN", -1.0)
    MlflowTracker().publish(data, folder)
    (parent,) = parents(MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db"))
    assert parent.data.tags["invmm.child_runs"].startswith("0 of 3 probes")


def test_a_server_that_is_down_costs_seconds_and_leaves_one_line(data, folder):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{sock.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(PublishError, match="the verdict stands; run `invmm-gate publish RUN") as caught:
        MlflowTracker(uri).publish(data, folder)
    assert time.monotonic() - start < 10
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 11


def test_a_server_that_never_answers_costs_less_than_ten_seconds(data, folder):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        start = time.monotonic()
        with pytest.raises(PublishError, match="no answer from MLflow"):
            MlflowTracker(f"http://127.0.0.1:{sock.getsockname()[1]}").publish(data, folder)
        assert time.monotonic() - start < 10


def test_a_server_that_answers_only_errors_leaves_one_line(data, folder):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        threading.Thread(target=serve_errors, args=(sock,), daemon=True).start()
        start = time.monotonic()
        with pytest.raises(PublishError, match="did not take the run") as caught:
            MlflowTracker(f"http://127.0.0.1:{sock.getsockname()[1]}").publish(data, folder)
        assert time.monotonic() - start < 10
        assert "\n" not in str(caught.value)


def serve_errors(sock):
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_a_database_that_cannot_be_opened_is_one_line(data, folder, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"this is not a database, " * 500)
    with pytest.raises(PublishError, match=r"broken\.db cannot be written: file is not a database") as caught:
        MlflowTracker(f"sqlite:///{tmp_path}/broken.db").publish(data, folder)
    assert "\n" not in str(caught.value)


def test_a_database_that_cannot_be_written_costs_seconds_and_names_the_way_out(data, folder, tmp_path):
    (tmp_path / "folder.db").mkdir()
    locked = tmp_path / "locked.db"
    with closing(sqlite3.connect(locked)) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")
        for place, reason in (
            (tmp_path / "missing/mlflow.db", "is no folder that this user may write to"),
            (tmp_path / "folder.db", "unable to open database file"),
            (locked, "database is locked"),
        ):
            begun = time.monotonic()
            with pytest.raises(PublishError, match=rf"cannot be written: .*{reason}.*--no-track"):
                MlflowTracker(f"sqlite:///{place}").publish(data, folder)
            assert time.monotonic() - begun < 8


def test_a_deleted_experiment_is_named(data, folder, here):
    client = MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    client.delete_experiment(client.create_experiment("invmm-gate"))
    with pytest.raises(PublishError, match="experiment invmm-gate was deleted"):
        MlflowTracker().publish(data, folder)


def test_importing_the_tracker_is_cheap_and_publishing_leaves_global_settings_alone(tmp_path):
    code = (
        "import sys; import invmm_gate.tracking.mlflow_log, invmm_gate.tracking.spool;"
        "assert not {'mlflow', 'pandas', 'torch', 'jinja2'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_publishing_sets_no_global_tracking_uri(data, tmp_path, here):
    import mlflow

    before = mlflow.get_tracking_uri()
    MlflowTracker(f"sqlite:///{tmp_path}/other.db").publish(make_data("9" * 64), fill(Path(tmp_path / "r2"), data))
    assert mlflow.get_tracking_uri() == before
    assert (tmp_path / "mlartifacts").is_dir()


def test_of_a_public_edition_nothing_of_the_run_folder_and_no_probe_by_itself_is_sent(data, folder, here):
    edition = public(data, PublicNames.under(bytes(32), data.run.probe_set.probes))
    MlflowTracker().publish(edition, folder, rendered={"report.html": render_html(edition)})
    client = MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db")
    (parent,) = parents(client)
    assert children(client, parent) == []
    assert artefacts(client, parent) == {"report.html", "probes.json"}
    assert parent.data.tags["invmm.edition"] == "public"
    assert parent.data.tags["invmm.child_runs"] == "0 of 3 probes, most memorized first"
    assert (parent.data.metrics["invmm_min"], parent.data.metrics["replication_share_max"]) == (0.01, 1.0)
    assert "evaluations" not in parent.data.metrics
