import great_expectations as gx

from invmm_gate import probe_set_suite, probe_set_table
from invmm_gate.probes.validate import check_probe_set, validate_probe_set
from tests.probes.conftest import edit


def test_users_of_great_expectations_can_run_the_suite_themselves(probe_folder):
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("probes")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(probe_set_suite(min_controls=2))
    check = context.validation_definitions.add(gx.ValidationDefinition(name="probes", data=batch, suite=suite))
    assert check.run(batch_parameters={"dataframe": probe_set_table(probe_folder)}).success
    edit(probe_folder, "control,,picture 2", "controls,,picture 2")
    result = check.run(batch_parameters={"dataframe": probe_set_table(probe_folder)})
    failed = {item.expectation_config.meta["name"] for item in result.results if not item.success}
    assert failed == {"at least 2 controls", "group known"}


def test_a_sound_probe_set_carries_what_its_suite_found(probe_folder):
    found = validate_probe_set(probe_folder, min_controls=2)
    assert (found.manifest, found.checks.name, found.checks.success, found.checks.rows) == (
        "manifest.csv",
        "probe_set",
        True,
        4,
    )
    names = [item.name for item in found.checks.expectations]
    assert names == [item.name for item in check_probe_set(probe_folder, min_controls=2).expectations]
    assert {item.failing for item in found.checks.expectations} == {0}
