"""Ed25519 keys: signing keys, and the trust roots that a deployer accepts."""

import datetime
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter

from invmm_gate.attest.field_types import Day, Line
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import VERIFIER
from invmm_gate.files.regular import PRIVATE_MODES, read_small
from invmm_gate.files.strict_model import StrictModel, parse
from invmm_gate.files.yaml_lines import Document, load_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAX_KEY_BYTES: Final = 16_384
_PUBLIC: Final = "a public key file as `invmm-gate keys new` writes it (NAME.pub), or roots.yaml"
_LISTED: Final = "the text of a public key, or the file NAME.pub that `invmm-gate keys new` wrote"
_PRIVATE: Final = "a private key file as `invmm-gate keys new` writes it (NAME.key)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key. Its text is in no message and in no repr."""

    private: "Ed25519PrivateKey" = field(repr=False)
    key_id: str

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; equal for equal messages."""
        return self.private.sign(message)

    def as_root(self) -> "TrustRoots":
        """The roots that trust this key alone, whatever verifier it signed for."""
        return TrustRoots(keys=(_trusted(self.private.public_key(), name="the signing key", verifier=None),))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key that a deployer accepts."""

    name: str
    key_id: str
    """sha256 of the key's SubjectPublicKeyInfo (DER)."""
    public: "Ed25519PublicKey" = field(repr=False)
    verifier: str | None
    """The only verifier id that this key may sign for; None = any."""
    valid_from: datetime.date | None = None
    """The first day, UTC, on which the key may have signed."""
    valid_until: datetime.date | None = None
    """The last day, UTC, on which anything that the key signed holds."""

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRoots:
    """The keys that a deployer accepts."""

    keys: tuple[TrustedKey, ...]

    def find(self, key_id: str) -> TrustedKey | None:
        """The key of this id."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def names(self) -> str:
        """The keys for a message."""
        return ", ".join(f"{key.name} {key.key_id[:12]}" for key in self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """The files of a new key pair."""

    private: Path
    public: Path
    key_id: str


class _Root(StrictModel):
    """An entry of roots.yaml."""

    name: Line
    public_key: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=_MAX_KEY_BYTES)]
    """The PEM text itself, or a file beside roots.yaml."""
    verifier: Line = VERIFIER
    valid_from: Day | None = None
    valid_until: Day | None = None


_ROOTS: Final[TypeAdapter[tuple[_Root, ...]]] = TypeAdapter(Annotated[tuple[_Root, ...], Field(min_length=1)])


def new_key_pair(name: Path) -> KeyPair:
    """Make NAME.key (PKCS 8, mode 0600) and NAME.pub (SubjectPublicKeyInfo), both PEM. Never overwrites a file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if name.name in ("", "..") or not str(name).isprintable():
        raise ConfigError(f"{str(name)!a} is no name for a key", expected="a name such as gate or keys/gate")
    private = Ed25519PrivateKey.generate()
    files = KeyPair(
        private=name.with_name(f"{name.name}.key"),
        public=name.with_name(f"{name.name}.pub"),
        key_id=_key_id(private.public_key()),
    )
    if os.path.lexists(files.public):
        raise _exists(files.public)
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    public = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    _create(files.private, secret, 0o600)
    try:
        _create(files.public, public, 0o644)
    except ConfigError:
        files.private.unlink()  # half a pair would stand in the way of the next attempt
        raise
    return files


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key. Raises ConfigError unless it is ed25519, in a file that only its owner can read."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_small(path, what=_PRIVATE, limit=_MAX_KEY_BYTES, modes=PRIVATE_MODES)
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: encrypted
        # Without a cause: a library's message could quote the file.
        raise ConfigError(f"{str(path)!r} holds no unencrypted private key", expected=_PRIVATE) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{str(path)!r} holds a private key of another kind", expected="an ed25519 key")
    return SigningKey(private=private, key_id=_key_id(private.public_key()))


def load_roots(path: Path) -> TrustRoots:
    """Read trust roots: one public key (PEM), or roots.yaml with several. Raises ConfigError, with FILE:LINE in YAML.

    roots.yaml is a list of {name, public_key, verifier, valid_from, valid_until}; `public_key` is the PEM text or a
    file beside roots.yaml, the last three may be left out. A key that stands alone may sign for `invmm-gate` only.
    """
    if path.suffix in (".yaml", ".yml"):
        return TrustRoots(keys=_listed(path, load_document(path)))
    public = _public_key(read_small(path, what=_PUBLIC, limit=_MAX_KEY_BYTES), where=repr(str(path)))
    return TrustRoots(keys=(_trusted(public, name=path.stem, verifier=VERIFIER),))


def _listed(path: Path, document: Document) -> tuple[TrustedKey, ...]:
    entries = parse(_ROOTS, document)
    keys = tuple(_listed_key(entry, path, document.line((index,))) for index, entry in enumerate(entries))
    for index, key in enumerate(keys):
        if any(key.key_id == other.key_id for other in keys[:index]):
            line = document.line((index, "public_key"))
            raise ConfigError(
                f"{path}:{line}: public_key: the key of {key.name!r} is listed twice", expected="each key once"
            )
    return keys


def _listed_key(entry: _Root, path: Path, line: int) -> TrustedKey:
    if entry.valid_from and entry.valid_until and entry.valid_from > entry.valid_until:
        raise ConfigError(f"{path}:{line}: valid_until lies before valid_from", expected="a window that is not empty")
    public = _public_key(_pem(entry, path, line), where=f"{path}:{line}: public_key")
    return TrustedKey(
        name=entry.name,
        key_id=_key_id(public),
        public=public,
        verifier=entry.verifier,
        valid_from=entry.valid_from,
        valid_until=entry.valid_until,
    )


def _pem(entry: _Root, path: Path, line: int) -> bytes:
    if "-----BEGIN" in entry.public_key:
        return entry.public_key.encode()
    try:
        return read_small(path.parent / entry.public_key, what=_PUBLIC, limit=_MAX_KEY_BYTES)
    except ConfigError as error:
        raise ConfigError(f"{path}:{line}: public_key: {error.found}", expected=_LISTED) from error


def _public_key(pem: bytes, *, where: str) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in pem:
        raise ConfigError(f"{where} holds a private key", expected=_PUBLIC, do="hand out the .pub file only")
    if pem.count(b"-----BEGIN") > 1:
        raise ConfigError(f"{where} holds several keys", expected="one key", do="list them in roots.yaml")
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where} holds no public key in PEM", expected=_PUBLIC) from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{where} holds a public key of another kind", expected="an ed25519 key")
    return public


def _trusted(public: "Ed25519PublicKey", *, name: str, verifier: str | None) -> TrustedKey:
    return TrustedKey(name=name, key_id=_key_id(public), public=public, verifier=verifier)


def _key_id(public: "Ed25519PublicKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)  # whatever the umask
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()  # made just now, and not whole
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{str(path)!r} cannot be written: {error.strerror or error}", do="give another NAME")


def _exists(path: Path) -> ConfigError:
    return ConfigError(f"{str(path)!r} exists", expected="a new name, as keys are never overwritten", do="give another")
