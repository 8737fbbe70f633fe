"""A planted probe is looked for on the whole disk of a real server, in what was printed and in what may be handed on.

Its image, caption, id, folder and source each hold a word that occurs nowhere else; its exact score is one too.
"""

import base64
import datetime
import gzip
import json
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from PIL.PngImagePlugin import PngInfo

from invmm_gate.attest.keys import new_key_pair
from invmm_gate.core.options import GateChoices, NewProbes
from invmm_gate.core.progress import Silent
from invmm_gate.probes.edit import add_probes
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import RUN
from invmm_gate.registry.promote.gate_version import Registered, register
from tests.registry.conftest import BLOCKING, SHORT
from tests.registry.servers import Server
from tests.stages.world import MEMORIZING, Called, World, call, draw, new_world

ID = "canary-patient-smith-042"
FOLDER = "canary-ward-seven"
CAPTION = "canary caption of a heron at dusk"
SOURCE = "canary-archive.example/originals"
IN_IMAGE = b"canary-chunk-of-the-image-" + Random(5).randbytes(30).hex().encode()
ONE_ATTEMPT = {"test_at_start": False, "certifications": 1, "certify_misses": 0}
UNEVEN = BLOCKING | {"measure": BLOCKING["measure"] | {"settings": SHORT | ONE_ATTEMPT}}
"""Blocks whatever the model, with scores that are not 0; every attempt would succeed, and cost all of its draws."""


@dataclass(frozen=True)
class Planted:
    """A tracked check and a registered version of a world with a planted probe, on one server."""

    world: World
    run: Path
    checked: Called
    choices: GateChoices
    registered: Registered
    server: Server

    @property
    def image(self) -> bytes:
        (path,) = self.world.probes.rglob(f"*{ID}*")
        return path.read_bytes()

    @property
    def score(self) -> float:
        lines = (self.run / "measurements.jsonl").read_text().splitlines()
        score = next(line["invmm"] for line in map(json.loads, lines) if line["probe"] == ID)
        assert len(repr(score)) > 12, "a number that occurs nowhere by accident"
        return float(score)


def planted_world(folder: Path) -> World:
    world = new_world(folder / FOLDER)
    named, info = folder / f"{ID}.png", PngInfo()
    info.add_text("Comment", IN_IMAGE.decode())
    draw(3).save(named, pnginfo=info)
    added = datetime.date(2026, 11, 21)
    add_probes(world.probes, [named], NewProbes(group="sensitive", caption=CAPTION, source=SOURCE, added_on=added))
    return world


@pytest.fixture(scope="module")
def planted(plain_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    world = planted_world(folder)
    policy = World(folder).policy(UNEVEN)
    named = ("--model", MEMORIZING, "--policy", policy, "--probes", world.probes, "--rows", 4)
    called = call("check", *named, "--out", folder / "run", "--tracking-uri", plain_server.uri)
    key = new_key_pair(folder / "gate")
    choices = GateChoices(
        policy=str(policy), probes=world.probes, key=key.private, rows=4, runs=folder / "state" / "runs"
    )
    done = register(MEMORIZING, "planted", Registry(plain_server.uri), choices=choices, progress=Silent())
    return Planted(world, folder / "run", called, choices, done, plain_server)


def forms(secret: bytes) -> set[bytes]:
    """As it is and, where that is long enough to be no accident, in hexadecimal and in base64 wherever it begins."""
    if len(secret) < 16:
        return {secret}
    shifted = (base64.b64encode(bytes(n) + secret)[4 * bool(n) : -4] for n in range(3))
    return {secret, secret.hex().encode(), *shifted}


def contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from map(packed.read, packed.namelist())


def hits(folder: Path, *secrets: bytes) -> set[str]:
    """Files below a folder that hold one of the secrets in any form, by content or by name."""
    wanted = set().union(*map(forms, secrets))
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(form in data for data in (str(path).encode(), *contents(path)) for form in wanted)
    }


