"""`invmm-gate probes build`: bad input is one line with exit code 2, and nothing is written or overwritten."""

import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from invmm_gate.curation.option_checks import ENOUGH_CONTROLS
from invmm_gate.policy.schema import load_policy
from tests.curation.pictures import later_images, picture, png, training_images, written
from tests.stages.world import ROOT, call

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Place:
    """A folder with training data, later images, and room for a probe set."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "train"

    @property
    def later(self) -> Path:
        return self.root / "later"

    @property
    def probes(self) -> Path:
        return self.root / "probes"

    def build(self, *more: object, sources: tuple[Path, ...] | None = None):
        named = [part for source in (self.train,) if sources is None for part in ("--from", source)]
        named += [part for source in sources or () for part in ("--from", source)]
        return call("probes", "build", self.probes, *named, "--quiet", *more)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    written(tmp_path / "train", training_images())
    written(tmp_path / "later", later_images())
    return Place(tmp_path)


def csv_file(place: Place, text: str) -> Path:
    path = place.train / "list.csv"
    path.write_text(text)
    return path


def parquet(place: Place, **columns) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place.root / "train.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_build_says_what_it_found_and_the_set_is_valid(place):
    done = place.build("--controls-from", place.later, "--controls", 12)
    assert done.code == 0, done.err
    assert "read 39 training images, 37 without exact copies" in done.out
    assert "3 clusters of near-duplicates" in done.out
    assert "seen.png is a near-duplicate of the training image" in done.out
    assert "as private as the probes" in done.out
    assert call("probes", "validate", place.probes, "--min-controls", 12).code == 0


@pytest.mark.parametrize(("images", "controls", "note"), [(40, 32, False), (16, 16, False), (15, 15, True)])
def test_where_nobody_says_how_many_controls_the_images_that_there_are_are_taken(place, images, controls, note):
    few = written(place.root / "few", {f"{seed}.png": png(picture(seed)) for seed in range(200, 200 + images)})
    done = place.build("--controls-from", few, "--dry-run")
    assert done.code == 0, done.err
    assert f"\n{controls} control:\n" in done.out
    said = f"{controls} controls: policies strict and standard need 16; see --controls-from"
    assert (said in done.out) == note


@pytest.mark.parametrize("policy", ["strict", "standard"])
def test_the_note_on_few_controls_says_what_the_policies_say(policy):
    assert load_policy(policy).coverage.min_controls == ENOUGH_CONTROLS


def test_a_column_that_marks_nothing_is_shown_with_values_that_it_has(place):
    listing = "path,s\n" + "".join(f"other{number:02}.png,{number % 7}.0\n" for number in range(3, 13))
    (place.train / "list.csv").write_text(listing)
    done = place.build("--sensitive-column", "s=1", sources=(place.train / "list.csv",))
    assert (done.code, done.err) == (
        2,
        "error: --sensitive-column 's=1' marks none of 10 training images, whose cells say '3.0', '4.0', '5.0', '6.0',"
        " '0.0' and more; expected at least one sensitive image where a column is asked for; correct the column or its"
        " value, or leave the option out\n",
    )


def test_values_of_a_column_are_shown_as_they_are_compared(place):
    table = {"path": ["other03.png", "other04.png", "other05.png"], "s": [True, None, False]}
    done = place.build("--sensitive-column", "s=true", "--images", place.train, sources=(parquet(place, **table),))
    assert "marks none of 3 training images, whose cells say 'True', '', 'False'; expected" in done.err


def test_a_dry_run_writes_nothing(place):
    done = place.build("--dry-run")
    assert done.code == 0
    assert "dry run: nothing was written" in done.out
    assert "no controls: " in done.out
    assert not place.probes.exists()


def test_the_build_record_is_printed_as_json(place):
    done = place.build("--json", "--dry-run")
    record = json.loads(done.out)
    assert record["metric"]["name"] == "pixel_rmse"
    assert {probe["group"] for probe in record["probes"]} == {"duplicated"}


def test_file_names_cannot_drive_the_terminal_or_the_page(place):
    name = "\x1b[31m<img src=x onerror=alert(1)>.png"
    (place.train / name).write_bytes(png(picture(0)))
    (place.train / "list.txt").write_text(f"{name}\n")
    done = place.build("--sensitive", place.train / "list.txt")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    page = (place.probes / "contact_sheet.html").read_text()
    assert "<img src=x" not in page
    assert "\x1b" not in page


def test_a_file_name_that_is_not_unicode_is_told_of(place):
    name = b"\xff.png".decode(errors="surrogateescape")
    (place.later / name).write_bytes(png(picture(300)))
    done = place.build("--controls-from", place.later, "--controls", 13)
    assert done.code == 2
    assert "text that is not Unicode" in done.err
    done = place.build("--controls-from", place.later, "--controls", 12, "--seed", 1, "--dry-run")
    assert done.code == 0, done.err


def no_control(place: Place):
    return place.build("--controls-from", written(place.root / "seen", {"seen.png": later_images()["seen.png"]}))


def empty_folder(place: Place):
    (place.root / "empty").mkdir()
    return place.build(sources=(place.root / "empty",))


def no_images(place: Place):
    written(place.root / "texts", {"a.txt": b"words"})
    return place.build(sources=(place.root / "texts",))


def all_broken(place: Place):
    written(place.root / "broken", {"a.png": b"no", "b.png": b""})
    return place.build(sources=(place.root / "broken",))


def strictly(place: Place):
    (place.train / "zz.png").write_bytes(b"no")
    return place.build("--strict")


def unreadable_parquet(place: Place):
    (place.root / "train.parquet").write_bytes(b"PAR1 no table")
    return place.build(sources=(place.root / "train.parquet",))


def existing_set(place: Place):
    written(place.probes, {"manifest.csv": b"id\n"})
    return place.build()


def linked_target(place: Place):
    place.probes.symlink_to(place.root / "elsewhere")
    return place.build()


def listed(text: str) -> Callable[[Place], object]:
    def arrange(place: Place):
        (place.train / "zz.png").write_bytes(b"no")
        (place.root / "list.txt").write_text(text)
        return place.build("--sensitive", place.root / "list.txt")

    return arrange


def million_rows(place: Place):
    """With 8 GB of memory to spare."""
    listing = csv_file(place, "path\n" + "other03.png\n" * 1_000_000)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 8 * 10**9, limits[1]))
    try:
        return place.build(sources=(listing,))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def table(text: str, *more: object) -> Callable[[Place], object]:
    return lambda place: place.build(*more, sources=(csv_file(place, text),))


def linking_tar(place: Place):
    path = place.root / "shard.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(place.train / "other03.png", "0.png")
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return place.build(sources=(path,))


def absolute_tar(place: Place):
    path = place.root / "shard.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("/data/0.png")
        tar.addfile(member)
    return place.build(sources=(path,))


def without_datasets(place: Place):
    written(place.root / "saved", {"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": b""})
    written(place.root / "saved", {"dataset_info.json": b"{}"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)
        return place.build(sources=(place.root / "saved",))


def bad_caption(place: Place):
    (place.train / "other03.txt").write_bytes("grün".encode("latin-1"))
    return place.build()


def with_options(*more: object) -> Callable[[Place], object]:
    return lambda place: place.build(*more)


ROW = "path,date,kind\nother03.png,2026-01-01,a\n"

CASES: dict[str, tuple[Callable[[Place], object], tuple[str, ...]]] = {
    "empty folder": (empty_folder, ("empty' holds no images", "PNG, JPEG or WebP")),
    "no images": (no_images, ("texts' holds no images",)),
    "only broken images": (all_broken, ("no training image could be used: 2 cannot be read", "'a.png'")),
    "broken image, strictly": (strictly, ("'zz.png' is not PNG, JPEG or WebP", "--strict")),
    "no such data": (lambda place: place.build(sources=(place.root / "none",)), ("none' does not exist",)),
    "another kind of file": (
        lambda place: place.build(sources=(Path(__file__),)),
        ("is not a folder, .csv, .jsonl, .parquet, .tar file",),
    ),
    "unreadable parquet": (unreadable_parquet, ("train.parquet cannot be read as Parquet",)),
    "parquet without images": (
        lambda place: place.build(sources=(parquet(place, label=[1, 2]),)),
        ("has the columns label", "--column image=NAME"),
    ),
    "parquet without rows": (lambda place: place.build(sources=(parquet(place, path=[]),)), ("has no rows",)),
    "tar with a link": (linking_tar, ("shard.tar': '1.png' is a link to '/etc/passwd'", "nothing of it was used")),
    "tar with an absolute path": (absolute_tar, ("shard.tar': '/data/0.png' has an absolute path",)),
    "no datasets": (without_datasets, ("saved' is a saved data set, and `datasets` is not", "'invmm-gate[datasets]'")),
    "caption that is not UTF-8": (bad_caption, ("the caption file 'other03.txt' is not UTF-8", "save it as UTF-8")),
    "pattern of nothing": (lambda place: place.build(sources=(place.root / "*.tar",)), ("*.tar' matches nothing",)),
    "empty csv": (table(""), ("list.csv is empty",)),
    "csv without rows": (table("path\n"), ("list.csv has no rows",)),
    "csv that is not text": (table("path\n\0\0\n"), ("no training image could be used", "NUL")),
    "csv with a short row": (table("path,date\nother03.png\n"), ("list.csv:2: 1 fields",)),
    "missing column": (table(ROW, "--column", "path=file"), ("lacks the column 'file'", "path, date, kind")),
    "missing sensitive column": (table(ROW, "--sensitive-column", "private"), ("lacks the column 'private'",)),
    "missing date column": (
        table("path\nother03.png\n", "--trained-until", "2026-01-01"),
        ("lacks the column 'date'",),
    ),
    "row without a date": (
        table(ROW + "other04.png,soon,a\n", "--trained-until", "2026-01-01"),
        ("list.csv:3: date 'soon' is not a date",),
    ),
    "all after the training": (table(ROW, "--trained-until", "2025-01-01"), ("1 are from after the training",)),
    "sensitive and after the training": (
        table(ROW, "--trained-until", "2025-01-01", "--sensitive-column", "kind=a"),
        ("'other03.png' is marked as sensitive and dated 2026-01-01",),
    ),
    "date of training": (with_options("--trained-until", "soon"), ("--trained-until 'soon'",)),
    "dates of a folder": (with_options("--trained-until", "2026-01-01"), ("is a folder, which has no columns",)),
    "path outside": (table("path\n../later/seen.png\n"), ("'../later/seen.png' leads outside",)),
    "absolute path outside": (table("path\n/etc/hostname\n"), ("'/etc/hostname' leads outside",)),
    "missing file": (table("path\nnone.png\n"), ("'none.png'", "is missing")),
    "sensitive image that is not there": (listed("other03.png\nnone.png\n"), ("list.txt:2: 'none.png' is not among",)),
    "sensitive image that is broken": (listed("zz.png\n"), ("list.txt:1: 'zz.png'", "but it is not PNG, JPEG or WebP")),
    "marked image that is broken": (
        table("path,private\nother03.png,no\nzz.png,yes\n", "--sensitive-column", "private"),
        (
            "'zz.png' is marked as sensitive and cannot be used",
            "is missing",
        ),
    ),
    "marked image outside": (
        table("path,private\nother03.png,yes\n../later/seen.png,yes\n", "--sensitive-column", "private"),
        ("'../later/seen.png' is marked as sensitive and cannot be used: leads outside",),
    ),
    "mark that says neither yes nor no": (
        table("path,private\nother03.png,1.0\nother04.png,PII\n", "--sensitive-column", "private"),
        ("list.csv:3: private 'PII' says neither yes nor no", "--sensitive-column private=VALUE"),
    ),
    "column that marks nothing": (
        table("path,private\nother03.png,no\nother04.png,nan\n", "--sensitive-column", "private"),
        ("--sensitive-column 'private' marks none of 2 training images",),
    ),
    "value that marks nothing": (
        table(ROW, "--sensitive-column", "kind=A"),
        ("--sensitive-column 'kind=A' marks none of 1 training images",),
    ),
    "list that names nothing": (listed("# of people\n\n"), ("list.txt names no image",)),
    "no list of sensitive images": (
        with_options("--sensitive", "none.txt"),
        ("--sensitive: 'none.txt' is missing",),
    ),
    "controls from nowhere": (with_options("--controls", 3), ("--controls 3 without images to draw them from",)),
    "too few controls": (
        lambda place: place.build("--controls-from", place.later, "--controls", 13),
        ("12 controls in 14 images, 2 of them refused", "expected 13, as --controls asks"),
    ),
    "no control at all": (
        no_control,
        ("0 controls in 1 images, 1 of them refused; the first refused: 'seen.png' is a near", "expected at least 1;"),
    ),
    "existing probe set": (existing_set, ("probes' exists already", "never overwritten")),
    "linked probe set": (linked_target, ("probes' exists already",)),
    "data named twice": (
        lambda place: place.build(sources=(place.train, place.root / "." / "train")),
        ("train' is named twice",),
    ),
    "controls that were trained on": (
        lambda place: place.build("--controls-from", place.train),
        ("train' is named twice",),
    ),
    "folder in another": (
        lambda place: place.build(sources=(place.train, place.train / "deep")),
        ("train/deep' lies in", "train', which is named too"),
    ),
    "controls in the training data": (
        lambda place: place.build("--controls-from", place.train / "deep"),
        ("train/deep' lies in", "train', which is named too"),
    ),
    "training data in the controls": (
        lambda place: place.build("--controls-from", place.root),
        ("train' lies in", "which is named too"),
    ),
    "file in a folder and in a table": (
        lambda place: place.build(sources=(place.train, csv_file(place, ROW))),
        ("train/other03.png' is named by", "list.csv'", "each training image in one source"),
    ),
    "a million rows": (
        million_rows,
        ("1,000,000 images, compared at 32 x 32 pixels, need 24.6 GB", "of memory", "--size", "SSCD"),
    ),
    "probe set in the training data": (
        lambda place: place.build(sources=(place.root,)),
        ("would lie in",),
    ),
    "unknown device": (
        with_options("--metric", "sscd", "--sscd", __file__, "--device", "tpu"),
        ("--device 'tpu'",),
    ),
    "unknown metric": (with_options("--metric", "ssim"), ("--metric 'ssim'",)),
    "no SSCD file": (with_options("--metric", "sscd_disc_large"), ("no SSCD file is named",)),
    "no threshold for an ONNX encoder": (
        with_options("--metric", "sscd_distilled"),
        ("--metric sscd_distilled has no threshold of its own", "metric calibrate", "--threshold"),
    ),
    "pixels at a size for SSCD": (with_options("--size", 256), ("--size 256 with --metric pixel_rmse",)),
    "no size": (with_options("--size", 0), ("--size 0",)),
    "no threshold": (with_options("--threshold", 0), ("copy threshold 0",)),
    "diameter": (with_options("--diameter", 3), ("--diameter 3",)),
    "role of a column": (with_options("--column", "pth=x"), ("--column pth=...",)),
    "column without a name": (with_options("--column", "path"), ("--column 'path'",)),
    "nothing to propose": (with_options("--duplicated", 0), ("nothing to propose",)),
    "cache that is a file": (with_options("--cache", __file__), ("--cache",)),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case, place, monkeypatch):
    monkeypatch.delenv("INVMM_GATE_SSCD", raising=False)
    build, says = CASES[case]
    before = place.probes.exists() or place.probes.is_symlink()
    done = build(place)
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for part in says:
        assert part in done.err
    assert before or case in {"existing probe set", "linked probe set"} or not place.probes.exists()


def test_an_existing_set_is_left_as_it_was(place):
    existing_set(place)
    assert [path.name for path in place.probes.iterdir()] == ["manifest.csv"]
    assert (place.probes / "manifest.csv").read_bytes() == b"id\n"


def test_an_empty_folder_becomes_the_set(place):
    place.probes.mkdir()
    assert place.build().code == 0
    assert (place.probes / "manifest.csv").is_file()


def test_without_scikit_learn_the_install_line_is_given_before_an_image_is_read(place):
    arguments = ["probes", "build", str(place.probes), "--from", str(place.train)]
    program = f"import sys; sys.modules['sklearn'] = None; from invmm_gate.cli import run; sys.exit(run({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: scikit-learn is not installed; expected the extra `curation`; "
        "run `pip install 'invmm-gate[curation]'`\n"
    )
    assert not place.probes.exists()
