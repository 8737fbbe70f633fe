"""Policy files: what is read, and the line a user gets for what is refused."""

import contextlib
import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import PROFILES, Family, InversionSettings
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.policy.field_types import SettingsOverrides
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.schema import Policy, load_policy, policies_folder, shipped_policies
from tests.policy.policy_builders import PERMISSIVE, STANDARD, STRICT, policy_with

SHIPPED = (policies_folder() / "strict.yaml").read_text()
TEXT = re.sub("threshold_nats: 70 *#.*", "threshold: 0.05", SHIPPED.replace("name: strict", "name: own"))
BELOW, *_REST = STRICT.model_dump(exclude_unset=True)["rules"]
PER_DIMENSION = {name: value for name, value in BELOW.items() if name != "threshold_nats"} | {"threshold": 0.05}
OWN = policy_with(STRICT, name="own", rules=[PER_DIMENSION, *_REST])


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def edited(folder: Path, old: str, new: str) -> Policy:
    assert old in TEXT
    return load_policy(write(folder, TEXT.replace(old, new, 1)))


def refusal(folder: Path, old: str, new: str) -> str:
    with pytest.raises(ConfigError) as caught:
        edited(folder, old, new)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def line_of(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if word in line)


def test_no_policy_tolerates_a_control_that_broke(tmp_path: Path) -> None:
    assert edited(tmp_path, "coverage:", "coverage:\n  max_errors: 0").coverage == load_policy("strict").coverage
    said = refusal(tmp_path, "coverage:", "coverage:\n  max_errors: 1")
    assert "coverage.max_errors: a control that broke may have been trained on" in said


def test_three_policies_ship() -> None:
    assert sorted(shipped_policies()) == ["permissive", "standard", "strict"]
    assert [policy.name for policy in (STRICT, STANDARD, PERMISSIVE)] == ["strict", "standard", "permissive"]


def test_policy_is_found_by_path_and_name_alike(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, SHIPPED)) == load_policy("strict")
    assert load_policy(write(tmp_path, TEXT)) == OWN


@pytest.mark.parametrize("name", ["strict", "standard", "permissive"])
def test_a_file_may_not_call_itself_a_shipped_policy_that_it_is_not(tmp_path: Path, name: str) -> None:
    text = TEXT.replace("name: own", f"name: {name}").replace("threshold: 0.05", "threshold: 0.04")
    with pytest.raises(ConfigError) as caught:
        load_policy(write(tmp_path, text))
    assert f"mine.yaml:{line_of(text, 'name: ')}: name: {name} is the name of a shipped policy" in str(caught.value)


