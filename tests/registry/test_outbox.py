"""The outbox: a parcel is there as a whole or not at all, a version has one, and one process at a time sends."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.promote.outbox import Outbox, OutboxBusyError, Parcel, parcel_digest

PARCEL = Parcel(
    name="birds",
    version="1",
    run="/runs/birds-v1",
    digest=parcel_digest("birds", "1", b"verdict"),
    signed=True,
    created_at="2026-11-22T06:00:00+00:00",
    proofs={"attestation.json": "{}"},
)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def test_a_parcel_waits_until_it_is_removed(outbox: Outbox) -> None:
    assert outbox.parcels() == ()
    outbox.add(PARCEL)
    outbox.add(PARCEL)
    assert Outbox(outbox.folder).parcels() == (PARCEL,)
    outbox.remove(PARCEL)
    outbox.remove(PARCEL)
    assert outbox.parcels() == ()


def test_the_last_verdict_on_a_version_takes_the_place_of_those_before(outbox: Outbox) -> None:
    other = replace(PARCEL, version="2", digest=parcel_digest("birds", "2", b"verdict"))
    later = replace(PARCEL, digest=parcel_digest("birds", "1", b"later"), created_at="2026-11-22T07:00:00+00:00")
    for parcel in (PARCEL, other, later):
        outbox.supersede(parcel)
    assert outbox.parcels() == (other, later)
    assert outbox.waiting_for("birds", "1") == (later,)


def test_a_file_that_is_no_parcel_keeps_no_other_version_waiting(outbox: Outbox) -> None:
    for name in ("broken.json", f"birds-v11.{PARCEL.digest}.json", f"birds-v1.x-v2.{PARCEL.digest}.json"):
        outbox.folder.mkdir(exist_ok=True)
        (outbox.folder / name).write_text("{}")
    outbox.supersede(PARCEL)
    assert outbox.waiting_for("birds", "1") == (PARCEL,)


def test_two_versions_with_one_verdict_are_two_parcels() -> None:
    assert len({parcel_digest(name, version, b"v") for name in ("a", "b") for version in ("1", "2")}) == 4


def test_only_one_process_sends(outbox: Outbox) -> None:
    with outbox.locked(), pytest.raises(OutboxBusyError), Outbox(outbox.folder).locked():
        pass
    with outbox.locked():
        pass


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps(asdict(PARCEL) | {"more": 1})])
def test_a_file_that_is_no_parcel_is_an_error_and_not_overlooked(outbox: Outbox, content: str) -> None:
    outbox.add(PARCEL)
    (outbox.folder / "broken.json").write_text(content)
    with pytest.raises(RegistryError, match=r"broken\.json is no parcel"):
        outbox.parcels()
