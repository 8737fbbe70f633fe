"""The envelope around a statement: DSSE v1 (github.com/secure-systems-lab/dsse), one ed25519 signature.

The file has exactly one spelling. Bytes that would be decoded to the same envelope and are not the ones that
`sign_envelope` writes are refused, so that every change of a file is a failure.
"""

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from invmm_gate.attest.keys import SigningKey, TrustedKey, TrustRoots
from invmm_gate.attest.statement import PAYLOAD_TYPE
from invmm_gate.core.errors import VerificationError

ATTESTATION: Final = "attestation.json"
"""The attestation's name in a run folder."""
MAX_BYTES: Final = 1_000_000

_Text = Annotated[str, StringConstraints(strict=True)]


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keyid: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
    sig: _Text


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    payload: _Text
    payloadType: _Text  # noqa: N815  (DSSE's own name)
    signatures: Annotated[tuple[_Signature], Field(min_length=1, max_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A payload that a trusted key signed."""

    payload: bytes
    key: TrustedKey


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: type and payload with their lengths (DSSE's PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, key: SigningKey, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The file for a payload: an attestation, unless another type is named."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return _encoded(payload, payload_type, key.key_id, signature)


def open_envelope(envelope: bytes, roots: TrustRoots, payload_type: str = PAYLOAD_TYPE) -> Opened:
    """The payload, if a key of the roots signed it as one of this type. Raises VerificationError.

    Nothing of the payload is looked at before the signature holds.
    """
    parsed = _parsed(envelope)
    payload, signature = _decoded(parsed.payload, "payload"), _decoded(parsed.signatures[0].sig, "signature")
    key_id = parsed.signatures[0].keyid
    if _encoded(payload, parsed.payloadType, key_id, signature) != envelope:
        raise _malformed("it is not spelled as the gate writes it")
    key = roots.find(key_id)
    if key is None:
        raise VerificationError(
            f"signature: made by the key {key_id}",
            expected=f"a key of the trust roots ({roots.names()})",
            do="add the key to the roots only if its owner is to be trusted",
        )
    if not key.verifies(signature, pre_authentication_encoding(parsed.payloadType, payload)):
        raise VerificationError(
            f"signature: it does not fit the content (key {key.name})", expected="an attestation that nobody changed"
        )
    if parsed.payloadType != payload_type:
        raise VerificationError(f"payloadType: {parsed.payloadType!r}", expected=repr(payload_type))
    return Opened(payload=payload, key=key)


def _encoded(payload: bytes, payload_type: str, key_id: str, signature: bytes) -> bytes:
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"


def _parsed(envelope: bytes) -> _Envelope:
    if len(envelope) > MAX_BYTES:
        raise _malformed(f"it is larger than {MAX_BYTES} bytes")
    try:
        return _Envelope.model_validate_json(envelope)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _malformed(f"{where}: {first['msg']}" if where else first["msg"]) from error


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _malformed(f"its {what} is no base64") from error


def _malformed(why: str) -> VerificationError:
    return VerificationError(f"envelope: {why}", expected="the unchanged file that the gate wrote when it was signed")
