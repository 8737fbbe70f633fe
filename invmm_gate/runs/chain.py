"""Which rows the gate wrote: before a row is written, its sha256 is noted in a chain that begins with the run.

A row that was edited, or is of another run, is then found when the run goes on and when it is judged. No key is
involved: who edits a row can write the chain anew, and only a signature tells.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import RunFolderError
from invmm_gate.files.atomic import append_line, explained, whole_lines
from invmm_gate.runs.layout import Stage

_DIGEST: Final = 64
_LINE: Final = 2 * _DIGEST + 2
"""Bytes of a line `<sha256 of the row> <sha256 of the last link and this row's>` with its newline."""


def note_row(chain: Path, row: str, *, root: Callable[[], str]) -> None:
    """Add a row's link. `root` is asked what the chain begins with where it has no link yet."""
    before = _last_link(chain) or root()
    digest = sha256(row.encode()).hexdigest()
    append_line(chain, f"{digest} {_link(before, digest)}")


def refuse_other_rows(folder: Path, stage: Stage, *, root: str) -> None:
    """Raise RunFolderError unless the stage's rows are those that its chain notes, and the chain hangs together."""
    noted, present = _noted(folder / stage.chain, root), set()
    for name in stage.rows:
        for number, line in enumerate(whole_lines(folder / name), start=1):
            digest = sha256(line).hexdigest()
            if digest not in noted:
                raise _refusal(f"{folder / name}:{number} is not as this run wrote it")
            present.add(digest)
    for number, digest in enumerate(noted, start=1):
        if digest not in present:
            raise _refusal(
                f"{folder / stage.chain}:{number} notes a row that is not there",
                do="give the command that wrote it again; else restore the file, or begin anew with another --out",
            )


def drop_unwritten(folder: Path, stage: Stage) -> None:
    """Take back the last link if its row was never written, as after a kill between the two; no other can be so."""
    chain = folder / stage.chain
    links = whole_lines(chain)
    rows = (line for name in stage.rows for line in whole_lines(folder / name))
    if links and links[-1][:_DIGEST].decode(errors="replace") not in {sha256(row).hexdigest() for row in rows}:
        try:
            os.truncate(chain, chain.stat().st_size - len(links[-1]) - 1)
        except OSError as error:
            raise explained(error, chain) from error


def _noted(chain: Path, root: str) -> list[str]:
    noted, before = [], root
    for number, line in enumerate(whole_lines(chain), start=1):
        digest, _, link = line.decode(errors="replace").partition(" ")
        if link != _link(before, digest):
            raise _refusal(f"{chain}:{number} does not follow from the run and the lines before it")
        noted.append(digest)
        before = link
    return noted


def _last_link(chain: Path) -> str:
    try:
        with chain.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return ""
            file.seek(-_LINE, os.SEEK_END)
            return file.read(_LINE)[-_DIGEST - 1 : -1].decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise explained(error, chain) from error


def _link(before: str, digest: str) -> str:
    return sha256(f"{before} {digest}".encode()).hexdigest()


def _refusal(found: str, do: str = "restore the file, or begin anew with another --out") -> RunFolderError:
    return RunFolderError(found, expected="records that nobody edited", do=do)
