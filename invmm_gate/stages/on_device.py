"""What the stages on the device share (less rows where memory runs out, images of copies), and confirm.json."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from invmm_gate.core.errors import MeasurementError, RunFolderError
from invmm_gate.core.progress import Progress
from invmm_gate.core.records import SelfCheck
from invmm_gate.models.read.inspect import changed_files
from invmm_gate.policy.coverage import MODEL_UNCHANGED_IN_CONFIRM
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import ConfirmRecord
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


def confirm_record(policy: Policy) -> ConfirmRecord:
    """The record that a policy's confirmations begin with."""
    return ConfirmRecord(policy=policy.digest, confirm=policy.confirm.plan(), rate_limit=rate_limit(policy))


def rate_limit(policy: Policy) -> float:
    """The smallest limit of the rules `confirmed`: above it the question of plain sampling is answered."""
    return min((rule.rate_limit for rule in policy.rules if isinstance(rule, ConfirmedConfig)), default=0.0)


def note_rows_in_confirm(folder: RunFolder, rows: int) -> None:
    """confirm.json says that the row count fell."""
    record = _record(folder)
    folder.note_confirmed(replace(record, reduced_rows=(*record.reduced_rows, rows)))


def model_unchanged_in_confirm(session: Session, folder: RunFolder) -> None:
    """Check, as in measuring, that the files are those that were inspected, after the last use of the model here."""
    note_check_in_confirm(folder, unchanged(session, MODEL_UNCHANGED_IN_CONFIRM))


def note_check_in_confirm(folder: RunFolder, check: SelfCheck) -> None:
    """confirm.json has the check: once if it passed, and again each time it did not."""
    record = _record(folder)
    if not check.passed or check.name not in {check.name for check in record.self_checks}:
        folder.note_confirmed(replace(record, self_checks=(*record.self_checks, check)))


def _record(folder: RunFolder) -> ConfirmRecord:
    record = folder.confirmed()
    if record is None:
        raise RunFolderError(f"{folder.path} lost its confirm.json", expected="the file as it was begun")
    return record
