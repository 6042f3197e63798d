"""What a push does on a device before its bundle is switched to, which is `scripts.apps`; and links to stored files."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.devices.scripts import apps
from edgekit.devices.transport import full_disk
from edgekit.errors import DeviceError, SignatureError
from edgekit.runtime.signature import parse_public_key
from edgekit.support.files import file_sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

RUN_AGAIN = "Run the same command again"


def stored(store: Path, digest: str, name: str) -> Path:
    """Path of a file in the store, which has its hash. DeviceError, which names it, if it is gone or damaged.

    A damaged one is deleted, so that the next command sends it again.
    """
    path = store / digest
    try:
        if file_sha256(path) == digest:
            return path
        path.unlink()
    except FileNotFoundError as error:
        problem = f"'{name}' is not in the device's store any more: another run needed its space"
        raise DeviceError(problem, fix=RUN_AGAIN) from error
    raise DeviceError(f"'{name}' was damaged in the device's store, and is deleted there", fix=RUN_AGAIN)


def link(files: Mapping[str, str], store: Path, folder: Path) -> None:
    """Create a folder with links to files in the store, under the files' own names. Raises the errors of `stored`."""
    folder.mkdir(parents=True)
    for name, digest in files.items():
        source = stored(store, digest, name)
        try:
            os.link(source, folder / name)
        except OSError as error:  # the file system has no hard links, or is another one
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source, folder / name)


def receive(app: Path, files: Mapping[str, str], store: Path) -> Path:
    """Write a bundle from files of the store into the folder of incoming bundles, which is returned."""
    incoming = app / apps.INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    link(files, store, incoming)
    for path in (*incoming.iterdir(), incoming):
        apps.sync(path)
    return incoming


def holding(app: Path, files: Mapping[str, str]) -> Path | None:
    """Folder of the active bundle if it has just these files, by name and SHA-256; else None."""
    slot = apps.active_slot(app)
    record, folder = apps.record_of(app, slot), app / apps.SLOTS / str(slot)
    same = record is not None and record["files"] == files and apps.damage(folder, record, hashes=True) is None
    return folder if same else None


def trusted_key(app: Path, sent: str | None) -> "EllipticCurvePublicKey | None":
    """The key that must have signed a bundle: the device's own, or else the one that the host sent.

    Raises SignatureError if they differ, and MissingExtraError if signatures can't be verified here.
    """
    own = apps.trusted_key(app.parent)
    if own is None and sent is None:
        return None
    if own and sent and own != sent:
        raise other_key(own, sent, str(app.parent))
    return parse_public_key((own or sent or "").encode(), f"the key '{app.parent / apps.TRUST}' of the device")


@contextmanager
def pushing(app: Path, device: str) -> Iterator[None]:
    """Create an app's folder if necessary. A bundle that was received, and not activated, is deleted at the end.

    Turns errors of the file system into a DeviceError with the device's name.
    """
    try:
        app.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            shutil.rmtree(app / apps.INCOMING, ignore_errors=True)
    except TimeoutError as error:
        raise DeviceError(str(error), fix=RUN_AGAIN) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(device, "the push", f"'{app}'") from error
        problem = f"the device can't write '{error.filename or app}': {error.strerror or error}"
        raise DeviceError(problem, fix="Check the permissions and the file system there") from error


def fingerprint_of(pem: str) -> str:
    """Fingerprint of a key by its PEM text, as signatures name their key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def other_key(own: str, sent: str, folder: str) -> SignatureError:
    """The error for a device whose key, in `folder`, is not the one that the host sent."""
    return SignatureError(
        f"the device trusts the key {fingerprint_of(own)}, and this machine has the key {fingerprint_of(sent)} for it",
        fix=f"If you have a new key, delete {folder}/{apps.TRUST} on the device, and push again",
    )
