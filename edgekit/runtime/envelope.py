"""A signed payload in a Sigstore bundle: a DSSE envelope, made and verified with elliptic-curve keys in PEM files.

https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md defines the bytes that are signed. The extra `trust`
brings `cryptography`, which is imported at the first use of a key.
"""

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import MissingExtraError, SignatureError, UsageError
from edgekit.support.distribution import install_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
CURVE_NAMES = "P-256, P-384 or P-521"
MAX_KEY_BYTES = 1 << 16
PUBLIC_KEY = f"a PEM file with a public key of the curve {CURVE_NAMES}"


def read_public_key(path: str | os.PathLike[str]) -> "EllipticCurvePublicKey":
    """Read a public key from a PEM file; UsageError if it can't be used, MissingExtraError without `cryptography`."""
    return parse_public_key(_read(path, PUBLIC_KEY), f"'{path}'")


def parse_public_key(pem: bytes, source: str) -> "EllipticCurvePublicKey":
    """Parse the content of a PEM file. `source` names it in the errors, which are those of `read_public_key`."""
    fix = "Extract the public key with `openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem`"
    with _cryptography():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    if b"PRIVATE KEY" in pem:
        raise UsageError(f"{source} is a private key, which stays with whoever signs", valid=PUBLIC_KEY, fix=fix)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{source} is not a public key", valid=PUBLIC_KEY, fix=fix) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise UsageError(f"{source} is a public key of another kind", valid=PUBLIC_KEY, fix=fix)
    return key


def read_private_key(path: str | os.PathLike[str]) -> "EllipticCurvePrivateKey":
    """Read a private key from a PEM file; UsageError if it can't be used, MissingExtraError without `cryptography`."""
    valid = f"a PEM file with a private key of the curve {CURVE_NAMES}, without a passphrase"
    fix = "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE.pem`"
    with _cryptography():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    pem = _read(path, valid)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        unlock = f"Decrypt it into a file of its own with `openssl ec -in {shlex.quote(str(path))} -out PRIVATE.pem`"
        raise UsageError(f"the private key '{path}' has a passphrase", valid=valid, fix=unlock) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"'{path}' is not a private key", valid=valid, fix=fix) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(f"'{path}' is a private key of another kind", valid=valid, fix=fix)
    return key


def public_pem(key: "EllipticCurvePublicKey") -> bytes:
    """A public key as the text of a PEM file."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: "EllipticCurvePublicKey") -> str:
    """SHA-256 of a public key's PEM text, by which envelopes name their key."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def seal(payload: bytes, key: "EllipticCurvePrivateKey") -> str:
    """Sign a payload; returns the JSON text of the envelope."""
    signature = key.sign(_signed_bytes(payload), _scheme(key.curve.key_size))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []}
    return json.dumps({"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})


def unseal(text: str, key: "EllipticCurvePublicKey") -> bytes:
    """The payload of an envelope; SignatureError unless this key signed it."""
    from cryptography.exceptions import InvalidSignature

    payload, signature, hint = _parse(text)
    own = fingerprint(key)
    try:
        key.verify(signature, _signed_bytes(payload), _scheme(key.curve.key_size))
    except InvalidSignature as error:
        if hint not in (None, own):
            raise SignatureError(f"the signature was made with the key {hint}", valid=f"the key {own}") from error
        raise SignatureError(
            "the signature was changed, or was made with another key", valid=f"the key {own}"
        ) from error
    return payload


def _parse(text: str) -> tuple[bytes, bytes, str | None]:
    """Payload, signature and the name of the key, if there is one."""
    try:
        bundle = json.loads(text)
        envelope = bundle["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        if (bundle["mediaType"], envelope["payloadType"]) != (MEDIA_TYPE, PAYLOAD_TYPE):
            raise ValueError(f"its types are {bundle['mediaType']!r} and {envelope['payloadType']!r}"[:200])
        payload, bits = (base64.b64decode(part, validate=True) for part in (envelope["payload"], signature["sig"]))
        hint = bundle["verificationMaterial"]["publicKey"].get("hint")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SignatureError(
            f"the signature can't be read: {type(error).__name__} {error}",
            valid="a signature by a key, in the OpenSSF Model Signing format",
        ) from error
    printable = isinstance(hint, str) and hint.isascii() and hint.isalnum() and len(hint) <= 128
    return payload, bits, hint if printable else None


def _signed_bytes(payload: bytes) -> bytes:
    """The payload in DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _scheme(key_bits: int) -> "ECDSA":
    """ECDSA with the hash that the format prescribes for a curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key_bits])


def _read(path: str | os.PathLike[str], valid: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"the key '{path}' can't be read: {error.strerror or error}", valid=valid) from error


@contextmanager
def _cryptography() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError("'cryptography' is not installed", fix=f"Run: {install_command('trust')}") from error
