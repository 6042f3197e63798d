"""The two slots of an app, as the agent changes them on a device. `scripts.apps` describes the layout.

One bundle is active at any time: the link `current` is replaced in one step, after everything that it points to was
written to the disk, and nothing that it points to is ever changed. A process that is killed, or a device that loses
power, leaves the old bundle or the new one active, and files that the next push removes.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from edgekit.devices.app_state import SlotRecord
from edgekit.devices.faults import full_disk
from edgekit.devices.scripts.apps import (
    CURRENT,
    INCOMING,
    LOCK,
    OTHER,
    SLOTS,
    TRUST,
    active_slot,
    damage,
    record_of,
    trusted_key,
)
from edgekit.devices.trust import other_key
from edgekit.errors import DeviceError
from edgekit.runtime.envelope import parse_public_key, public_pem
from edgekit.support.hashes import file_sha256
from edgekit.support.progress import Reporter

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

FIRST = "a"
AGAIN = "Run the same command again"


class Slots:
    """The slots of an app, which no other process changes meanwhile. `changing` opens them."""

    def __init__(self, app: Path) -> None:
        self.app = app

    @property
    def active(self) -> str | None:
        """Name of the active slot, or None."""
        return active_slot(self.app)

    @property
    def inactive(self) -> str:
        """Name of the slot that the next bundle gets."""
        return OTHER[self.active] if self.active else FIRST

    def folder(self, slot: str) -> Path:
        """Folder of the bundle in a slot."""
        return self.app / SLOTS / slot

    def record(self, slot: str) -> Mapping[str, Any] | None:
        """Record of the bundle in a slot, or None if it passed no trial."""
        return record_of(self.app, slot)

    def holds(self, slot: str, files: Mapping[str, str]) -> bool:
        """Whether a slot has just these files, by name and SHA-256, and they passed a trial."""
        record = self.record(slot)
        return record is not None and record["files"] == files and damage(self.folder(slot), dict(files)) is None

    def receive(self, files: Mapping[str, str], store: Path) -> Path:
        """Write a bundle from files of the store into the folder of incoming bundles, which is returned.

        The files are hard links where the file system allows it. Raises DeviceError if one is gone, or damaged.
        """
        incoming = self.app / INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        for name, digest in files.items():
            source = store / digest
            try:
                if file_sha256(source) != digest:
                    source.unlink()
                    raise DeviceError(f"'{name}' was damaged in the device's store, and is deleted there", fix=AGAIN)
                _link(source, incoming / name)
            except FileNotFoundError as error:
                raise DeviceError(
                    f"'{name}' is not in the device's store any more: another run needed its space", fix=AGAIN
                ) from error
            _sync(incoming / name)
        _sync(incoming)
        return incoming

    def trusted_key(self, sent: str | None) -> "EllipticCurvePublicKey | None":
        """The key that must have signed a bundle: the device's own, or else the one that the host sent.

        Raises SignatureError if they differ, and MissingExtraError if signatures can't be verified here.
        """
        own = trusted_key(self.app.parent)
        if own is None and sent is None:
            return None
        key = parse_public_key((own or sent or "").encode(), f"the key '{self.app.parent / TRUST}' of the device")
        if own and sent and own != sent:
            raise other_key(own, sent, str(self.app.parent))
        return key

    def keep_key(self, key: "EllipticCurvePublicKey") -> None:
        """Make this the device's key, unless it has one: then it takes nothing else than bundles signed with it."""
        path, draft = self.app.parent / TRUST, self.app.parent / f".{TRUST}"
        if not path.exists():
            draft.write_bytes(public_pem(key))
            _sync(draft)
            draft.rename(path)
            _sync(self.app.parent)

    def activate_incoming(self, record: SlotRecord) -> None:
        """Move the incoming bundle into the inactive slot, whose bundle it replaces, and make it active."""
        slot, slots = self.inactive, self.app / SLOTS
        slots.mkdir(exist_ok=True)
        written = slots / f"{slot}.json"
        written.unlink(missing_ok=True)
        shutil.rmtree(self.folder(slot), ignore_errors=True)
        (self.app / INCOMING).rename(self.folder(slot))
        draft = slots / f".{slot}.json"
        draft.write_text(json.dumps(to_builtins(record), indent=1) + "\n", "utf-8")
        _sync(draft)
        draft.rename(written)
        _sync(slots)
        self.activate(slot)

    def activate(self, slot: str) -> None:
        """Point the link to a slot, in one step."""
        _sync(self.app)
        draft = self.app / f".{CURRENT}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(f"{SLOTS}/{slot}")
        draft.rename(self.app / CURRENT)
        _sync(self.app)


@contextmanager
def changing(app: Path, device: str, reporter: Reporter) -> Iterator[Slots]:
    """Lock an app's folder, which is created if necessary, until the block or the process ends.

    A bundle that was received, and not activated, is deleted when the block ends.

    Turns errors of the file system into a DeviceError with the device's name.
    """
    import fcntl  # devices have it, but not every host that imports this module

    try:
        app.mkdir(parents=True, exist_ok=True)
        with (app / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with reporter.stage("wait for another push"):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield Slots(app)
            finally:
                shutil.rmtree(app / INCOMING, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(device, "the push", f"'{error.filename or app}'") from error
        problem = f"the device can't write '{error.filename or app}': {error.strerror or error}"
        raise DeviceError(problem, fix="Check the permissions and the file system there") from error


def _link(source: Path, path: Path) -> None:
    """Make a hard link, or a copy where the file system has none, or is another one."""
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, path)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
