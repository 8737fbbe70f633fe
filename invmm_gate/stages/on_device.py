"""What the stages on the device share: half the rows where memory runs out, images of copies, an unchanged model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.progress import Progress
from invmm_gate.core.records import SelfCheck
from invmm_gate.models.read.inspect import changed_files
from invmm_gate.runs.folder import RunFolder
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


def store_copies(folder: RunFolder, place: str, copies: Iterable[Float[Tensor, "3 height width"]]) -> tuple[str, ...]:
    """Write a probe's copies as `<place>-1.png` and so on; their names, relative to the run folder."""
    names = []
    for number, copy in enumerate(copies, start=1):
        names.append(f"{place}-{number}.png")
        folder.write(names[-1], to_png(copy))
    return tuple(names)


def to_png(image: Float[Tensor, "3 height width"]) -> bytes:
    """An image in [-1, 1] as PNG."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def unchanged(session: Session, name: str) -> SelfCheck:
    """Whether the model's files are those that were inspected. Every stage that used the model ends with it."""
    changed = changed_files(session.inputs.model)
    detail = f"changed during the run: {', '.join(changed[:10])}" if changed else "the files are as they were inspected"
    return SelfCheck(name=name, passed=not changed, detail=detail)