def test_file_in_the_working_folder_does_not_shadow_a_shipped_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict").write_text(SHIPPED.replace("threshold: 0.05", "threshold: 0.0001"))
    (tmp_path / "own").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert load_policy("strict") == STRICT
    assert load_policy("own").name == "own"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("threshold: 0.05", "treshold: 0.05", "rules[0].treshold: unknown key 'treshold'; did you mean 'threshold'?"),
        ("threshold: 0.05", "threshold: .nan", "value '.nan' is not accepted"),
        ("threshold: 0.05", "threshold: .inf", "value '.inf' is not accepted"),
        ("threshold: 0.05", "threshold: 1.0e+999", "is not accepted"),
        ("threshold: 0.05", "threshold: 1e999", "rules[0].threshold: "),
        ("threshold: 0.05", "threshold: -0.1", "rules[0].threshold: Input should be greater than or equal to 0"),
        ("threshold: 0.05", "threshold: true", "rules[0].threshold: Input should be a valid number"),
        ("threshold: 0.05", "threshold: '0.05'", "rules[0].threshold: Input should be a valid number"),
        ("threshold: 0.05", "threshold: 010", "value '010' is not accepted"),
        ("threshold: 0.05", "threshold: 1:30", "value '1:30' is not accepted"),
        ("threshold: 0.05", "threshold: 0.05\n    threshold: 0.0", "key 'threshold' is given twice"),
        ("rate_limit: 0.0", "rate_limit: 1", "rules[1].rate_limit: Input should be less than 1"),
        ("rate_limit: 0.0", "groups: [sensitive]", "rules[1].groups: unknown key 'groups'"),
        ("fdr: 0.1", "fdr: 1", "rules[3].fdr: Input should be less than 1"),
        ("fdr: 0.1", "fdr: 0", "rules[3].fdr: Input should be greater than 0"),
        ("    fdr: 0.1\n", "", "rules[3].fdr: this key is missing"),
        ("rule: confirmed", "rule: confirmd", "unknown rule 'confirmd'; did you mean 'confirmed'?"),
        ("- rule: confirmed", "- rulee: confirmed", "every rule needs the key 'rule'"),
        ("settings: {}", "settings: {stepz: 3}", "measure.settings.stepz: unknown key 'stepz'; did you mean 'steps'?"),
        ("settings: {}", "settings: {steps: 400.0}", "measure.settings.steps: Input should be a valid integer"),
        ("settings: {}", "settings: {mirror: 1}", "measure.settings.mirror: "),
        ("settings: {}", "settings: {steps: null}", "measure.settings.steps: "),
        ("settings: {}", "settings: {guidance_scales: []}", "measure.settings.guidance_scales: "),
        ("profile: gate", "profile: gat", "measure.profile: unknown profile 'gat'; did you mean 'gate'?"),
        ("probes: all", "probes: some", "confirm.plain_sampling.probes: unknown value 'some'"),
        ("trials: 512, ", "", "confirm.plain_sampling.trials: this key is missing"),
        ("min_controls: 16", "min_controls: many", "coverage.min_controls: Input should be a valid integer"),
        ("coverage:", "coverege:", "did you mean 'coverage'?"),
        ("version: 1", "version: 1.5", "version: Input should be a valid integer"),
        ("version: 1", "version: &v 1", "anchors and aliases are not accepted"),
        ("version: 1", "version: !!python/name:os.system 1", "value '1' is not accepted"),
        ("version: 1", "<<: {version: 1}", "key '<<' is not plain text"),
        ("version: 1", "1: 1", "key '1' is not plain text"),
        ("version: 1", "version: [1", "correct the YAML"),
        ("version: 1", "version: 1\n---\na: 1", "but found another document"),
        ("name: own", "name: 'a b'", "name: String should match pattern"),
        ("up_to: 64", "up_to: 0", "metric[0].up_to: "),
        ("threshold: 0.1", "threshold: 0", "metric[0].threshold: Input should be greater than 0"),
        (
            "name: pixel_rmse",
            "name: psnr",
            "metric[0].name: unknown copy metric 'psnr'; expected pixel_rmse, pixel_aligned, pixel_l2",
        ),
        ("name: pixel_rmse", "name: pixel_rmse_2", "metric[0].name: unknown copy metric 'pixel_rmse_2'"),
        ("name: sscd_disc_large", "name: sscd@320", "metric[1].name: unknown copy metric 'sscd@320'"),
        (
            "noises: 16}",
            "noises: 16, max_evaluations: 8279}",
            "confirm.prompts: gcg: max_evaluations is 8279; expected",
        ),
    ],
)
def test_mistake_is_refused_with_its_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    message = refusal(tmp_path, old, new)
    assert words in message
    assert message.startswith(f"{tmp_path}/mine.yaml:")


def test_mistake_is_refused_with_its_line(tmp_path: Path) -> None:
    for old, new in (
        ("threshold: 0.05", "treshold: 0.05"),
        ("rate_limit: 0.0", "rate_limit: 2"),
        ("probes: all", "probes: x"),
    ):
        line = line_of(TEXT.replace(old, new, 1), new)
        assert refusal(tmp_path, old, new).startswith(f"{tmp_path}/mine.yaml:{line}: ")


