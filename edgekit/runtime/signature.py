"""The signature of a bundle, in the OpenSSF Model Signing format: `model.sig` in the bundle's folder.

It signs an in-toto statement with the SHA-256 of every other file of the folder. `model_signing`, the format's own
program, verifies edgekit's signatures, and edgekit those that it makes with a key. edgekit doesn't use that package,
because it needs some thirty others, of which one excludes the version that litert-torch needs.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, OutputError, SignatureError
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.bundle_files import own_file, read_text
from edgekit.runtime.envelope import fingerprint, read_private_key, seal, unseal
from edgekit.support.files import replace_text
from edgekit.support.hashes import file_sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE = "model.sig"
"""Name of the signature's file, which the manifest doesn't list."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SIGN_AGAIN = "If the change is yours, sign the bundle again with `edgekit sign`"


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
        signed = _parse(unseal(read_text(path, SIGNATURE), key))
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


def _parse(payload: bytes) -> dict[str, str]:
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
