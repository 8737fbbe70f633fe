"""Out of memory: it is recognised, and the work goes on with half the rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.protocols import Progress
from invmm_gate.stages.session import Session


def fits(work: Callable[[], None]) -> bool:
    """Do the work; False if memory ran out. By then its tensors are free: nothing holds the exception any more."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def reduced(session: Session, progress: Progress, record: Callable[[int], None]) -> Session:
    """The session with half the rows, said and given to `record`. Raises MeasurementError where they cannot be halved.

    What is finished stands.
    """
    if session.slots == 1:
        raise MeasurementError(
            f"out of memory with {session.settings.batch_size} rows, the smallest batch",
            expected="memory for one probe",
            do="use a larger device, or a smaller measure.settings.batch_size in the policy",
        )
    session = replace(session, slots=session.slots // 2)
    torch.cuda.empty_cache()
    rows = session.slots * session.settings.batch_size
    progress.note(f"out of memory: the probes in flight start again with {rows} rows")
    record(rows)
    return session


@contextmanager
def memory_explained() -> Iterator[None]:
    """Out of memory where fewer rows would not help, as in loading the model, is a MeasurementError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        raise MeasurementError(f"out of memory: {reason}", do="use a larger device, or fewer --rows") from error


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether memory ran out: CUDA has a class for it, the CPU allocator only a message, Python another class."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