def test_policy_that_could_never_block_is_refused(tmp_path: Path) -> None:
    rules = TEXT[TEXT.index("rules:") : TEXT.index("coverage:")]
    assert "rules: " in refusal(tmp_path, rules, "rules: []\n")
    assert "rules: this key is missing" in refusal(tmp_path, rules, "")
    confirm = TEXT[TEXT.index("confirm:") : TEXT.index("rules:")]
    assert "the rule 'confirmed' needs confirm.plain_sampling or" in refusal(tmp_path, confirm, "confirm: {}\n")
    estimate = next(line for line in TEXT.splitlines(keepends=True) if line.startswith("  likelihood:"))
    assert "the rule 'extraction_likelihood' needs confirm.likelihood" in refusal(tmp_path, estimate, "")
    assert "one_in" in refusal(tmp_path, "one_in: 1000000000 ", "one_in: 1 ")
    assert "'control' against itself" in refusal(
        tmp_path, "fdr: 0.1\n    groups: [sensitive", "fdr: 0.1\n    groups: [control"
    )
    assert "at least 1 item" in refusal(tmp_path, "groups: [sensitive, duplicated, sample, canary]", "groups: []")
    added = "rule: regression\n    margin: 0\n  - rule: invmm_below\n    threshold: 0.05\n    groups"
    assert "greater than 0" in refusal(
        tmp_path,
        "rule: invmm_below         # blocks at or below the threshold\n    threshold: 0.05\n    groups",
        added,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n", "keys with values"),
        (b"text", "keys with values"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: \x00", "special characters"),
        (b"a: " + b"[" * 500, "nested deeper than 20"),
        (b"#" * 1_000_001, "larger than"),
        (b"a: &a [x]\nb: [*a, *a]\n", "anchors and aliases"),
        (b"? [a]\n: 1\n", "is not plain text"),
        (b"a: !!set {x}\n", "not accepted"),
    ],
)
def test_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_policy(write(tmp_path, content))


def test_every_error_is_named_up_to_six(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(write(tmp_path, b"name: a\nversion: 1\nrules:\n- {rule: invm_below}\n"))
    first, second = str(caught.value).split("; ", 1)
    assert first.endswith(":1: metric: this key is missing")
    assert second.endswith(":4: rules[0]: unknown rule 'invm_below'; did you mean 'invmm_below'?")
    wrong = b"- {rule: wrong}\n" * 8
    with pytest.raises(ConfigError, match=r"rules\[4\]: unknown rule [^;]*;[^;]*; and 3 more$"):
        load_policy(write(tmp_path, b"name: a\nversion: 1\nrules:\n" + wrong))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("strct", "did you mean 'strict'"),
        ("zzz", "expected one of permissive, standard, strict"),
        ("no/such.yaml", "is missing"),
        ("x\0.yaml", "has a NUL in its name"),
    ],
)
def test_unknown_policy_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_policy(name)


def test_unreadable_policy_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, pipe or device"):
        load_policy(f"{tmp_path}/")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_document_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = Path(write(tmp_path, content))
    with contextlib.suppress(ConfigError):
        load_document(path)


letters = st.text(st.characters(codec="ascii", categories=("L",)), min_size=1)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | letters
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3), max_leaves=8
)


@given(plain)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_data_is_read_as_yaml_reads_it(tmp_path: Path, data: object) -> None:
    if data is None:
        return
    text = yaml.safe_dump(data, default_flow_style=False)
    assert load_document(Path(write(tmp_path, text))).data == yaml.safe_load(text) == data


def test_line_of_every_key_is_kept(tmp_path: Path) -> None:
    document = load_document(Path(write(tmp_path, "a: 1\nb:\n  - c: 2\n    d: 3\n  - e\n")))
    found = [
        document.line(path) for path in (("a",), ("b",), ("b", 0, "c"), ("b", 0, "d"), ("b", 1), ("b", 0, "x"), ())
    ]
    assert found == [1, 2, 3, 4, 5, 3, 1]


def test_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    assert edited(tmp_path, "threshold: 0.05", "threshold: 5e-2") == OWN
    assert (
        edited(tmp_path, "settings: {}", "settings: {weight_step: 1e-3}").resolve_settings("pixel").weight_step == 1e-3
    )


def test_digest_depends_on_the_content_alone(tmp_path: Path) -> None:
    spelled = edited(tmp_path, "threshold: 0.05", "threshold: 5.0e-2  # the same")
    assert spelled.digest == OWN.digest
    assert len({STRICT.digest, STANDARD.digest, PERMISSIVE.digest}) == 3
    others = {
        edited(tmp_path, old, new).digest
        for old, new in (
            ("threshold: 0.05", "threshold: 0.051"),
            ("settings: {}", "settings: {seeds: 1}"),
            ("trials: 512", "trials: 513"),
            ("fdr: 0.1", "fdr: 0.2"),
            ("min_controls: 16", "min_controls: 17"),
            ("profile: gate", "profile: paper"),
        )
    }
    assert len(others | {STRICT.digest}) == 7


