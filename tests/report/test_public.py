"""Of the public edition nobody learns which images were tested, nor a single score: whatever the records hold."""

import dataclasses
import datetime
import re
import types
import typing
from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.intervals import clopper_pearson, wilson
from invmm_gate.core.marks import PUBLIC, WHOLE, only_public
from invmm_gate.core.records import Probe, ReplicationShare
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.files.strict_json import to_json
from invmm_gate.policy.controls import CONTROLS
from invmm_gate.policy.coverage import COVERAGE, METRIC, SELF_CHECK, SETTINGS
from invmm_gate.policy.rules.known import RULES
from invmm_gate.policy.soundness import RECORDS
from invmm_gate.report.bands import INVMM_EDGES, bound_band, score_band, share_band
from invmm_gate.report.formats import FORMATS, render_html
from invmm_gate.report.public_records import NOTE, WITHHELD, PublicNames, public
from invmm_gate.report.templates import ReportImages
from invmm_gate.report.texts import DESCRIPTIONS
from invmm_gate.report.to_markdown import render_summary
from invmm_gate.report.view import facts

KEY = bytes(range(32))


class Planting:
    """Records of any kind with a value of its own in every field."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.planted: dict[object, str] = {}

    def record(self, kind: type, path: str = "") -> Any:
        hints = typing.get_type_hints(kind)
        prefix = f"{path}." if path else ""
        return kind(
            **{item.name: self.value(hints[item.name], prefix + item.name) for item in dataclasses.fields(kind)}
        )

    def value(self, hint: Any, path: str) -> Any:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self.value(next(each for each in inner if each is not types.NoneType), path)
        if origin is typing.Literal:
            return inner[0]
        if origin is tuple:
            return tuple(self.value(each, path) for each in inner if each is not Ellipsis)
        if origin is dict:
            return {self.value(inner[0], path): self.value(str if inner[1] is object else inner[1], path)}
        if dataclasses.is_dataclass(hint):
            return self.record(typing.cast("type", hint), path)
        return self.leaf(hint, path)

    def leaf(self, hint: Any, path: str) -> Any:
        number = next(self.numbers)
        made = {
            str: f"canary{number:03}text",
            int: 900_000 + number,
            float: 0.1234567 + number / 1000,
            datetime.date: datetime.date(2031, 1, 1) + datetime.timedelta(days=number),
            bool: False,
        }[hint]
        if hint is not bool:
            self.planted[made] = path
        return made


@pytest.fixture
def planting() -> tuple[RunData, dict[object, str]]:
    grown = Planting()
    return grown.record(RunData), grown.planted


def leaves(value: Any) -> set[object]:
    if dataclasses.is_dataclass(value):
        return leaves([getattr(value, item.name) for item in dataclasses.fields(value)])
    if isinstance(value, dict):
        return leaves([*value, *value.values()])
    if isinstance(value, list | tuple):
        return set().union(*map(leaves, value))
    return {value}


def edition(data: RunData) -> RunData:
    return public(data, PublicNames.under(KEY, data.run.probe_set.probes))


def rendered(data: RunData) -> dict[str, str]:
    texts = {form.file: form.render(data, ReportImages(), False) for form in FORMATS.values()}
    verdict = {} if data.verdict is None else {"verdict.json": to_json(data.verdict)}
    return {name: text for name, text in texts.items() if isinstance(text, str)} | verdict


def spellings(value: object) -> set[str]:
    if isinstance(value, float):
        return {repr(value), f"{value:.4f}", f"{value:.6g}"}
    return {str(value), f"{value:,}"} if isinstance(value, int) else {str(value)}


def marked(kind: Any, path: str = "", *, whole: bool = False) -> set[str]:
    """The places in a record, at any depth, that are marked as public."""
    if not dataclasses.is_dataclass(kind):
        inner = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return set().union({path}, *(marked(each, path, whole=whole) for each in inner))
    hints = typing.get_type_hints(kind, include_extras=True)
    found: set[str] = set()
    for field in dataclasses.fields(kind):
        marks = getattr(hints[field.name], "__metadata__", ())
        if whole or PUBLIC in marks or WHOLE in marks:
            plain = typing.get_args(hints[field.name])[0] if marks else hints[field.name]
            found |= marked(plain, f"{path}.{field.name}".lstrip("."), whole=whole or WHOLE in marks)
    return found


def test_every_field_of_the_records_is_public_by_its_mark_or_gone(planting):
    data, planted = planting
    texts = [leaf for leaf in leaves(edition(data)) if isinstance(leaf, str)]
    others = leaves(edition(data)) - set(texts)
    survived = {
        path
        for value, path in planted.items()
        if value in others or (isinstance(value, str) and any(value in text for text in texts))
    }
    assert survived == marked(RunData) & set(planted.values())
    assert survived < set(planted.values())


def test_a_field_without_a_mark_is_left_out_and_one_that_nothing_can_replace_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Shown:
        told: typing.Annotated[str, PUBLIC]
        secret: str
        score: float | None

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Dated:
        day: datetime.date

    assert only_public(Shown(told="a", secret="b", score=0.1)) == Shown(told="a", secret="", score=None)
    with pytest.raises(TypeError, match="day: mark it as public"):
        only_public(Dated(day=datetime.date(2026, 1, 1)))


def test_what_is_gone_from_the_records_is_in_no_rendering(planting):
    data, planted = planting
    pages = rendered(edition(data))
    assert pages.keys() == {"report.html", "summary.md", "results.sarif", "junit.xml", "scores.csv", "verdict.json"}
    public_paths = marked(RunData)
    kept = {spelling for value, path in planted.items() if path in public_paths for spelling in spellings(value)}
    for value, path in planted.items():
        for spelling in spellings(value) - kept if path not in public_paths else ():
            assert not [name for name, page in pages.items() if spelling in page], (path, spelling)


def test_a_real_run_gives_away_no_id_text_digest_of_an_image_or_score(data):
    pages = "\n".join(rendered(edition(data)).values())
    private = {probe.id for probe in data.run.probe_set.probes} | {"old-17", "heron"}
    private |= {text for probe in data.run.probe_set.probes for text in (probe.path, probe.sha256, probe.caption)}
    private |= {probe.source for probe in data.run.probe_set.probes} | {"NaN", "Licensed stock image"}
    scores = [item.invmm for item in data.measurements if item.invmm is not None]
    private |= {spelling for score in scores for spelling in (repr(score), f"{score:.4f}", f"{score:.6g}")}
    assert [text for text in sorted(private) if re.search(rf"(?<![\w.]){re.escape(text)}(?![\w])", pages)] == []


def test_the_decision_the_counts_the_digests_and_the_limits_stay(data):
    shown = edition(data)
    for name in ("decision", "counts", "policy", "policy_digest", "model_digest", "records", "judged_on"):
        assert getattr(shown.verdict, name) == getattr(data.verdict, name)
    assert shown.digests == data.digests
    assert len(shown.measurements) == len(data.measurements)
    assert [item.outcome for item in shown.measurements].count("inverted") == 9
    assert {item.limit for item in shown.verdict.findings if item.rule == "invmm_below"} == {0.03}
    assert {item.limit for item in shown.verdict.findings if item.rule == "confirmed"} == {0.001}


def test_a_control_that_the_search_brought_out_is_told_without_its_prompt_and_is_no_confirmed_probe(data):
    prompt = "olive clock river prompt"
    found = replace(data.confirmations[0], probe="control-03", method="gcg", prompt=prompt, copies=())
    said = f"the prompt search brought out the control control-03 in 6 of 512 samples ({prompt})"
    open_ = Finding(rule="controls", effect="inconclusive", probe="control-03", message=said)
    findings = (*data.verdict.findings, open_)
    searched = replace(
        data, confirmations=(*data.confirmations, found), verdict=replace(data.verdict, findings=findings)
    )
    for shown in (searched, edition(searched)):
        assert [dict(facts(each))["confirmed"] for each in (data, shown)] == ["1", "1"]
        pages = rendered(shown)
        assert not [name for name, page in pages.items() if name != "verdict.json" and prompt in page]
    assert not [name for name, page in pages.items() if prompt in page]
    name = PublicNames.under(KEY, data.run.probe_set.probes).of("control-03")
    (told,) = [item for item in edition(searched).verdict.findings if item.probe == name]
    assert told.message == f"the control {name} looks as if it had been trained on"
    assert not [page for page in pages.values() if "control-03" in page]


def test_a_baselines_score_is_no_limit_that_is_told(data):
    found = Finding(rule="regression", effect="block", probe="face-00", message="fell from 0.071", limit=0.071)
    shown = edition(replace(data, verdict=replace(data.verdict, findings=(found,))))
    (finding,) = shown.verdict.findings
    assert (finding.value, finding.limit) == (None, None)
    assert finding.message == f"{finding.probe} is easier to reproduce than in the baseline"


def test_findings_waivers_measurements_and_confirmations_name_a_probe_alike(data):
    names = PublicNames.under(KEY, data.run.probe_set.probes)
    shown = public(data, names)
    waived = [finding for finding in shown.verdict.findings if finding.waiver]
    assert [finding.probe for finding in waived] == [names.of("planted08-06")]
    assert waived[0].waiver.probe == names.of("planted08-06")
    assert waived[0].waiver.reason == WITHHELD
    assert [state.waiver.probe for state in shown.verdict.waivers] == [names.of("planted08-06"), names.of("old-17")]
    assert names.of("old-17") in " ".join(shown.verdict.reasons)
    assert names.of("planted08-06") in {item.probe for item in shown.measurements}
    assert names.of("planted08-06") in {item.probe for item in shown.confirmations}
    assert names.of("planted08-06") in {item.id for item in shown.run.probe_set.probes}


def test_reasons_are_made_anew_and_count_the_controls_that_broke(data):
    broken = [replace(item, outcome="error") if item.group == "control" else item for item in data.measurements]
    shown = edition(replace(data, measurements=tuple(broken)))
    assert re.fullmatch(r"an input that a user could give replicates p-\w{16}", shown.verdict.reasons[0])
    assert "15 controls broke, which the policy allows for, and count against the model" in shown.verdict.reasons


def test_a_probe_that_both_samplers_replicate_is_one_reason_and_every_other_finding_is_counted(data):
    probes = [probe.id for probe in data.run.probe_set.probes][:12]
    both = [
        replace(data.verdict.findings[0], rule="confirmed", effect="block", probe=each) for each in (*probes, *probes)
    ]
    unwaived = tuple(replace(finding, waiver=None) for finding in both)
    told = edition(replace(data, verdict=replace(data.verdict, findings=unwaived, waivers=()))).verdict.reasons
    assert len(set(told[:10])) == 10
    assert told[10] == "and 4 more findings"


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_probe_set_shows_nowhere(random):
    probes = [replace(EXAMPLE, id=f"patient-{number}", sha256=sha(f"{number}")) for number in range(12)]
    data = Planting().record(RunData)
    found = [Finding(rule="confirmed", effect="block", probe=probe.id, message=probe.id) for probe in probes]
    records = [replace(data.measurements[0], probe=probe.id) for probe in probes]
    tried = [replace(data.confirmations[0], probe=probe.id) for probe in probes]

    def shuffled(items):
        return tuple(random.sample(items, len(items)))

    def run(order):
        run = replace(data.run, probe_set=replace(data.run.probe_set, probes=order(probes)))
        verdict = replace(data.verdict, findings=order(found))
        return edition(replace(data, run=run, measurements=order(records), confirmations=order(tried), verdict=verdict))

    assert run(shuffled) == run(tuple)


EXAMPLE = Probe(id="patient-smith-042", path="a.png", sha256="0" * 64, group="sensitive", line=2)


def sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_one_image_has_one_name_under_one_key_and_no_plain_hash():
    image = sha("image")
    names = PublicNames.under(KEY, [replace(EXAMPLE, sha256=image)])
    elsewhere = PublicNames.under(KEY, [EXAMPLE, replace(EXAMPLE, id="renamed", sha256=image)])
    other = PublicNames.under(bytes(32), [replace(EXAMPLE, sha256=image)])
    assert re.fullmatch(r"p-[0-9a-f]{16}", names.of(EXAMPLE.id))
    assert names.of(EXAMPLE.id) == elsewhere.of("renamed") != elsewhere.of(EXAMPLE.id)
    assert names.of(EXAMPLE.id) != other.of(EXAMPLE.id)
    assert names.of(EXAMPLE.id)[2:] not in image + sha(EXAMPLE.id) + sha(image)
    assert KEY.hex() not in repr(names)
    assert repr(KEY) not in repr(names)


def test_probes_of_one_image_and_ids_that_are_no_probe_keep_names_apart():
    names = PublicNames.under(KEY, [EXAMPLE, replace(EXAMPLE, id="again"), replace(EXAMPLE, id="third")])
    assert [names.of(probe) for probe in ("again", "third")] == [
        f"{names.of(EXAMPLE.id)}-2",
        f"{names.of(EXAMPLE.id)}-3",
    ]
    assert re.fullmatch(r"x-[0-9a-f]{16}", names.of("nobody"))
    assert names.of("nobody") != names.of("nobody-else")
    assert names.of_cluster("") == ""
    assert re.fullmatch(r"c-[0-9a-f]{16}", names.of_cluster("smith"))


@given(st.floats(min_value=0, max_value=100))
def test_a_score_is_at_most_its_band_and_a_bound_at_least(score):
    assert score <= score_band(score) in INVMM_EDGES
    assert score >= bound_band(score)
    assert bound_band(score) in (0.0, *INVMM_EDGES)
    assert score_band(score_band(score)) == score_band(score)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_has_no_band(value):
    assert score_band(value) is bound_band(value) is None


def test_beyond_the_table_a_score_is_its_last_edge():
    assert score_band(4_711.0) == bound_band(4_711.0) == 100.0


@given(st.integers(1, 600), st.data(), st.sampled_from([wilson, clopper_pearson]))
def test_a_share_is_at_most_its_band_with_an_interval_that_holds_and_tells_the_band_alone(trials, data, interval):
    hits = data.draw(st.integers(0, trials))
    shown = share_band(ReplicationShare(hits=hits, trials=trials, interval=interval(hits, trials)))
    assert hits <= shown.hits <= trials
    assert (shown.hits == 0) == (hits == 0)
    assert shown.trials == trials
    own = interval(hits, trials)
    assert shown.interval.low <= own.low + 1e-12
    assert own.high <= shown.interval.high + 1e-12
    most = ReplicationShare(hits=shown.hits, trials=trials, interval=interval(shown.hits, trials))
    assert share_band(most) == shown


@pytest.mark.parametrize(
    ("hits", "trials", "told"),
    [(0, 8, 0), (1, 8, 4), (5, 8, 8), (3, 512, 5), (6, 512, 51), (1, 128, 12), (1, 16, 8), (1, 1, 1)],
)
def test_counts_of_samples_are_told_as_the_readme_says(hits, trials, told):
    assert share_band(ReplicationShare(hits=hits, trials=trials, interval=wilson(hits, trials))).hits == told


@pytest.mark.parametrize(("hits", "trials"), [(9, 8), (-1, 8), (0, 0), (3, -2)])
def test_counts_that_cannot_be_are_told_as_some_band_all_the_same(hits, trials):
    shown = share_band(ReplicationShare(hits=hits, trials=trials, interval=wilson(0, 1)))
    assert 0 <= shown.hits <= max(trials, 0)


def test_every_rule_has_sentences_of_its_own():
    said = DESCRIPTIONS.items()
    assert {rule for rule, texts in said if texts.blocks} == set(RULES)
    assert {rule for rule, texts in said if texts.leaves_open} == {*RULES, COVERAGE, CONTROLS, RECORDS}
    of_run = {COVERAGE, CONTROLS, SELF_CHECK, RECORDS, METRIC, SETTINGS, "group_below_controls"}
    assert {rule for rule, texts in said if texts.of_run} == of_run


def test_a_finding_about_a_group_names_it_and_no_figure_of_it(data):
    message = "the group sensitive as a whole is more memorized than the controls: 9 of its 12 images lie below"
    found = Finding(
        rule="group_below_controls", effect="block", probe=None, group="sensitive", message=message, value=0.0123,
        limit=0.05,
    )  # fmt: skip
    (shown,) = edition(replace(data, verdict=replace(data.verdict, findings=(found,)))).verdict.findings
    assert shown.message == "the group sensitive as a whole is more memorized than the controls"
    assert (shown.group, shown.value, shown.limit) == ("sensitive", None, 0.05)


def test_report_and_summary_say_how_to_read_them_and_the_full_ones_do_not(data):
    shown = edition(data)
    assert NOTE in render_html(shown).replace("&#39;", "'")
    assert NOTE in render_summary(shown)
    assert "lowest InvMM, at most" in render_html(shown)
    assert "lowest InvMM, at most" in render_summary(shown)
    assert "Evaluations" not in render_html(shown)
    assert "Evidence per probe" not in render_html(shown)
    assert "the sha256 of this page" in render_html(shown)
    assert NOTE not in render_html(data) + render_summary(data)
    assert "the sha256 of public/report.html" in render_html(data)


def test_a_run_without_a_verdict_has_a_public_edition_too(data):
    shown = edition(replace(data, verdict=None))
    assert shown.verdict is None
    assert "NOT JUDGED" in render_summary(shown)


def test_captions_that_were_cut_are_counted_and_a_loras_folder_is_not_told(data):
    said = {"truncated_captions": {"face-00": 7}, "command": "invmm-gate check --model /home/ada/ckpt"}
    context = replace(data.run.context, **said)
    model = replace(data.run.model, path="/home/ada/ckpt", adapters=("/home/ada/style.safetensors",))
    shown = edition(replace(data, run=replace(data.run, context=context, model=model)))
    assert "1 captions are longer" in render_summary(shown)
    assert "1 LoRA adapters" in render_summary(shown)
    assert not [name for name, page in rendered(shown).items() if "ada/" in page]
