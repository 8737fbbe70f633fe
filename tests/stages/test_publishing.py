"""MLflow logs what was decided and never decides: the verdict and its exit code stand whatever becomes of it."""

import json
import re
import socket
import sqlite3

import pytest

from invmm_gate.report.bands import INVMM_EDGES
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.report import to_publish
from invmm_gate.tracking.contents import publication_key
from invmm_gate.tracking.spool import read
from tests.stages.world import CAPTION, SOURCE, World, call


@pytest.fixture(scope="module")
def dead_server() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{sock.getsockname()[1]}"


def check_tracked(world: World, *extra: object):
    return call(*(argument for argument in world.arguments() if argument != "--no-track"), *extra)


def rows(database, query: str) -> list[tuple]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def undated_verdict(run):
    """A check that goes on after midnight is judged on another day."""
    return json.loads((run / "verdict.json").read_text()) | {"judged_on": ""}


def test_a_dead_server_changes_neither_verdict_nor_exit_code_and_the_run_is_sent_later(finished, dead_server, tmp_path):
    verdict = undated_verdict(finished.run)
    called = check_tracked(finished, "--tracking-uri", dead_server)
    assert called.code == 10
    assert "not published: no answer from MLflow at http://127.0.0.1" in called.err
    assert "the verdict stands" in called.err
    assert undated_verdict(finished.run) == verdict
    state = read(finished.run)
    assert (state.state, state.attempts) == ("pending", 1)
    assert "no answer" in state.last_error
    assert "secret" not in (finished.run / "publish.json").read_text() + called.err

    again = call("publish", finished.run)
    assert again.code == 11, "without another address it goes where it was to go"
    assert "127.0.0.1" in again.error
    assert read(finished.run).attempts == 2

    database = f"sqlite:///{tmp_path}/local.db"
    sent = call("publish", finished.run, "--tracking-uri", database)
    assert sent.code == 0, sent.err
    assert sent.out.startswith(f"logged: {database} (experiment invmm-gate, run ")
    assert sent.err == ""
    state = read(finished.run)
    assert (state.state, state.attempts, state.uri) == ("published", 0, database)
    assert state.place in sent.out
    assert rows(tmp_path / "local.db", "select value from tags where key = 'invmm.verdict'") == [("block",)]


def test_a_tracked_check_logs_to_a_database_in_the_working_folder_and_says_where(finished, tmp_path):
    called = check_tracked(finished, "--details", "--json")
    assert called.code == 10
    assert called.err == ""
    assert json.loads(called.out)["published"].startswith(f"sqlite:///{tmp_path}/mlflow.db")
    assert read(finished.run).state == "published"
    probes = rows(tmp_path / "mlflow.db", "select value from tags where key = 'invmm.probe' order by value")
    assert probes == [("p1",), ("p100000",), ("p100001",), ("p16",), ("p2",)]
    check_tracked(finished, "--details")
    assert len(rows(tmp_path / "mlflow.db", "select * from tags where key = 'invmm.key'")) == 1, "sent once"


def test_without_details_mlflow_gets_the_public_edition_and_no_run_or_figure_of_a_probe(finished, tmp_path):
    called = check_tracked(finished)
    assert called.code == 10
    database = tmp_path / "mlflow.db"
    sent = {path.name: path.read_text() for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert sent.keys() == {"report.html", "summary.md", "verdict.json", "probes.json"}
    for name in ("report.html", "summary.md", "verdict.json"):
        assert sent[name] == (finished.run / "public" / name).read_text()
    assert rows(database, "select value from tags where key in ('invmm.probe', 'mlflow.parentRunId')") == []
    assert rows(database, "select value from tags where key = 'invmm.edition'") == [("public",)]
    metrics = dict(rows(database, "select key, value from metrics"))
    assert metrics["inverted"] == 2
    assert metrics["invmm_min"] in INVMM_EDGES
    assert not {"evaluations", "confirmation_evaluations", "seconds"} & metrics.keys()
    table = json.loads(sent["probes.json"])
    assert table["columns"] == [
        "probe", "group", "category", "outcome", "invmm", "invmm_above", "hits", "trials", "prompt_kind",
        "likelihood_lower", "likelihood_nats",
    ]  # fmt: skip
    assert all(re.fullmatch(r"p-[0-9a-f]{16}", row[0]) for row in table["data"])

    again = call("publish", finished.run)
    assert again.out.removeprefix("logged: ").strip() in called.out, "sent once"
    assert call("publish", finished.run, "--details").out != again.out
    assert len(rows(database, "select * from tags where key = 'invmm.key'")) == 2


def test_the_tag_by_which_a_run_is_found_again_is_no_hash_of_exact_scores(finished, tmp_path):
    check_tracked(finished)
    (key,) = rows(tmp_path / "mlflow.db", "select value from tags where key = 'invmm.key'")
    exact = publication_key(RunFolder(finished.run).data())
    assert key[0] != exact
    assert key[0] == publication_key(to_publish(RunFolder(finished.run), details=False))


def test_no_track_sends_nothing_and_marks_nothing(checked, tmp_path):
    assert not (checked[0].run / "publish.json").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_revealed_report_stays_at_home_and_a_redacted_one_is_sent(finished, tmp_path):
    called = check_tracked(finished, "--reveal", "--details", "--tracking-uri", f"sqlite:///{tmp_path}/local.db")
    assert called.code == 10
    assert "data:image/png" in (finished.run / "report.html").read_text()
    sent = {path.name: path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"report.html", "summary.md", "verdict.json", "measurements.jsonl"} <= set(sent)
    assert {"results.sarif", "junit.xml", "scores.csv"} <= set(sent)
    assert "data:image" not in sent["report.html"].read_text()
    assert "BLOCK" in sent["report.html"].read_text().upper()
    assert rows(tmp_path / "local.db", "select * from tags where key = 'invmm.withheld'") == []


def test_private_texts_and_pixels_appear_nowhere_on_the_trackers_disk(finished, tmp_path):
    check_tracked(finished, "--reveal", "--details", "--tracking-uri", f"sqlite:///{tmp_path}/local.db")
    stored = [tmp_path / "local.db", *(path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file())]
    pictures = [path.read_bytes() for path in (finished.run / "copies").rglob("*.png")]
    assert pictures
    for path in stored:
        content = path.read_bytes()
        assert CAPTION.encode() not in content
        assert SOURCE.encode() not in content
        assert not any(picture in content for picture in pictures)
        assert not re.search(rb"data:image/(png|jpeg)", content)


def test_a_broken_marker_is_said_and_the_verdict_stands(finished):
    (finished.run / "publish.json").write_text("{}")
    called = check_tracked(finished)
    assert called.code == 10
    assert "publish.json is not a publish record" in called.err


def test_a_verdict_that_is_not_that_of_its_records_is_sent_to_nobody(finished, tmp_path):
    path = finished.run / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": "pass"}))
    refused = call("publish", finished.run, "--tracking-uri", f"sqlite:///{tmp_path / 'own.db'}")
    assert refused.code == 2
    assert "judged again, its records give other decision than verdict.json" in refused.error
    assert not (tmp_path / "own.db").exists()
    assert read(finished.run) is None
