"""Work on foreign files in a child process with limits: what goes wrong there ends the child alone."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ModelError

SECONDS: Final = 3600
"""Wall and CPU time of the child."""
_ANSWER, _FAULT = b"\0", b"\1"


def in_child(work: Callable[[], bytes], *, memory: int) -> bytes:
    """The result of `work`, done in a fork of this process that may take `memory` bytes more and write no file.

    The child computes with one thread, as PyTorch's data loaders do: a fork has none of its parent's threads.
    Raises ModelError with the exception that ended `work`, and where a limit ended the child.
    """
    forks = multiprocessing.get_context("fork")
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=_serve, args=(sender, work, memory))
    process.start()
    sender.close()
    try:
        reply = receiver.recv_bytes() if receiver.poll(SECONDS) else b""
    except (EOFError, OSError):
        reply = b""
    finally:
        process.kill()
        process.join()
        receiver.close()
    if reply[:1] == _ANSWER:
        return reply[1:]
    raise ModelError(
        reply[1:].decode() if reply else _ended(process.exitcode, memory),
        expected="a checkpoint that diffusers loads and draws with, as its users do",
        do="load it with diffusers' from_pretrained and call it once; what fails there fails here",
    )


def _ended(code: int | None, memory: int) -> str:
    return (
        f"the process in which diffusers loads the checkpoint ended without an answer (code {code}); it may take "
        f"{memory / 1e9:.1f} GB and {SECONDS // 60} minutes"
    )


def _serve(sender: Connection, work: Callable[[], bytes], memory: int) -> None:
    _limit(memory)
    _silence()
    try:
        reply = _ANSWER + work()
    except BaseException as error:  # whatever the libraries raise for this file, the parent must hear of it
        reply = _FAULT + f"diffusers cannot load this checkpoint or draw with it: {_said(error)}".encode()
    sender.send_bytes(reply)
    sender.close()


def _said(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _silence() -> None:
    """The libraries' warnings are for somebody who loads a model by hand."""
    nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    sys.stdout = sys.stderr = nothing
    for stream in (1, 2):
        os.dup2(nothing.fileno(), stream)
