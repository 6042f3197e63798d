"""The signature of a bundle, in the OpenSSF Model Signing format: `model.sig` in the bundle's folder.

It signs an in-toto statement with the SHA-256 of every other file of the folder, in a Sigstore bundle with a DSSE
envelope. `model_signing`, the format's own program, verifies edgekit's signatures, and edgekit those that it makes with
a key. edgekit doesn't use that package, because it needs some thirty others, of which one excludes the version that
litert-torch needs. The extra `trust` brings `cryptography`, which is imported at the first use of a key.
"""

import base64
import hashlib
import importlib
import json
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, MissingExtraError, OutputError, SignatureError, UsageError
from edgekit.runtime.bundle import MANIFEST, Bundle, own_file, read_bundle, read_text
from edgekit.support.files import file_sha256, replace_text
from edgekit.support.libraries import install_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNATURE = "model.sig"
"""Name of the signature's file, which the manifest doesn't list."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGN_AGAIN = "If the change is yours, sign the bundle again with `edgekit sign`"
HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The hash that the format prescribes for each curve."""
CURVE_NAMES = "P-256, P-384 or P-521"
MAX_KEY_BYTES = 1 << 16
PUBLIC_KEY = f"a PEM file with a public key of the curve {CURVE_NAMES}"
PRIVATE_KEY = f"a PEM file with a private key of the curve {CURVE_NAMES}, without a passphrase"


def sign_bundle(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> str:
    """Write the signature of a bundle, and replace an older one.

    Args:
        path: Folder of the bundle.
        key: PEM file with the private key, of the curve P-256, P-384 or P-521.

    Returns:
        The fingerprint of the key: SHA-256 of the PEM text of its public key.

    Raises:
        UsageError: The key can't be used.
        BundleError: The folder is not a bundle, or is damaged or has other files.
        MissingExtraError: `cryptography` is not installed.
        OutputError: The signature can't be written.
    """
    private = read_private_key(key)
    bundle = read_bundle(path)
    _check_no_others(bundle)
    name = Path(os.path.realpath(path)).name
    text = seal(_statement(name, bundle.digests()), private)
    try:
        replace_text(bundle.path / SIGNATURE, text)
    except OSError as error:
        raise OutputError(
            f"can't write '{bundle.path / SIGNATURE}': {error.strerror or error}",
            fix="Make room, or copy the bundle to a folder in which you may write",
        ) from error
    return fingerprint(private.public_key())


def read_signed_bundle(path: str | os.PathLike[str], key: "EllipticCurvePublicKey") -> Bundle:
    """Read a bundle as `read_bundle` does, after verifying that this key signed all of its files.

    Raises:
        SignatureError: The bundle isn't signed, another key signed it, or a file was added or differs from what was
            signed.
        BundleError: The folder is not a bundle, or a file was changed or is missing.
    """
    path = Path(path)
    if not os.path.lexists(path / SIGNATURE):
        read_bundle(path, check_hashes=False)  # says why a folder is not a bundle
        raise SignatureError(
            f"bundle '{path}' is not signed: it has no {SIGNATURE}", fix="Sign it with `edgekit sign BUNDLE --key KEY`"
        )
    try:
        signed = _files_of(unseal(read_text(path, SIGNATURE), key))
        if file_sha256(own_file(path, MANIFEST)) != signed.get(MANIFEST):
            raise SignatureError(f"{MANIFEST} is not the one that was signed", fix=SIGN_AGAIN)
    except BundleError as error:
        raise type(error)(f"bundle '{path}': {error.problem}", valid=error.valid, fix=error.fix) from error
    except OSError as error:
        raise BundleError(f"bundle '{path}' can't be read: {error.strerror or error}") from error
    bundle = read_bundle(path)
    _check_no_others(bundle)
    differing = sorted(name for name, _ in signed.items() ^ bundle.digests().items())
    if differing:
        raise SignatureError(f"bundle '{path}': file '{differing[0]}' is not the one that was signed", fix=SIGN_AGAIN)
    return bundle


def _check_no_others(bundle: Bundle) -> None:
    """Raise SignatureError for a file or folder that is neither listed in the manifest nor the signature."""
    others = sorted(set(os.listdir(bundle.path)) - {MANIFEST, SIGNATURE, *bundle.manifest.files})
    if others:
        raise SignatureError(
            f"bundle '{bundle.path}': {others[0]!r} is not part of it",
            valid=f"the files that {MANIFEST} lists, and {SIGNATURE}",
            fix="Remove it",
        )


def _statement(name: str, digests: dict[str, str]) -> bytes:
    """The in-toto statement about these files."""
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    resources = [{"name": file, "algorithm": "sha256", "digest": value} for file, value in digests.items()]
    method = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"resources": resources, "serialization": method},
    }
    return json.dumps(statement).encode()


