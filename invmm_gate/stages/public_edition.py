"""The public edition of a run folder: the key of its names, and the files that may be handed on."""

import os
import secrets
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.files.regular import PRIVATE_MODES, read_small
from invmm_gate.files.strict_json import to_json
from invmm_gate.report.formats import render_html
from invmm_gate.report.public_records import PublicNames, public
from invmm_gate.report.to_markdown import render_summary
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import VERDICT

PUBLIC: Final = "public"
PUBLIC_REPORT: Final = "report.html"
PUBLIC_FILES: Final = tuple(f"{PUBLIC}/{name}" for name in (PUBLIC_REPORT, "summary.md", VERDICT))
"""By their names in the run folder."""

KEY_FILE: Final = "public-ids.key"
KEY_VARIABLE: Final = "INVMM_GATE_PUBLIC_IDS_KEY"
"""Names the file of a key for all runs, under which one image has one name in all of them."""
_KEY_BYTES: Final = 32


def public_names(folder: RunFolder, run: RunRecord) -> PublicNames:
    """The names of the run's probes outside its folder. Raises ConfigError for a key that cannot be used.

    Without a key for all runs the folder has one of its own, made when it is first needed and kept from then on.
    """
    return PublicNames.under(shared_key() or _own_key(folder), run.probe_set.probes)


def public_data(folder: RunFolder, data: RunData) -> RunData:
    """The folder's records as anybody may see them. Raises ConfigError."""
    return public(data, public_names(folder, data.run))


def public_files(edition: RunData) -> dict[str, str]:
    """The edition's files by name; the same records and key give the same bytes. No verdict.json without a verdict."""
    verdict = {} if edition.verdict is None else {VERDICT: to_json(edition.verdict, indent=2) + "\n"}
    return {PUBLIC_REPORT: public_report(edition), "summary.md": render_summary(edition)} | verdict


def public_report(edition: RunData) -> str:
    """The report that an attestation names: it travels, and can be held against the attestation where it arrives."""
    return render_html(edition)


def write_public_files(folder: RunFolder, data: RunData) -> tuple[Path, ...]:
    """The files of the public edition, and none of an earlier verdict."""
    written = {f"{PUBLIC}/{name}": text for name, text in public_files(public_data(folder, data)).items()}
    for name, text in written.items():
        folder.write(name, text)
    folder.forget(*(name for name in PUBLIC_FILES if name not in written))
    return tuple(folder.path / name for name in written)


def shared_key() -> bytes | None:
    """The key for all runs, where one is named: asked for before anything is measured. Raises ConfigError."""
    named = os.environ.get(KEY_VARIABLE)
    return _read_key(Path(named)) if named else None


def require_usable_key(folder: RunFolder) -> None:
    """Raise ConfigError for a key that the run's names could not be made with: asked before anything is measured."""
    if shared_key() is None and (folder.path / KEY_FILE).exists():
        _own_key(folder)


def _own_key(folder: RunFolder) -> bytes:
    path = folder.path / KEY_FILE
    if not path.exists():
        folder.write(KEY_FILE, secrets.token_bytes(_KEY_BYTES))  # through a temporary file, which has mode 0600
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    key = read_small(path, what="the key of the public names", limit=_KEY_BYTES, modes=PRIVATE_MODES)
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"{str(path)!r} holds {len(key)} bytes",
            expected=f"the key of the public names: {_KEY_BYTES} random bytes",
            do=f"restore it, or make one: head -c {_KEY_BYTES} /dev/urandom > KEY && chmod 600 KEY",
        )
    return key
