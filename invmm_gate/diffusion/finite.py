"""Refuses tensors that hold NaN or infinity."""

from torch import Tensor

from invmm_gate.core.errors import MeasurementError


def refuse_non_finite(values: Tensor, source: str, *, do: str) -> None:
    """NaN is no copy to any metric, so it would pass for "not memorized". Raises MeasurementError."""
    if not bool(values.isfinite().all()):
        raise MeasurementError(f"{source} gave NaN or infinity", expected="finite values", do=do)
