import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.errors import PublishError
from invmm_gate.tracking.mlflow_log import MlflowTracker
from invmm_gate.tracking.server import finite, safe_name, unique_names
from invmm_gate.tracking.spool import mark_published, pending, read, spool, without_credentials


def test_a_run_that_could_not_be_sent_is_found_and_sent_later(data, folder, server):
    for _ in range(2):
        with pytest.raises(PublishError) as caught:
            MlflowTracker("http://127.0.0.1:1").publish(data, folder)
        spool(folder, uri="http://127.0.0.1:1", error=str(caught.value))
    assert pending(folder.parent) == (folder,)
    state = read(folder)
    assert (state.state, state.attempts) == ("pending", 2)
    assert "no answer from MLflow" in state.last_error
    mark_published(folder, uri=server.uri, place=MlflowTracker(server.uri, "later").publish(data, folder))
    assert pending(folder.parent) == ()
    assert read(folder).state == "published"
    assert read(folder).place.startswith(server.uri)


def test_the_marker_never_holds_credentials(tmp_path):
    spool(tmp_path, uri="https://alice:secret@mlflow.example:5000/x")
    assert "secret" not in (tmp_path / "publish.json").read_text()
    assert json.loads((tmp_path / "publish.json").read_text())["uri"] == "https://mlflow.example:5000/x"
    assert without_credentials("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_marking_leaves_no_temporary_file(tmp_path):
    spool(tmp_path, uri=None)
    assert [path.name for path in tmp_path.iterdir()] == ["publish.json"]
    assert pending(tmp_path) == (tmp_path,)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "gone", "uri": ""}', '{"state": "pending"}', '{"x": 1}'])
def test_a_broken_marker_is_named(tmp_path, text):
    (tmp_path / "publish.json").write_text(text)
    with pytest.raises(PublishError, match=r"publish\.json is not a publish record"):
        read(tmp_path)


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(PublishError, match="cannot write"):
        spool(tmp_path / "gone", uri=None)


@given(st.text())
def test_every_name_becomes_one_that_mlflow_accepts(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(safe_name(name))
    _validate_param_name(safe_name(name))


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
def test_no_setting_is_lost_when_names_are_cleaned(items):
    assert sorted(unique_names(items).values()) == sorted(items.values())


def test_infinity_and_missing_numbers_are_not_logged():
    assert finite({"a": float("inf"), "b": float("nan"), "c": None, "d": 0}) == {"d": 0.0}