def _files_of(payload: bytes) -> dict[str, str]:
    """SHA-256 of the signed files by name; SignatureError for a statement of another kind."""
    try:
        statement: Any = json.loads(payload)
        predicate = statement["predicate"]
        method = predicate["serialization"]
        kind = (statement["_type"], statement["predicateType"], method["method"], method["hash_type"])
        files = {str(resource["name"]): str(resource["digest"]) for resource in predicate["resources"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureError(f"the signed statement can't be read: {error!r}") from error
    if kind != (STATEMENT_TYPE, PREDICATE_TYPE, "files", "sha256"):
        raise SignatureError(f"the signed statement is of the kind {kind}", valid="SHA-256 of files")
    return files


def read_public_key(path: str | os.PathLike[str]) -> "EllipticCurvePublicKey":
    """Read a public key from a PEM file; UsageError if it can't be used, MissingExtraError without `cryptography`."""
    return parse_public_key(_read(path, PUBLIC_KEY), f"'{path}'")


def parse_public_key(pem: bytes, source: str) -> "EllipticCurvePublicKey":
    """Parse the content of a PEM file. `source` names it in the errors, which are those of `read_public_key`."""
    fix = "Extract the public key with `openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem`"
    load = _cryptography("hazmat.primitives.serialization").load_pem_public_key
    if b"PRIVATE KEY" in pem:
        raise UsageError(f"{source} is a private key, which stays with whoever signs", valid=PUBLIC_KEY, fix=fix)
    key: EllipticCurvePublicKey = _parse_key(load, pem, f"{source} is", "public key", PUBLIC_KEY, fix)
    return key


def read_private_key(path: str | os.PathLike[str]) -> "EllipticCurvePrivateKey":
    """Read a private key from a PEM file; UsageError if it can't be used, MissingExtraError without `cryptography`."""
    fix = "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE.pem`"
    load = partial(_cryptography("hazmat.primitives.serialization").load_pem_private_key, password=None)
    try:
        key: EllipticCurvePrivateKey = _parse_key(
            load, _read(path, PRIVATE_KEY), f"'{path}' is", "private key", PRIVATE_KEY, fix
        )
    except TypeError as error:
        unlock = f"Decrypt it into another file with `openssl ec -in {shlex.quote(str(path))} -out PRIVATE.pem`"
        raise UsageError(f"the private key '{path}' has a passphrase", valid=PRIVATE_KEY, fix=unlock) from error
    return key


def _parse_key(load: Callable[[bytes], Any], pem: bytes, subject: str, kind: str, valid: str, fix: str) -> Any:
    """Parse a key of one of the curves. The words of its errors are "`subject` not a `kind`"."""
    try:
        key = load(pem)
    except (ValueError, _cryptography("exceptions").UnsupportedAlgorithm) as error:
        raise UsageError(f"{subject} not a {kind}", valid=valid, fix=fix) from error
    if getattr(getattr(key, "curve", None), "name", None) not in HASHES:
        raise UsageError(f"{subject} a {kind} of another kind", valid=valid, fix=fix)
    return key


def public_pem(key: "EllipticCurvePublicKey") -> bytes:
    """A public key as the text of a PEM file."""
    names = _cryptography("hazmat.primitives.serialization")
    return key.public_bytes(names.Encoding.PEM, names.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: "EllipticCurvePublicKey") -> str:
    """SHA-256 of a public key's PEM text, by which envelopes name their key."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def seal(payload: bytes, key: "EllipticCurvePrivateKey") -> str:
    """Sign a payload; returns the JSON text of the envelope."""
    signature = key.sign(_signed_bytes(payload), _scheme(key))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []}
    return json.dumps({"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})


def unseal(text: str, key: "EllipticCurvePublicKey") -> bytes:
    """The payload of an envelope; SignatureError unless this key signed it."""
    payload, signature, hint = _parse_envelope(text)
    own = fingerprint(key)
    try:
        key.verify(signature, _signed_bytes(payload), _scheme(key))
    except _cryptography("exceptions").InvalidSignature as error:
        maker = "was changed, or was made with another key" if hint in (None, own) else f"was made with the key {hint}"
        raise SignatureError(f"the signature {maker}", valid=f"the key {own}") from error
    return payload


def _parse_envelope(text: str) -> tuple[bytes, bytes, str | None]:
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
    """The payload in DSSE's pre-authentication encoding.

    https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md defines it.
    """
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _scheme(key: "EllipticCurvePrivateKey | EllipticCurvePublicKey") -> "ECDSA":
    """The signature scheme of a key."""
    algorithm = getattr(_cryptography("hazmat.primitives.hashes"), HASHES[key.curve.name])
    scheme: ECDSA = _cryptography("hazmat.primitives.asymmetric.ec").ECDSA(algorithm())
    return scheme


def _read(path: str | os.PathLike[str], valid: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"the key '{path}' can't be read: {error.strerror or error}", valid=valid) from error


def _cryptography(module: str) -> Any:
    try:
        return importlib.import_module(f"cryptography.{module}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("'cryptography' is not installed", fix=f"Run: {install_command('trust')}") from error