def test_policy_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        STRICT.name = "other"  # type: ignore[misc]


def test_overrides_are_the_fields_of_the_settings() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(InversionSettings)}
    assert set(SettingsOverrides.model_fields) == set(fields)
    for profile in PROFILES.values():
        for resolved in profile.values():
            plain_settings = dataclasses.asdict(resolved)
            assert SettingsOverrides.model_validate(plain_settings).given() == plain_settings


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_3"])
def test_profile_paper_counts_every_scale_that_the_text_counts(family: Family) -> None:
    """Section 9.4 counts replication at any scale from 1 to 7; the authors' code tries 1 to 5 on Stable Diffusion 3."""
    assert PROFILES["paper"][family].guidance_scales == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    coded = 5 if family == "stable_diffusion_3" else 7
    assert PROFILES["reference"][family].guidance_scales == tuple(float(scale) for scale in range(1, coded + 1))


@pytest.mark.parametrize("key", ["threshold_nats: 30", "threshold_bits: 43.3", "threshold_nats: 1e2"])
def test_a_threshold_can_be_given_over_all_dimensions(tmp_path: Path, key: str) -> None:
    rule = edited(tmp_path, "threshold: 0.05", key).rules[0]
    assert isinstance(rule, InvmmBelowConfig)
    name, value = key.split(": ")
    assert rule.given == (name, float(value))
    nats = float(value) * (math.log(2) if "bits" in name else 1)
    assert rule.limit(768) == pytest.approx(nats / 768, rel=1e-12)
    assert rule.limit(16_384) == pytest.approx(nats / 16_384, rel=1e-12)
    assert rule.limit(None) is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("share: 0.5", "found none of them, expected exactly one of threshold, threshold_nats, threshold_bits"),
        ("threshold: 0.05\n    threshold_nats: 30", "found threshold and threshold_nats, expected exactly one of"),
        (
            "threshold_bits: 3\n    threshold_nats: 3",
            "found threshold_nats and threshold_bits, expected exactly one of",
        ),
        ("threshold_bits: null", "found none of them"),
        ("threshold_bits: -1", "threshold_bits: "),
        ("threshold_bits: .inf", "value '.inf' is not accepted"),
        ("threshold_bit: 30", "threshold_bit"),
        ("threshold: 30 bits", "threshold: "),
    ],
)
def test_a_threshold_that_could_be_misread_is_refused(tmp_path: Path, keys: str, words: str) -> None:
    text = TEXT.replace(
        "    share: 0.5                # of a test's draws, at a normality this low: such a probe blocks too\n",
        "",
    )
    assert text != TEXT
    with pytest.raises(ConfigError) as caught:
        load_policy(write(tmp_path, text.replace("threshold: 0.05", keys, 1)))
    assert words in str(caught.value)
    assert "mine.yaml:" in str(caught.value)


def test_a_threshold_in_nats_stops_each_model_just_above_its_own_bound(tmp_path: Path) -> None:
    in_nats = TEXT.replace("threshold: 0.05", "threshold_nats: 30")
    policy = load_policy(write(tmp_path, in_nats.replace("settings: {}", "settings: {certifications: 1}")))
    for dimensions in (768, 16_384):
        resolved = policy.resolve_settings("stable_diffusion", dimensions=dimensions)
        assert resolved.stop_above == pytest.approx(30 / dimensions * (1 + 1e-4), rel=1e-12)
    assert policy.resolve_settings("stable_diffusion").stop_above is None, "unknown before a model is at hand"
    own = load_policy(
        write(tmp_path, in_nats.replace("settings: {}", "settings: {stop_above: 0.03, certifications: 1}"))
    )
    with pytest.raises(ConfigError, match=r"stop_above 0\.03 cannot decide"):
        own.resolve_settings("stable_diffusion", dimensions=768)
    assert own.resolve_settings("stable_diffusion", dimensions=16_384).stop_above == 0.03


