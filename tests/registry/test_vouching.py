"""What the sweep says of released versions as time goes by, and what that costs, on a real server's own store."""

import datetime
import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from invmm_gate.attest.demands import demands_of
from invmm_gate.attest.envelope import open_envelope, sign_envelope
from invmm_gate.attest.keys import load_roots, load_signing_key, new_key_pair
from invmm_gate.attest.statement import from_payload, to_payload
from invmm_gate.core.options import Conditions, GateChoices
from invmm_gate.core.progress import Silent
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.registry_names import RUN
from invmm_gate.registry.promote.attested_files import HashedFiles
from invmm_gate.registry.promote.choices import terms_now, utc_now
from invmm_gate.registry.promote.gate_version import register
from invmm_gate.registry.service.alias_audit import ByAttestation
from invmm_gate.registry.service.reconcile import Pass, Reconciler
from tests.registry.conftest import Desk
from tests.registry.door import sweeping, until
from tests.registry.servers import Server, stored_weights
from tests.stages.world import MEMORIZING

DAY = datetime.timedelta(days=1)
LATER = 100 * DAY
"""Longer than a verdict holds."""


@dataclass(frozen=True)
class Released:
    """A model with one released version, and who sweeps it."""

    name: str
    server: Server
    choices: GateChoices
    folder: Path

    @property
    def registry(self) -> Registry:
        return Registry(self.server.uri)

    @property
    def release(self) -> str:
        return f"{self.name}-release"

    @property
    def key(self) -> Path:
        assert self.choices.key is not None
        return self.choices.key

    @property
    def record(self) -> VersionRecord:
        found = self.registry.version(self.release, "1")
        assert found is not None
        return found

    @property
    def files(self) -> Path:
        """Those of the released version in the server's store."""
        return stored_weights(self.server, self.record.source).parents[2]

    @property
    def attestation(self) -> bytes:
        return (self.files / "attestation.json").read_bytes()

    def without_aliases(self) -> "Released":
        for alias in self.registry.aliases(self.release):
            self.registry.delete_alias(self.release, alias)
        return self

    def doubts(
        self,
        *,
        roots: Path | None = None,
        policy: str = "",
        recheck: float = 3600.0,
        after: datetime.timedelta = 0 * DAY,
        **asked: object,
    ) -> ByAttestation:
        """By the gate's own key and policy unless others are given, under conditions, after some time."""
        accepted = policy or self.choices.policy
        demands = partial(
            demands_of,
            replace(Conditions(), **asked),
            roots=load_roots(roots or self.key.with_suffix(".pub")),
            policies={load_policy(accepted).digest: accepted},
        )
        return ByAttestation(
            self.registry, demands, scratch=self.folder / "scratch", recheck=recheck, now=lambda: utc_now() + after
        )

    def sweep(self, *, enforce: bool = False, **asked: object) -> Reconciler:
        swept: Reconciler = sweeping(
            self.registry,
            self.folder / "state",
            names=[self.name],
            doubts=self.doubts(**asked),
            terms=partial(terms_now, self.choices),
            enforce=enforce,
        )
        return swept

    def swept(self, *, enforce: bool = False, **asked: object) -> Pass:
        return self.sweep(enforce=enforce, **asked).once()

    def revoked(self, entry: str) -> Path:
        file = self.folder / "revoked.yaml"
        file.write_text(f"- {{{entry}, reason: the probes were wrong}}\n")
        return file


