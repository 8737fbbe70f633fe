import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.records import Interval, ModelFile
from invmm_gate.report import texts
from invmm_gate.report.charts import scale_for
from invmm_gate.report.view import warnings
from tests.policy.policy_builders import text_run


@given(st.text(alphabet=st.characters()))
def test_visible_text_holds_no_character_that_cannot_be_seen(text):
    shown = texts.visible(text)
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(char) for char in shown}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\U000e0041", "\\U000e0041"),
        ("Käfer 鳥 🐦", "Käfer 鳥 🐦"),
    ],
)
def test_visible_spells_out_what_a_reader_cannot_see(text, shown):
    assert texts.visible(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.00004567, "4.57e-05"),
        (3, "3"),
        (float("inf"), "not finite"),
        (123456.78, "1.23e+05"),
        (-0.5, "-0.5000"),
    ],
)
def test_scores_are_written_in_one_way(value, shown):
    assert texts.score(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.625, "62 %"),
        (0.0213, "2.1 %"),
        (1e-5, "< 0.1 %"),
        (0.99999, "> 99.9 %"),
        (float("nan"), "not finite"),
    ],
)
def test_percentages_never_round_to_certainty(value, shown):
    assert texts.percent(value) == shown


def test_intervals_name_their_method_and_confidence():
    value = Interval(low=0.0, high=0.0072, confidence=0.95, method="clopper_pearson")
    assert (texts.interval(value), texts.interval_kind(value)) == ("0 % to 0.7 %", "95 % Clopper-Pearson interval")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (3.21, "3.2 s"), (125, "2 min 05 s"), (3720, "1 h 02 min"), (3599.9, "1 h 00 min")],
)
def test_durations_use_the_largest_units_that_matter(seconds, shown):
    assert texts.duration(seconds) == shown


def test_settings_are_flattened_under_dotted_names():
    found = dict(texts.flattened({"b": {"y": [1.0, 2], "x": None}, "a": True, "c": {}}))
    assert found == {"a": "yes", "b.x": "none", "b.y": "[1.0, 2]", "c": "{}"}


@given(st.lists(st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: round(value, 9)), min_size=1))
def test_every_value_lies_on_its_axis_and_ticks_too(values):
    axis = scale_for(values, 110, 8)
    marks = [axis.at(value) for value in values] + [float(tick.at) for tick in axis.ticks()]
    assert all(7.9 <= mark <= 110.1 for mark in marks)
    assert len(axis.ticks()) <= 8


def test_shortened_text_shows_that_it_was_cut():
    assert texts.shortened("abcdef", 4) == "abc…"
    assert texts.shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("pipeline", "files", "said"),
    [
        ("StableDiffusionPipeline", ["text_encoder/model.safetensors"], None),
        ("StableDiffusion3Pipeline", ["text_encoder/model.safetensors"], None),
        ("StableDiffusion3Pipeline", ["text_encoder_3/model.safetensors"], "which text_encoder_3 read while"),
    ],
)
def test_a_score_that_the_caption_moves_is_said_to_be_one(pipeline, files, said):
    data = text_run()
    manifest = replace(data.run.model, files=tuple(ModelFile(path=path, size=1, sha256="0" * 64) for path in files))
    run = replace(data.run, model=manifest, inputs=replace(data.run.inputs, pipeline=pipeline))
    found = [text for text in warnings(replace(data, run=run)) if "depends on its caption" in text]
    assert (said in found[0]) if said else found == []


@pytest.mark.parametrize(
    ("pipeline", "caption", "said"),
    [
        ("PixArtAlphaPipeline", "A cat (orange)", "captions may be other prompts to some users: PixArtAlphaPipeline"),
        ("PixArtSigmaPipeline", "A cat, orange", None),
        ("StableDiffusionPipeline", "A cat (orange)", None),
    ],
)
def test_captions_that_a_users_pipeline_may_rewrite_are_counted(pipeline, caption, said):
    data = text_run()
    probes = tuple(replace(probe, caption=caption) for probe in data.run.probe_set.probes)
    probe_set = replace(data.run.probe_set, probes=probes)
    run = replace(data.run, probe_set=probe_set, inputs=replace(data.run.inputs, pipeline=pipeline))
    found = [text for text in warnings(replace(data, run=run)) if "other prompts" in text]
    assert (said in found[0]) if said else found == []
