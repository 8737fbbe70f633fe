"""A folder that `save_to_disk` of the library `datasets` wrote; that library reads it (extra `datasets`)."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard, final

from invmm_gate.core.errors import ConfigError, ModelError, ProbeSetError
from invmm_gate.curation.training_entries import Columns, Entry, path_problem
from invmm_gate.curation.training_rows import entry_of, name_of, used_columns
from invmm_gate.curation.training_tables import ROOM, ROWS_AT_ONCE
from invmm_gate.files.regular import read_probe_file
from invmm_gate.files.strict_json import parse_object
from invmm_gate.probes.tables import bounded

_STATE: Final = "state.json"
_INFO: Final = "dataset_info.json"
_SPLITS: Final = "dataset_dict.json"
_LIMIT: Final = 100_000_000
"""Bytes of these files."""
_KIND: Final = "a saved data set"
_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def is_saved(place: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes of a data set, or of several splits."""
    return ((place / _STATE).is_file() and (place / _INFO).is_file()) or (place / _SPLITS).is_file()


def the_split(place: Path) -> Path:
    """The folder of a data set, or of the only split in it. Raises ProbeSetError where there are several."""
    if not (place / _SPLITS).is_file():
        return place
    splits = _read(place, _SPLITS).get("splits")
    names = [str(name) for name in splits] if _is_list(splits) else []
    if len(names) != 1 or Path(names[0]).name != names[0]:
        raise ProbeSetError(
            f"{str(place)!r} holds the splits {', '.join(repr(name[:60]) for name in names[:8])}",
            expected="the images of training alone",
            do=f"name the folder of one, such as {str(place / 'train')!r}",
        )
    return place / names[0]


@final
class SavedDataset:
    """The rows of a saved data set, mapped into memory; an image is never decoded by the library."""

    root = None

    def __init__(self, place: Path, columns: Columns) -> None:
        self.place, self._columns = place, columns
        self._data = _load(place)
        self._used = used_columns(place, self._data.column_names, columns, embeds=True)
        if "image" not in self._used:
            raise ProbeSetError(
                f"{str(place)!r} has no column `image`, but {', '.join(self._data.column_names)[:200]}",
                expected="the images in a column of their own",
                do="name it with --column image=NAME",
            )

    def count(self) -> int:
        """Rows."""
        return int(self._data.num_rows)

    def names(self) -> Iterator[str]:
        """The path column; without one, the numbers of the rows."""
        if "path" not in self._used:
            return (self._name(None, position) for position in range(self.count()))
        return (self._name(row["path"], position) for position, row in self._rows({"path"}))

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows, some at a time."""
        for position, row in self._rows(set(self._used), only):
            where = f"{self.place}: row {position + 1}"
            yield entry_of(row, position, columns=self._columns, root=None, table=self.place, where=where)

    def _name(self, path: object, position: int) -> str:
        return name_of(path, position, root=None, table=self.place)

    def _rows(
        self, roles: Collection[str], only: Collection[int] | None = None
    ) -> Iterator[tuple[int, Mapping[str, object]]]:
        """(position, role -> cell) of all rows, or of some."""
        used = {role: name for role, name in self._used.items() if role in roles}
        data = self._data.select_columns(sorted(set(used.values())))
        for start in range(0, self.count(), ROWS_AT_ONCE):
            wanted = [at for at in range(start, min(start + ROWS_AT_ONCE, self.count())) if only is None or at in only]
            if not wanted:
                continue
            with bounded(ROOM, self.place, _KIND):
                rows = data[wanted[0] : wanted[-1] + 1].to_pylist()
            for at in wanted:
                yield at, {role: rows[at - wanted[0]][name] for role, name in used.items()}


def _load(place: Path) -> Any:  # datasets has no types that mypy could follow
    """The `datasets.Dataset`, in the format of Arrow. Raises ProbeSetError, and ConfigError without the library."""
    files = _files(place)
    datasets = _library(place)
    size = sum(file.stat().st_size for file in files)
    with bounded(ROOM + size, place, _KIND):
        try:
            data = datasets.Dataset.load_from_disk(str(place.absolute()), keep_in_memory=False)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from error
    return data.with_format("arrow")


def _files(place: Path) -> list[Path]:
    """The files of the data set, each in the folder itself. Raises ProbeSetError."""
    listed = _read(place, _STATE).get("_data_files")
    names = [item.get("filename") if isinstance(item, dict) else None for item in listed] if _is_list(listed) else []
    for name in names or [None]:
        stated = name if isinstance(name, str) else ""
        found = path_problem(place, stated) if Path(stated).name == stated else "lies elsewhere"
        if found or not (place / stated).is_file():
            raise ProbeSetError(
                f"{str(place / _STATE)!r} names the file {stated!r}, which {found or 'is missing'}",
                expected="files in the folder itself, as `save_to_disk` writes them",
                do="save the data set anew",
            )
    return [place / str(name) for name in names]


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _read(place: Path, name: str) -> dict[str, object]:
    try:
        return parse_object(read_probe_file(place / name, limit=_LIMIT), str(place / name))
    except ModelError as error:
        raise ProbeSetError(error.found, expected="a folder as `save_to_disk` writes it") from error


def _library(place: Path) -> Any:
    """The module, told before its import to fetch nothing. Raises ConfigError."""
    os.environ.update(_OFFLINE)
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{str(place)!r} is a saved data set, and `datasets` is not installed",
            expected="the extra `datasets`",
            do="run `pip install 'invmm-gate[datasets]'`",
        ) from error
    return datasets