@pytest.fixture(scope="module")
def first(plain_server: Server, desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a released version: the checkpoint, and its attestation beside it."""
    registry, choices = Registry(plain_server.uri), desk.at(tmp_path_factory.mktemp("vouching")).passing
    done = register(MEMORIZING, "vouched", registry, choices=choices, progress=Silent())
    assert done.released is not None
    return registry.artefacts.download(done.released.source, choices.runs / "released")


@pytest.fixture
def make(
    plain_server: Server, desk: Desk, first: Path, new_name: Callable[[str], str], tmp_path: Path
) -> Callable[[], Released]:
    """A version as the gate releases it, with files of its own."""

    def made() -> Released:
        here = Released(new_name("vouched"), plain_server, desk.at(tmp_path).passing, tmp_path)
        files = {path.relative_to(first).as_posix(): path for path in first.rglob("*") if path.is_file()}
        source = here.registry.uploads.log_model(here.release, files)
        here.registry.create_version(here.release, source, tags={}, run_id=None)
        for alias in ("champion", "approved-0123456789ab"):
            here.registry.set_alias(here.release, alias, "1")
        return here

    return made


def roots_until(released: Released, day: datetime.date) -> Path:
    """Trust roots in which the gate's key is valid until that day."""
    file = released.folder / "roots.yaml"
    file.write_text(f"- {{name: gate, public_key: {released.key.with_suffix('.pub')}, valid_until: {day}}}\n")
    return file


# ----------------------------------------------------------------------------------------------------------- alerts


def test_a_release_whose_verdict_expired_is_an_alert_only_while_it_is_what_is_served(
    make: Callable[[], Released],
) -> None:
    here = make()
    for asked in ({"after": LATER}, {"policy": "strict"}, {"after": 2 * DAY, "max_age": 1}):
        found = here.swept(**asked)
        assert [(alert.alias, alert.removed) for alert in found.alerts] == [("champion", False)]
        assert [(alert.alias, alert.removed) for alert in found.lapsed] == [("approved-0123456789ab", False)]
    found = here.swept(enforce=True, after=LATER)
    assert all(alert.removed and "expiresAt" in alert.reason for alert in (*found.alerts, *found.lapsed))
    assert here.registry.aliases(here.release) == {}
    assert here.swept(enforce=True, after=LATER).alerts == ()


def test_an_approval_that_was_taken_back_or_never_given_is_an_alert_whatever_its_age(
    make: Callable[[], Released],
) -> None:
    here = make()
    here.registry.delete_alias(here.release, "champion")
    assert here.swept(after=LATER).alerts == ()
    assert [alert.lapsed for alert in here.swept(after=LATER, min_probes=999).alerts] == [False], "it never met that"
    assert [alert.lapsed for alert in here.swept(probe_set_digest="0" * 64).alerts] == [False]
    digest = hashlib.sha256(here.attestation).hexdigest()
    for after in (0 * DAY, LATER):
        (alert,) = here.swept(after=after, revoked=here.revoked(f"verdict: {digest}")).alerts
        assert (alert.alias, alert.lapsed) == ("approved-0123456789ab", False)
    weights = next(here.files.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    assert [alert.alias for alert in here.swept(after=LATER).alerts] == ["approved-0123456789ab"]


def test_a_release_without_an_alias_may_be_old_of_another_policy_or_revoked(make: Callable[[], Released]) -> None:
    here = make().without_aliases()
    digest = hashlib.sha256(here.attestation).hexdigest()
    assert here.swept(after=LATER).alerts == ()
    assert here.swept(after=2 * DAY, max_age=1).alerts == ()
    assert here.swept(policy="strict").alerts == ()
    assert here.swept(revoked=here.revoked(f"verdict: {digest}")).alerts == ()
    today = utc_now().date()
    assert here.swept(roots=roots_until(here, today)).alerts == ()
    assert here.doubts(roots=roots_until(here, today - 2 * DAY)).of_release(here.record)
    earlier = replace(here.record, created_at_ms=int((utc_now() - 3 * DAY).timestamp() * 1000))
    assert here.doubts(roots=roots_until(here, today - 2 * DAY)).of_release(earlier) == ""


@pytest.mark.parametrize("how", ["flipped", "beside", "gone", "unsigned", "another key", "revoked key"])
def test_what_no_trusted_key_signed_is_an_alert_in_a_release_model(
    make: Callable[[], Released], how: str, tmp_path: Path
) -> None:
    here = make().without_aliases()
    assert here.swept().alerts == ()
    asked: dict[str, object] = {}
    if how == "flipped":
        weights = next(here.files.rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    elif how == "beside":
        (here.files / "extra.py").write_text("1")
    elif how == "gone":
        next(here.files.rglob("*.safetensors")).unlink()
    elif how == "unsigned":
        (here.files / "attestation.json").unlink()
    elif how == "another key":
        asked = {"roots": new_key_pair(tmp_path / "other").public}
    else:
        asked = {"revoked": here.revoked(f"key: {load_signing_key(here.key).key_id}")}
    (alert,) = here.swept(**asked).alerts
    assert str(alert).startswith(f"{here.release} version 1: only the gate should write to a release model: ")


def test_a_version_that_was_blocked_is_an_alert_in_a_release_model(
    guarded_server: Server, blocked: object, desk: Desk, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    registry, name = Registry(guarded_server.uri), new_name("smuggled")
    held = registry.version("blocked", "1")
    assert held is not None
    registry.create_version(f"{name}-release", held.source, tags={RUN: held.tags[RUN]}, run_id=None)
    (alert,) = Released(name, guarded_server, desk.blocking, tmp_path).swept().alerts
    assert "verdict: block" in alert.reason


# ------------------------------------------------------------------------------------------------------------- cost


def downloads(server: Server) -> int:
    """Requests for weights that the server answered."""
    return sum('"GET' in line and ".safetensors HTTP" in line for line in server.log.splitlines())


def test_two_passes_over_versions_that_do_not_change_download_each_at_most_once(make: Callable[[], Released]) -> None:
    here = make()
    registry, source = here.registry, here.record.source
    bare = registry.uploads.log_model(here.name, {"checkpoint/model_index.json": MEMORIZING / "model_index.json"})
    for other in (source, source, bare):
        registry.create_version(here.release, other, tags={}, run_id=None)
    registry.set_alias(here.release, "approved-0123456789ab", "2")
    (here.files / "extra.py").write_text("1")  # versions 1 to 3 are wrong by their files; 4 has no attestation
    sweep, before = here.sweep(), downloads(here.server)
    first = sweep.once().alerts
    assert len({alert.record.version for alert in first}) == 4
    assert downloads(here.server) - before == 3
    assert sweep.once().alerts == first
    assert downloads(here.server) - before == 3


def test_versions_that_are_right_are_downloaded_once_and_judged_at_each_pass(make: Callable[[], Released]) -> None:
    here = make()
    file = here.folder / "revoked.yaml"
    file.write_text("[]\n")
    sweep, before = here.sweep(revoked=file), downloads(here.server)
    assert (sweep.once().alerts, sweep.once().alerts) == ((), ())
    here.revoked(f"verdict: {hashlib.sha256(here.attestation).hexdigest()}")
    assert {"revocation" in alert.reason for alert in sweep.once().alerts} == {True}
    file.write_text("[]\n")
    assert sweep.once().alerts == ()
    assert downloads(here.server) - before == 1


@pytest.mark.parametrize("changed", ["attestation", "run", "made again"])
def test_what_was_wrong_is_looked_at_again_once_its_evidence_changes(
    make: Callable[[], Released], changed: str
) -> None:
    here = make()
    doubts, extra = here.doubts(), here.files / "extra.py"
    extra.write_text("1")
    assert "not attested" in doubts.of_alias(here.record)
    extra.unlink()
    assert "not attested" in doubts.of_alias(here.record), "as it was remembered"
    record = here.record
    if changed == "attestation":
        key = load_signing_key(here.key)
        said = from_payload(open_envelope(here.attestation, key.as_root()).payload)
        newer = sign_envelope(to_payload(replace(said, expires_at=said.expires_at - DAY)), key)
        (here.files / "attestation.json").write_bytes(newer)
    elif changed == "run":
        record = replace(record, tags={RUN: f"{'0' * 32}/elsewhere"})
    else:
        record = replace(record, created_at_ms=record.created_at_ms + 1)
    assert doubts.of_alias(record) == ""


def test_an_alias_is_taken_away_only_for_what_is_wrong_at_that_moment(make: Callable[[], Released]) -> None:
    here = make().without_aliases()
    sweep, extra = here.sweep(enforce=True), here.files / "extra.py"
    extra.write_text("1")
    assert len(sweep.once().alerts) == 1
    extra.unlink()
    here.registry.set_alias(here.release, "champion", "1")
    assert sweep.once().alerts == ()
    assert here.registry.aliases(here.release) == {"champion": "1"}


def test_files_are_looked_at_again_after_a_while_whatever_they_were(make: Callable[[], Released]) -> None:
    here = make()
    doubts, extra = here.doubts(recheck=0.0), here.files / "extra.py"
    assert doubts.of_alias(here.record) == ""
    extra.write_text("1")
    assert "not attested" in doubts.of_alias(here.record)
    extra.unlink()
    assert doubts.of_alias(here.record) == ""


def test_what_is_not_asked_about_any_more_is_forgotten(make: Callable[[], Released]) -> None:
    def held() -> int:
        gc.collect()
        return sum(type(each) is HashedFiles for each in gc.get_objects())

    here = make()
    before, doubts, record = held(), here.doubts(recheck=1.0), here.record
    for number in range(3):  # each is a version of its own, deleted after it was looked at
        assert doubts.of_alias(replace(record, created_at_ms=record.created_at_ms + number)) == ""
    until(lambda: doubts.of_alias(record) == "" and held() - before == 1, 30, what="forgetting")
