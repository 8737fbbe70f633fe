"""The Great Expectations suite of a probe set: it decides in `invmm-gate probes validate`, and in no other command.

To hold a probe set against it in a data pipeline of your own:

    import great_expectations as gx
    from invmm_gate import probe_set_suite, probe_set_table

    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("probes")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(probe_set_suite(min_controls=20))
    check = context.validation_definitions.add(gx.ValidationDefinition(name="probes", data=batch, suite=suite))
    result = check.run(batch_parameters={"dataframe": probe_set_table(Path("probes"))})

Great Expectations and pandas take seconds to import, so they are imported when a suite is made or run.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.regular import write_whole
from invmm_gate.probes.checks import OWN_EXPECTATION, TABLE_COLUMNS, Check, CheckResult, Record, probe_set_checks
from invmm_gate.probes.manifest import read_rows
from invmm_gate.probes.validate import build_table

PROBE_SET: Final = "probe_set"
"""Name of the suite."""
_ROW_NUMBERS: Final = "COMPLETE"
"""The result format that names every failing row."""


def probe_set_suite(*, min_controls: int = 0, captions_required: bool = False) -> Any:
    """The `great_expectations.ExpectationSuite` that a probe set must pass before anything is measured.

    It checks the table that `probe_set_table` gives. Raises ConfigError without Great Expectations.
    """
    return _suite(probe_set_checks(min_controls=min_controls, captions_required=captions_required))


def probe_set_table(folder: Path) -> Any:
    """The manifest as a `pandas.DataFrame` with columns that say what its files really are; every image is decoded.

    Raises ProbeSetError where the manifest cannot be read as a table; ConfigError without pandas.
    """
    return _frame(build_table(read_rows(folder)))


def expected_results(
    table: Sequence[Record], checks: Sequence[Check], *, docs: Path | None = None
) -> tuple[CheckResult, ...]:
    """As `plain_results`, by Great Expectations; with `docs`, its data docs of this run go there as index.html.

    Raises ConfigError without Great Expectations, or if it cannot run a check; RunFolderError where `docs` cannot be
    written.
    """
    gx, _ = _packages()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("probes")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(_suite(checks))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=PROBE_SET, data=batch, suite=suite))
    result = validation.run(batch_parameters={"dataframe": _frame(table)}, result_format=_ROW_NUMBERS)
    if docs is not None:
        write_whole(docs / "index.html", _page(result), option="--docs")
    return _results(checks, result.to_json_dict()["results"])


def _suite(checks: Sequence[Check]) -> Any:
    gx, _ = _packages()
    return gx.ExpectationSuite(
        name=PROBE_SET, expectations=[_expectation(gx, number, check) for number, check in enumerate(checks)]
    )


def _expectation(gx: ModuleType, number: int, check: Check) -> Any:
    from invmm_gate.probes.custom_expectation import ExpectProbesToPass

    kind = ExpectProbesToPass if check.expectation == OWN_EXPECTATION else getattr(gx.expectations, check.expectation)
    return kind(**check.arguments, description=check.name, meta={"number": number, "name": check.name})


def _frame(table: Sequence[Record]) -> Any:
    """The table as a `pandas.DataFrame`; its cells keep their types, so that no id becomes a number."""
    _, pd = _packages()
    return pd.DataFrame(list(table), columns=list(TABLE_COLUMNS), dtype=object)


def _page(result: Any) -> str:
    """The page of the data docs that shows one validation."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    return str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result)))


def _packages() -> tuple[ModuleType, ModuleType]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read on import by versions that still have telemetry
    try:
        import great_expectations as gx
        import pandas as pd
    except ImportError as error:
        raise ConfigError(
            "the expectations of a probe set need Great Expectations and pandas",
            do="install them with `pip install --upgrade invmm-gate`",
        ) from error
    return gx, pd


def _results(checks: Sequence[Check], results: Sequence[dict[str, dict[str, object]]]) -> tuple[CheckResult, ...]:
    """Great Expectations groups its results by kind: put them back in the order of the checks."""
    by_number = {result["expectation_config"]["meta"]["number"]: result for result in results}  # type: ignore[index]
    found = []
    for number, check in enumerate(checks):
        result = by_number.get(number)
        if result is None or result["exception_info"].get("raised_exception", True):
            raise ConfigError(
                f"Great Expectations could not run the check {check.name!r}",
                do="install a version that works with `pip install --upgrade invmm-gate`",
            )
        rows = cast(list[int], result["result"].get("unexpected_index_list") or [])
        found.append(CheckResult(check=check, success=bool(result["success"]), rows=tuple(rows)))
    return tuple(found)
