"""Keys are made once, kept from others, and never shown; trust roots say exactly whom they trust."""

import os
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from invmm_gate.attest.keys import load_roots, load_signing_key, new_key_pair
from invmm_gate.core.errors import ConfigError

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_new_pair_is_one_secret_file_and_one_public_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        pair = new_key_pair(tmp_path / "release.gate")
    finally:
        os.umask(before)
    assert (pair.private, pair.public) == (tmp_path / "release.gate.key", tmp_path / "release.gate.pub")
    assert (mode(pair.private), mode(pair.public)) == (0o600, 0o644)
    key, roots = load_signing_key(pair.private), load_roots(pair.public)
    assert key.key_id == pair.key_id == roots.keys[0].key_id
    assert roots.keys[0].verifies(key.sign(b"text"), b"text")
    assert not roots.keys[0].verifies(key.sign(b"text"), b"test")
    assert new_key_pair(tmp_path / "other").key_id != pair.key_id


def test_the_files_and_the_key_id_are_what_openssl_makes_of_them(tmp_path):
    pair = new_key_pair(tmp_path / "gate")
    der = subprocess.run(
        ["openssl", "pkey", "-in", pair.private, "-pubout", "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert sha256(der).hexdigest() == pair.key_id
    shown = subprocess.run(["openssl", "pkey", "-in", pair.private, "-pubout"], capture_output=True, check=True).stdout
    assert shown == pair.public.read_bytes()


@pytest.mark.parametrize("there", ["gate.key", "gate.pub"])
def test_a_key_is_never_overwritten(tmp_path, there):
    (tmp_path / there).write_text("precious")
    with pytest.raises(ConfigError, match=rf"{there}' exists; expected a new name"):
        new_key_pair(tmp_path / "gate")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_link_is_never_followed_to_write_a_key(tmp_path):
    (tmp_path / "gate.pub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists"):
        new_key_pair(tmp_path / "gate")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "nowhere/gate", "no\0name"])
def test_a_name_that_cannot_be_a_file_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        new_key_pair(Path(name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o660, 0o604, 0o700, 0o4600, 0o200])
def test_a_key_that_others_could_read_or_run_is_refused(tmp_path, bits):
    pair = new_key_pair(tmp_path / "gate")
    pair.private.chmod(bits)
    with pytest.raises(ConfigError, match=rf"has mode {bits:04o}; expected .* mode 0600 or 0400; chmod 600 "):
        load_signing_key(pair.private)


def test_a_key_that_is_read_only_is_accepted(tmp_path):
    pair = new_key_pair(tmp_path / "gate")
    pair.private.chmod(0o400)
    assert load_signing_key(pair.private).key_id == pair.key_id


def private_files() -> dict[str, bytes]:
    own = ed25519.Ed25519PrivateKey.generate()
    return {
        "empty": b"",
        "text": b"hello",
        "cut": own.private_bytes(PEM, PKCS8, serialization.NoEncryption())[:60],
        "encrypted": own.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"word")),
        "public": own.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "another kind": ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, serialization.NoEncryption()),
        "long": b"A" * 20_000,
    }


@pytest.mark.parametrize("name", private_files())
def test_a_file_that_is_no_private_key_is_refused_without_a_word_of_it(tmp_path, name):
    path, content = tmp_path / "file.key", private_files()[name]
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"file.key' (holds|is larger)") as refusal:
        load_signing_key(path)
    assert not any(line in str(refusal.value) for line in content.decode().splitlines() if len(line) > 10)
    assert refusal.value.__cause__ is None


def test_neither_a_message_nor_a_repr_shows_a_key(tmp_path):
    pair = new_key_pair(tmp_path / "gate")
    secret = pair.private.read_text().splitlines()[1]
    key = load_signing_key(pair.private)
    assert secret not in repr(key) + str(key) + repr(key.as_root()) + repr(pair)
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda _: None])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "odd.key"
    make(path)
    for read in (load_signing_key, load_roots):
        with pytest.raises(ConfigError, match=r"odd\.key"):
            read(path)


@pytest.fixture
def pems(tmp_path: Path) -> list[Path]:
    return [new_key_pair(tmp_path / name).public for name in ("old", "new")]


def test_roots_list_several_keys_with_their_windows(tmp_path, pems):
    inline = "\n".join(f"    {line}" for line in pems[1].read_text().splitlines())
    path = tmp_path / "roots.yaml"
    path.write_text(
        "- name: desk\n  public_key: old.pub\n  verifier: desk-gate\n"
        "  valid_from: 2026-01-01\n  valid_until: 2026-12-31\n"
        f"- name: server\n  public_key: |\n{inline}\n"
    )
    desk, server = load_roots(path).keys
    assert (desk.name, desk.verifier, str(desk.valid_from), str(desk.valid_until)) == (
        "desk", "desk-gate", "2026-01-01", "2026-12-31",
    )  # fmt: skip
    assert (server.name, server.verifier, server.valid_from, server.valid_until) == ("server", "invmm-gate", None, None)
    assert [desk.key_id, server.key_id] == [load_roots(public).keys[0].key_id for public in pems]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]\n", "roots.yaml:1: "),
        ("- name: a\n  public_kay: old.pub\n", "roots.yaml:2: [0].public_kay: unknown key 'public_kay'; did you mean"),
        ("- name: a\n", "roots.yaml:1: [0].public_key: this key is missing"),
        ("- name: a\n  public_key: old.pub\n  valid_until: soon\n", "roots.yaml:3: [0].valid_until: found 'soon'"),
        ("- name: a\n  public_key: old.pub\n  valid_until: 2026-02-30\n", "roots.yaml:3: [0].valid_until"),
        ("- name: a\n  public_key: old.pub\n  valid_until: 20260130\n", "roots.yaml:3: [0].valid_until"),
        ("- name: a\n  public_key: old.pub\n  valid_from: 2026-02-02\n  valid_until: 2026-02-01\n", "valid_from"),
        ("- name: a\n  public_key: none.pub\n", "none.pub' is missing"),
        ("- name: a\n  public_key: old.key\n", "roots.yaml:1: public_key holds a private key"),
        ("- name: a\n  public_key: -----BEGIN PUBLIC KEY-----\n", "roots.yaml:1: public_key holds no public"),
        ("- {name: a, public_key: old.pub}\n- {name: b, public_key: old.pub}\n", "roots.yaml:2: public_key: the key"),
        ("- name: a\n  name: b\n", "roots.yaml:2: key 'name' is given twice"),
        ("name: a\n", "roots.yaml:1: "),
    ],
)  # fmt: skip
def test_a_slip_in_the_roots_is_named_with_its_line(text, says, tmp_path, pems):
    path = tmp_path / "roots.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_roots(path)
    assert says in str(refusal.value)


def test_a_root_that_is_no_single_public_key_is_refused(tmp_path, pems):
    odd = ec.generate_private_key(ec.SECP256R1()).public_key()
    contents = {
        "a private key": (tmp_path / "old.key").read_bytes(),
        "several keys": pems[0].read_bytes() + pems[1].read_bytes(),
        "no public key": b"ssh-ed25519 AAAA",
        "another kind": odd.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    for says, content in contents.items():
        path = tmp_path / "odd.pub"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            load_roots(path)
