"""The public keys that devices trust: each takes only bundles that its key signed, if it has one.

The user's devices file has the key of a device, and the device has a copy from the first push on, which counts whoever
pushes.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from edgekit.devices.app_state import AppsAnswer
from edgekit.devices.registry import Device
from edgekit.devices.scripts.apps import TRUST
from edgekit.errors import BundleRefusedError, SignatureError
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.signature import parse_public_key, public_pem, read_public_key, read_signed_bundle


def read_trust(path: Path) -> str:
    """PEM text of the public key in a file; raises the errors of `read_public_key`."""
    return public_pem(read_public_key(path)).decode()


def fingerprint_of(pem: str) -> str:
    """Fingerprint of a key by its PEM text, as signatures name their key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def check_trust(bundle: Bundle, devices: Iterable[Device]) -> None:
    """Raise SignatureError or BundleError unless every device's key, where there is one, signed the bundle."""
    keys = {device.trust: device.name for device in devices if device.trust}
    for pem, device in keys.items():
        read_signed_bundle(bundle.path, parse_public_key(pem.encode(), f"the key of device '{device}'"))


def refuse_other_key(device: Device, known: AppsAnswer) -> None:
    """Raise BundleRefusedError if a device has a key, and this machine has none or another one for it."""
    if known.trust is None or known.trust == device.trust:
        return
    if device.trust is not None:
        error = other_key(known.trust, device.trust, known.folder)
        raise BundleRefusedError(f"{device.name}: {error.problem}", valid=error.valid, fix=error.fix)
    raise BundleRefusedError(
        f"{device.name}: the device takes only bundles signed with the key {fingerprint_of(known.trust)}",
        fix=f"Run `edgekit devices remove {device.name}`, then `edgekit devices add {device.name} URL --trust FILE`",
    )


def other_key(own: str, sent: str, folder: str) -> SignatureError:
    """The error for a device whose key, in `folder`, is not the one that the host sent."""
    return SignatureError(
        f"the device trusts the key {fingerprint_of(own)}, and this machine has the key {fingerprint_of(sent)} for it",
        fix=f"If you have a new key, delete {folder}/{TRUST} on the device, and push again",
    )
