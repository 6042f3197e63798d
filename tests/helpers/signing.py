"""Keys for signatures of bundles, in PEM files as `openssl` writes them."""

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class KeyPair(NamedTuple):
    """Paths of a private and its public key."""

    private: Path
    public: Path


def new_keys(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> KeyPair:
    """Write NAME.pem and NAME.pub, for the curve P-256 if it isn't given."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub")
    pair.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pair.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pair
