import os
import posixpath
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import FITS, GROUPS, Probe
from invmm_gate.probes import parquet_manifest
from invmm_gate.probes.fields import COLUMNS, check_columns, path_text_problem
from invmm_gate.probes.manifest import SIZE_LIMIT, probe_set_digest, read_manifest, read_rows, write_manifest
from invmm_gate.probes.validate import check_probe_set
from tests.probes.conftest import edit

HEADER = ",".join(COLUMNS)
SHA = "ab" * 32
BAD_MULTIPLICITIES = ("0", "-1", "1.0", "2.5", "eight", "1e3", "08", " 8", "+8", "1_000", "1234567890", "٣", "NaN")


def folder_with(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    (tmp_path / "manifest.csv").write_bytes("\n".join([header, *rows, ""]).encode())
    return tmp_path


def row(**changes: str) -> str:
    values = {"id": "a", "path": "images/a.png", "sha256": SHA, "group": "control"} | changes
    return ",".join(values.get(column, "") for column in COLUMNS)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
listed = st.lists(
    st.builds(
        Probe,
        id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
        path=st.integers(0, 10**9).map(lambda number: f"images/{number}.png"),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        group=st.sampled_from(GROUPS),
        line=st.just(0),
        category=text,
        caption=text,
        cluster=text,
        source=text,
        licence=text,
        added_on=st.sampled_from(["", "2026-02-28"]),
        fit=st.sampled_from(["", *FITS]),
        label=st.sampled_from([None, 0, 1, 999_999_999]),
    ),
    max_size=5,
    unique_by=(lambda probe: probe.id.casefold(), lambda probe: probe.path),
)
planted = st.sampled_from([0, 1, 64, 999_999_999])
probes = st.tuples(listed, st.lists(planted, min_size=5, max_size=5)).map(
    lambda drawn: [
        replace(probe, multiplicity=often if probe.group == "canary" else 0)
        for probe, often in zip(drawn[0], drawn[1], strict=False)
    ]
)


@settings(max_examples=80, deadline=None)
@given(probes=probes)
def test_what_is_written_is_read_back_whatever_the_captions_hold(
    tmp_path_factory: pytest.TempPathFactory, probes: list[Probe]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    write_manifest(folder, probes)
    assert [replace(probe, line=0) for probe in read_manifest(folder)] == probes
    assert [path.name for path in folder.iterdir()] == ["manifest.csv"]


@settings(deadline=None)
@given(probes=probes, seed=st.integers(0, 9))
def test_the_digest_ignores_order_and_lines_but_no_content(probes: list[Probe], seed: int) -> None:
    digest = probe_set_digest(probes)
    shuffled = [replace(probe, line=number) for number, probe in enumerate(probes)]
    random.Random(seed).shuffle(shuffled)
    assert probe_set_digest(shuffled) == digest
    for index, probe in enumerate(probes):
        for column in COLUMNS:
            changed = [*probes[:index], replace(probe, **{column: getattr(probe, column) + "x"}), *probes[index + 1 :]]
            assert probe_set_digest(changed) != digest


def test_the_digest_does_not_change_between_releases() -> None:
    probe = Probe(id="a", path="images/a.png", sha256=SHA, group="control", line=2)
    assert probe_set_digest([probe]) == "0e057ecb46a093404f490cd98078a4d2b9967debd2c30680f0f13c1ae98b37fa"


def test_a_manifest_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "\r\n".join([HEADER, "", row(caption='"two,\r\nlines"'), row(id="b", path="images/b.png"), ""])
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_manifest(tmp_path)
    assert (first.line, first.caption) == (3, "two,\r\nlines")
    assert second.line == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "id is empty"),
        ({"id": "../a"}, "cannot name a file"),
        ({"id": ".a"}, "cannot name a file"),
        ({"id": "a" * 129}, "cannot name a file"),
        ({"id": "a\x1b[2J"}, r"'a\\x1b[2J' cannot name a file"),
        ({"id": "é"}, "cannot name a file"),
        ({"path": "/etc/passwd"}, "is absolute"),
        ({"path": "C:/a.png"}, "is absolute"),
        ({"path": "../a.png"}, "leads upwards"),
        ({"path": "images/../../a.png"}, "leads upwards"),
        ({"path": r"images\a.png"}, "plain form"),
        ({"path": "./a.png"}, "plain form"),
        ({"path": "images//a.png"}, "plain form"),
        ({"path": "images/a\0.png"}, "NUL"),
        ({"sha256": SHA[:-1]}, "is not a sha256"),
        ({"sha256": SHA.upper()}, "64 lower-case"),
        ({"group": "controls"}, "expected one of sensitive, duplicated, sample, control, canary"),
        ({"added_on": "21.11.2026"}, "YYYY-MM-DD"),
        ({"added_on": "2026-02-30"}, "YYYY-MM-DD"),
        ({"added_on": "20260221"}, "YYYY-MM-DD"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    folder = folder_with(tmp_path, row(id="ok", path="images/ok.png"), row(**changes))
    with pytest.raises(ProbeSetError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/manifest.csv:3: ")
    assert said.replace("\\\\", "\\") in message
    assert "\n" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("group", "value", "said"),
    [
        *(("canary", value, "expected a whole number from 1") for value in BAD_MULTIPLICITIES),
        *((group, "8", "expected it for group canary alone") for group in GROUPS if group != "canary"),
    ],
)
def test_a_multiplicity_is_a_whole_number_and_for_canaries_alone(
    tmp_path: Path, group: str, value: str, said: str
) -> None:
    header = f"{HEADER},multiplicity"
    folder = folder_with(tmp_path, row(group=group) + f",{value}", header=header)
    with pytest.raises(ProbeSetError, match=r"manifest.csv:2: multiplicity ") as caught:
        read_manifest(folder)
    assert said in str(caught.value)
    (problem,) = [text for text in check_probe_set(folder).lines() if ": multiplicity " in text]
    assert problem == str(caught.value)


def test_a_multiplicity_is_in_the_digest_and_a_manifest_without_one_is_what_it_was(tmp_path: Path) -> None:
    canary = Probe(id="a", path="images/a.png", sha256=SHA, group="canary", line=2)
    assert len({probe_set_digest([replace(canary, multiplicity=often)]) for often in (0, 1, 2)}) == 3
    write_manifest(tmp_path, [canary])
    assert "multiplicity" not in (tmp_path / "manifest.csv").read_text()
    with pytest.raises(ProbeSetError, match="'a' cannot be written: multiplicity '3' is given for the group 'control'"):
        write_manifest(tmp_path, [replace(canary, group="control", multiplicity=3)])


@pytest.mark.parametrize("value", ["-1", "01", "1.0", "cat", "1000000000", "٢"])
def test_a_label_is_the_number_of_a_class(tmp_path: Path, value: str) -> None:
    folder = folder_with(tmp_path, row() + f",{value}", header=f"{HEADER},label")
    with pytest.raises(ProbeSetError, match=r"manifest.csv:2: label .* is no class label") as caught:
        read_manifest(folder)
    (problem,) = [text for text in check_probe_set(folder).lines() if ": label " in text]
    assert problem == str(caught.value)
    assert problem.endswith('in pandas, save the column as "Int64"') == (value == "1.0")


def test_a_label_is_in_the_digest_and_a_manifest_without_one_is_what_it_was(tmp_path: Path) -> None:
    probe = Probe(id="a", path="images/a.png", sha256=SHA, group="sample", line=2)
    assert len({probe_set_digest([replace(probe, label=label)]) for label in (None, 0, 1)}) == 3
    write_manifest(tmp_path, [probe])
    assert "label" not in (tmp_path / "manifest.csv").read_text()
    write_manifest(tmp_path, [replace(probe, label=0)])
    assert read_manifest(tmp_path) == (replace(probe, label=0),)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
def test_a_parquet_manifest_may_hold_labels_as_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {name: ["", ""] for name in COLUMNS}
    columns |= {"id": ["a", "b"], "path": ["a.png", "b.png"], "sha256": [SHA, SHA], "group": ["canary", "control"]}
    labels = pa.array([0, None], pa.int64()).cast(kind)
    pq.write_table(pa.table({**columns, "label": labels}), tmp_path / "manifest.parquet")
    assert [probe.label for probe in read_manifest(tmp_path)] == [0, None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
def test_a_parquet_manifest_may_hold_multiplicities_as_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {name: ["", ""] for name in COLUMNS}
    columns |= {"id": ["a", "b"], "path": ["a.png", "b.png"], "sha256": [SHA, SHA], "group": ["canary", "control"]}
    often = pa.array([16, None], pa.int64()).cast(kind)
    pq.write_table(pa.table({**columns, "multiplicity": often}), tmp_path / "manifest.parquet")
    assert [probe.multiplicity for probe in read_manifest(tmp_path)] == [16, 0]


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), -4.0, 0.0, True])
def test_a_parquet_manifest_with_another_number_is_refused_with_its_line(tmp_path: Path, value: float) -> None:
    columns = {name: [""] for name in COLUMNS}
    columns |= {"id": ["a"], "path": ["a.png"], "sha256": [SHA], "group": ["canary"], "multiplicity": [value]}
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    with pytest.raises(ProbeSetError, match=r"manifest.parquet:2: (the )?multiplicity"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ([row(id="Cat", path="images/1.png"), row(id="cat", path="images/2.png")], 3, "id 'cat' is also on line 2"),
        ([row(id="1"), row(id="2", path="images/A.png")], 3, "path 'images/A.png' is also on line 2"),
        ([row(id="1", path="é.png"), row(id="2", path="e\u0301.png")], 3, "is also on line 2"),
        ([row(), "b,images/b.png"], 3, "2 fields; expected 10"),
        ([row(), row() + ","], 3, "11 fields; expected 10"),
        ([row(caption='"open')], 2, "cannot be read as CSV"),
    ],
)
def test_rows_that_clash_or_break_are_named_with_their_line(
    tmp_path: Path, rows: list[str], line: int, said: str
) -> None:
    folder = folder_with(tmp_path, *rows)
    with pytest.raises(ProbeSetError) as caught:
        read_manifest(folder)
    assert str(caught.value).startswith(f"{folder}/manifest.csv:{line}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (HEADER.replace(",licence", ""), "lacks 'licence'"),
        (HEADER + ",consent", "has the unknown 'consent'"),
        (HEADER + ",id", "repeats 'id'"),
        (HEADER.replace(",", ";"), "separated by semicolons; expected commas"),
        (HEADER.replace(",", "\t"), "separated by tabs"),
        (HEADER.replace(",", "|"), "separated by vertical bars"),
        ('"' + HEADER.replace(",", '";"') + '"', "separated by semicolons"),
        ("sep=;", "separated by semicolons"),
        (HEADER + ",x" * 500_000, "and repeats 'x'"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(ProbeSetError, match=r"manifest.csv:1: ") as caught:
        read_manifest(folder_with(tmp_path, header=header))
    assert said in str(caught.value)
    assert HEADER in str(caught.value).replace(", ", ",")
    assert len(str(caught.value)) < 2000


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(f"{HEADER}\n{row()}\n".encode() + b"b,caf\xe9\n")
    with pytest.raises(ProbeSetError, match=r"manifest.csv:3: byte 0xe9 is not UTF-8"):
        read_manifest(tmp_path)


def test_an_empty_or_missing_manifest_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(ProbeSetError, match=r"no manifest; .*probes init"):
        read_manifest(tmp_path)
    with pytest.raises(ProbeSetError, match=r"is not a folder; create one with .*probes init"):
        read_manifest(tmp_path / "absent")
    (tmp_path / "manifest.csv").write_bytes(b"")
    with pytest.raises(ProbeSetError, match="is empty"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_a_link_or_a_pipe_is_refused(tmp_path: Path, probe_folder: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.csv").symlink_to(probe_folder / "manifest.csv")
    with pytest.raises(ProbeSetError, match="is a symbolic link"):
        read_manifest(tmp_path / "a")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "manifest.csv")
    with pytest.raises(ProbeSetError, match="pipe"):
        read_manifest(tmp_path / "b")


@pytest.mark.parametrize("linked", ["images", "images/p1.png"])
def test_a_path_through_a_symbolic_link_is_refused(probe_folder: Path, linked: str) -> None:
    target = probe_folder / linked
    moved = target.rename(probe_folder.parent / "moved")
    target.symlink_to(moved)
    with pytest.raises(ProbeSetError, match=r"manifest.csv:[23]: path 'images/p[01].png' goes through a symbolic link"):
        read_manifest(probe_folder)


@given(st.text(st.sampled_from("ab./\\:~"), max_size=12))
def test_no_accepted_path_leaves_the_folder(value: str) -> None:
    if not path_text_problem(value):
        resolved = posixpath.normpath(posixpath.join("/set", value))
        assert resolved == "/set" or resolved.startswith("/set/")


def test_parquet_says_the_same_as_csv(probe_folder: Path) -> None:
    from_csv = read_manifest(probe_folder)
    columns = {column: [getattr(probe, column) or None for probe in from_csv] for column in COLUMNS}
    columns["added_on"] = pa.array(columns["added_on"]).cast(pa.date32())
    pq.write_table(pa.table(columns), probe_folder / "manifest.parquet")
    with pytest.raises(ProbeSetError, match=r"holds manifest.csv and manifest.parquet; expected either"):
        read_manifest(probe_folder)
    (probe_folder / "manifest.csv").unlink()
    assert read_manifest(probe_folder) == from_csv
    with pytest.raises(ProbeSetError, match=r"the only manifest that this tool writes"):
        write_manifest(probe_folder, from_csv)


def test_a_parquet_manifest_with_a_number_or_damage_is_refused(tmp_path: Path) -> None:
    table = pa.table({column: [1] if column == "caption" else ["x"] for column in COLUMNS})
    pq.write_table(table, tmp_path / "manifest.parquet")
    with pytest.raises(ProbeSetError, match=r"manifest.parquet:2: the caption holds int"):
        read_manifest(tmp_path)
    whole = (tmp_path / "manifest.parquet").read_bytes()
    for damaged in (b"", whole[:100], whole[:-20] + bytes(20), bytes(100)):
        (tmp_path / "manifest.parquet").write_bytes(damaged)
        with pytest.raises(ProbeSetError, match="cannot be read as Parquet"):
            read_manifest(tmp_path)


def parquet(tmp_path: Path, cell: str, *, rows: int, **options: object) -> Path:
    """A manifest whose caption is one text in every row."""
    once = pa.array([0] * rows, pa.int32())
    columns = {name: pa.array([""]).take(once) for name in COLUMNS if name != "caption"}
    columns["caption"] = pa.DictionaryArray.from_arrays(once, pa.array([cell]))
    if not options.get("use_dictionary", True):
        columns["caption"] = columns["caption"].dictionary_decode()
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet", compression="zstd", **options)
    return tmp_path / "manifest.parquet"


DELTA = {"use_dictionary": False, "column_encoding": {"caption": "DELTA_BYTE_ARRAY"}}
BOMBS = {
    "one long entry of a dictionary": ({"cell": "a" * 300_000, "rows": 190_000}, "unpacks to more than 256 MB of text"),
    "a cell above the limit": ({"cell": "a" * 500_000, "rows": 9}, "unpacks to a caption of 500,000 bytes"),
    "rows of megabytes": ({"cell": "a" * 8_000_000, "rows": 1_000}, "unpacks to more than 1,000 MB at once"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_parquet_bomb_is_refused_in_little_time_and_memory(tmp_path: Path, name: str) -> None:
    options, said = BOMBS[name]
    path = parquet(tmp_path, **options)
    assert path.stat().st_size < 1_000_000
    peak, seconds, message = refused(tmp_path)
    assert f"{path} {said}" in message
    assert peak < 1_500
    assert seconds < 5


@pytest.mark.parametrize("options", [{"use_dictionary": False}, DELTA])
def test_texts_are_counted_whatever_their_encoding(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_manifest, "UNPACKED_LIMIT", 1_000_000)
    parquet(tmp_path, "a" * 3_000, rows=300, **options)
    assert len(read_rows(tmp_path).rows) == 300
    parquet(tmp_path, "a" * 3_000, rows=400, **options)
    with pytest.raises(ProbeSetError, match=r"unpacks to more than 1 MB of text"):
        read_rows(tmp_path)


def refused(folder: Path, room: int = parquet_manifest.ROOM) -> tuple[float, float, str]:
    """(peak megabytes, CPU seconds, message) of reading a manifest in 6 GB of address space."""
    code = f"""
import resource, time
from pathlib import Path
import numpy, pyarrow.parquet
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.probes import parquet_manifest
from invmm_gate.probes.manifest import read_rows
parquet_manifest.ROOM = {room}
resource.setrlimit(resource.RLIMIT_AS, (6_000_000_000,) * 2)
start = time.process_time()
try:
    read_rows(Path({str(folder)!r}))
except ProbeSetError as error:
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(int(peak) / 1024, time.process_time() - start, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = done.stdout.splitlines()
    peak, seconds, message = line.split(" ", 2)
    return float(peak), float(seconds), message


def test_a_page_header_that_lies_about_its_size_takes_no_memory(tmp_path: Path) -> None:
    path = parquet(tmp_path, "a" * 20_000, rows=100, use_dictionary=False, data_page_size=1 << 26)
    data, size = path.read_bytes(), 100 * 20_004 + 7  # the texts with their lengths, and which of them are null
    stated, lie = (varint(value << 1) for value in (size, 134_000_000))  # zigzag, as Thrift writes a number
    assert (data.count(stated), len(stated)) == (1, len(lie))
    path.write_bytes(data.replace(stated, lie))
    peak, _, message = refused(tmp_path, room=90_000_000)
    assert "unpacks to more than 90 MB at once" in message
    assert peak < 300


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.binary(), pa.struct([("a", pa.string())])])
def test_a_column_that_is_no_text_is_refused_undecoded(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {name: pa.array([None]).cast(kind if name == "caption" else pa.string()) for name in COLUMNS}
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    with pytest.raises(ProbeSetError, match=r"the column 'caption' holds .*; expected text"):
        read_manifest(tmp_path)


def test_an_honest_table_is_read_whatever_its_encoding(tmp_path: Path) -> None:
    for options in ({}, {"use_dictionary": False}, DELTA):
        path = parquet(tmp_path, "words", rows=3, **options)
        assert [row.values["caption"] for row in read_rows(tmp_path).rows] == ["words"] * 3
        path.unlink()


def test_a_cell_of_megabytes_is_refused_without_being_repeated(tmp_path: Path) -> None:
    with pytest.raises(ProbeSetError, match=r"csv:2: caption has 100,001 characters; expected at most 100,000"):
        read_manifest(folder_with(tmp_path, row(caption="a" * 100_001)))
    with pytest.raises(ProbeSetError, match="cannot name a file") as caught:
        read_manifest(folder_with(tmp_path, row(id="a" * 90_000)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_of_a_million_rows_is_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    cells = row(sha256="x").split(",")
    if suffix == "csv":
        (tmp_path / "manifest.csv").write_text(HEADER + "\n" + f"{','.join(cells)}\n" * 1_000_000)
    else:
        once = pa.array([0] * 1_000_000, pa.int32())
        columns = {name: pa.array([cell]).take(once) for name, cell in zip(COLUMNS, cells, strict=True)}
        pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    assert (tmp_path / f"manifest.{suffix}").stat().st_size < SIZE_LIMIT
    with pytest.raises(ProbeSetError, match=r"has more than 200,000 rows; .*`invmm-gate probes build`"):
        read_manifest(tmp_path)


def test_a_manifest_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.csv", "wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    with pytest.raises(ProbeSetError, match=r"has 64\.0 MB; expected at most 64 MB"):
        read_manifest(tmp_path)


def test_a_probe_that_could_not_be_read_back_is_not_written(probe_folder: Path) -> None:
    before = (probe_folder / "manifest.csv").read_bytes()
    probe, *others = read_manifest(probe_folder)
    for bad in (
        [replace(probe, id="a b")],
        [replace(probe, caption="\udce9")],
        [replace(probe, path="../a.png")],
        [probe, replace(probe, path="images/z.png", id=probe.id.upper())],
    ):
        with pytest.raises(ProbeSetError, match="cannot be written"):
            write_manifest(probe_folder, [*bad, *others])
        assert (probe_folder / "manifest.csv").read_bytes() == before


def test_an_edited_manifest_has_another_digest(probe_folder: Path) -> None:
    before = probe_set_digest(read_manifest(probe_folder))
    edit(probe_folder, "picture 3", "picture three")
    assert probe_set_digest(read_manifest(probe_folder)) != before


def test_reading_a_manifest_imports_no_numerics() -> None:
    code = (
        "import sys, invmm_gate.probes.manifest; "
        "print([name for name in ('numpy', 'PIL', 'pandas', 'great_expectations', 'torch', 'pyarrow') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("column", ["__index_level_0__", "Unnamed: 0", ""])
def test_the_index_of_pandas_is_called_one(column: str) -> None:
    with pytest.raises(ProbeSetError, match="save it without pandas' index"):
        check_columns([column, *COLUMNS], Path("manifest.csv"))
    with pytest.raises(ProbeSetError) as caught:
        check_columns(["surprise", *COLUMNS], Path("manifest.csv"))
    assert "pandas" not in str(caught.value)