def texts() -> list[bytes]:
    return [text.encode() for text in (CAPTION, SOURCE, FOLDER)]


def pieces(image: bytes) -> list[bytes]:
    """The planted word, and a stretch of the compressed pixels."""
    start = image.index(b"IDAT") + 4
    return [IN_IMAGE, image[start + 8 : start + 40]]


def exact(score: float) -> list[bytes]:
    """As text at the precision that a finding has, and as a database stores it."""
    return [repr(score).encode(), f"{score:.6g}".encode(), struct.pack(">d", score), struct.pack("<d", score)]


def test_the_search_finds_what_lies_in_the_run_folder(planted: Planted) -> None:
    for secret in (*map(str.encode, (ID, CAPTION, SOURCE)), *exact(planted.score)[:2]):
        assert hits(planted.run, secret), secret
    assert hits(planted.world.folder, *pieces(planted.image))


def test_the_search_sees_through_base64_and_archives(tmp_path: Path) -> None:
    for offset in range(3):
        (tmp_path / f"{offset}.txt").write_bytes(base64.b64encode(b"x" * offset + IN_IMAGE + b"tail"))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(IN_IMAGE))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("image", IN_IMAGE * 9)
    assert hits(tmp_path, IN_IMAGE) == {"0.txt", "1.txt", "2.txt", "packed.gz", "packed.zip"}


def test_nothing_of_a_planted_probe_is_on_the_servers_disk_or_in_the_public_pages(planted: Planted) -> None:
    assert planted.checked.code == 10
    assert planted.checked.out.count("logged: ") == 1, planted.checked.err
    assert (planted.registered.decision, planted.registered.delivered) == ("block", True)
    client = Registry(planted.server.uri)
    record = client.version("planted", "1")
    assert record is not None
    verdict = client.artefacts.read(f"runs:/{record.tags[RUN]}", "verdict.json")
    assert verdict is not None
    assert b'"p-' in verdict, "it has arrived, under its public name"

    secrets = [ID.encode(), *texts(), *pieces(planted.image), *exact(planted.score)]
    for place in (planted.server.disk, planted.run / "public", Path(planted.registered.run) / "public"):
        assert hits(place, *secrets) == set(), place


def test_what_is_printed_names_the_probe_to_its_owner_and_says_nothing_else_of_it(planted: Planted) -> None:
    said = (planted.checked.out + planted.checked.err).encode()
    assert ID.encode() in said
    assert not [secret for secret in (*texts(), *pieces(planted.image)) if any(form in said for form in forms(secret))]


def test_with_details_ids_and_scores_are_sent_and_still_no_text_or_picture(planted: Planted) -> None:
    sent = call("publish", planted.run, "--tracking-uri", planted.server.uri, "--details")
    assert sent.code == 0, sent.err
    choices = replace(planted.choices, details=True)
    told = register(MEMORIZING, "told", Registry(planted.server.uri), choices=choices, progress=Silent())
    assert told.run == planted.registered.run, "measured once"
    found = hits(planted.server.disk, ID.encode())
    assert {"server.db", "report.html", "verdict.json", "measurements.jsonl", "scores.csv"} <= found
    assert "measurements.jsonl" in hits(planted.server.disk, repr(planted.score).encode())
    client = Registry(planted.server.uri)
    record = client.version("told", "1")
    assert record is not None
    verdict = client.artefacts.read(f"runs:/{record.tags[RUN]}", "verdict.json")
    assert verdict is not None
    assert ID.encode() in verdict
    report = client.artefacts.read(f"runs:/{record.tags[RUN]}", "report.html")
    assert report is not None
    assert ID.encode() not in report, "the one that is signed"
    assert hits(planted.server.disk, *texts()[:2], *pieces(planted.image)) == set()


def test_a_crash_leaves_no_image_of_the_memory() -> None:
    code = "import resource; from invmm_gate.cli import run; run(['version']); print(resource.getrlimit(4))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert resource.RLIMIT_CORE == 4
    assert done.stdout.splitlines()[-1] == "(0, 0)"