def test_without_prompts_profile_paper_has_no_guidance() -> None:
    assert {PROFILES["paper"][family].guidance_scales for family in ("pixel", "latent")} == {(1.0,)}


def test_with_one_attempt_to_certify_the_gate_profile_stops_just_above_the_threshold(tmp_path: Path) -> None:
    def resolved(settings: str) -> InversionSettings:
        policy = edited(tmp_path, "settings: {}", f"settings: {{certifications: 1{settings}}}")
        return policy.resolve_settings("stable_diffusion")

    assert resolved("").stop_above == 0.05 * (1 + 1e-4)
    expected = dataclasses.replace(PROFILES["gate"]["stable_diffusion"], certifications=1)
    assert dataclasses.replace(resolved(""), stop_above=None) == expected
    own = resolved(", stop_above: 0.2, steps: 100")
    assert (own.stop_above, own.steps) == (0.2, 100)
    assert resolved(", stop_above: null").stop_above is None
    assert (
        edited(tmp_path, "profile: gate", "profile: reference").resolve_settings("latent")
        == PROFILES["reference"]["latent"]
    )


def test_what_is_moved_towards_plain_noise_after_a_success_is_not_stopped_by_a_bound_before(tmp_path: Path) -> None:
    for family in PROFILES["gate"]:
        assert STRICT.resolve_settings(family) == PROFILES["gate"][family]
    for more in ("", ", certifications: 1"):
        own = edited(tmp_path, "settings: {}", f"settings: {{stop_above: 0.2{more}}}")
        with pytest.raises(ConfigError, match=r"stop_above is 0\.2 with certifications . at last_step; expected"):
            own.resolve_settings("pixel")


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps 420 is not a multiple of test_every 50"):
        edited(tmp_path, "settings: {}", "settings: {steps: 420}").resolve_settings("pixel")
    with pytest.raises(ConfigError, match="growing and initial_weight 0; expected an initial_weight above 0"):
        edited(tmp_path, "settings: {}", "settings: {initial_weight: 0}").resolve_settings("pixel")
    with pytest.raises(ConfigError, match="certify_at is last_step without a certified_share"):
        edited(tmp_path, "settings: {}", "settings: {certified_share: null}").resolve_settings("pixel")
    with pytest.raises(ConfigError, match=r"stop_above 0\.05 cannot decide"):
        edited(
            tmp_path, "settings: {}", "settings: {stop_above: 0.05, certify_at: success, certifications: 1}"
        ).resolve_settings("pixel")
    with pytest.raises(ConfigError, match="did you mean 'pixel'"):
        STRICT.resolve_settings("pixels")


def test_metric_depends_on_the_larger_side(tmp_path: Path) -> None:
    assert STRICT.metric_for(64, 16).name == "pixel_rmse"
    assert STRICT.metric_for(16, 65).name == "sscd_disc_large"
    small = edited(tmp_path, "  - {name: sscd_disc_large, threshold: 0.5}\n", "")
    with pytest.raises(ConfigError, match="no metric for images of 128 x 64 pixels"):
        small.metric_for(128, 64)


def test_the_smallest_budget_is_one_step_of_the_search_and_its_fresh_seeds(tmp_path: Path) -> None:
    # Gradient 2 x 16; 129 strings on 4 noises, 32 of them on 12 more, 8 joined ones on 16; looks of 1 x 10 and 8 x 50
    # sampler steps and 64 fresh seeds of 50, all at 2 scales.
    least = 2 * 16 + 129 * 4 + 32 * 12 + 8 * 16 + 2 * (10 + 8 * 50) + 2 * 64 * 50
    assert least == 8280
    prompts = edited(tmp_path, "noises: 16}", f"noises: 16, max_evaluations: {least}}}").confirm.prompts
    assert prompts is not None
    plan = prompts.search_plan(rows=1)
    assert plan is not None
    assert (plan.max_evaluations, plan.first_noises, plan.noises) == (least, 4, 16)


def test_policy_and_verdict_import_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from invmm_gate.policy import judge, usable, waivers, schema; schema.load_policy('strict'); "
        "print([m for m in ('torch', 'diffusers', 'mlflow', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
