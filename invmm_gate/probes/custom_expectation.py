"""Our own expectation, for what no native one can ask: images, hashes, paths. Importing it takes seconds."""

from typing import Any, Final

import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import MulticolumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    MulticolumnMapMetricProvider,
    multicolumn_condition_partial,
)

from invmm_gate.probes.checks import probe_set_checks

_METRIC: Final = "multicolumn_values.pass_probe_check"
_PROBLEMS: Final = {check.name: check.problem for check in probe_set_checks(min_controls=0, captions_required=True)}


class ProbesPass(MulticolumnMapMetricProvider):  # type: ignore[misc]  # its package has no types
    """Which rows pass the plain check of a name."""

    condition_metric_name = _METRIC
    condition_domain_keys = ("batch_id", "table", "column_list", "row_condition", "condition_parser", "ignore_row_if")
    condition_value_keys = ("check",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: Any, check: str, **_: object) -> Any:  # noqa: N805  # it becomes a class method
        passed = [not _PROBLEMS[check](record) for record in column_list.to_dict("records")]
        return pd.Series(passed, index=column_list.index, dtype=bool)


class ExpectProbesToPass(MulticolumnMapExpectation):  # type: ignore[misc]
    """Every row passes the check of `probes/checks.py` with the name `check`."""

    check: str
    map_metric = _METRIC
    success_keys = ("check", "mostly")
    args_keys = ("column_list", "check")
