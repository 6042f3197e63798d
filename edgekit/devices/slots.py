"""The two slots of an app, as a push changes them on a device. `scripts.apps` has their layout, and the rollback.

One bundle is active at any time: the link `current` is replaced in one step, after everything that it points to was
written to the disk, and nothing that it points to is ever changed. A process that is killed, or a device that loses
power, leaves the old bundle or the new one active, and files that the next push removes. A push locks out other pushes,
but a rollback only while it switches. It therefore names the bundle that it expects to replace.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from edgekit.devices.app_state import SlotRecord
from edgekit.devices.faults import full_disk
from edgekit.devices.scripts import apps
from edgekit.errors import BundleRefusedError, DeviceError, SignatureError
from edgekit.runtime.signature import parse_public_key, public_pem
from edgekit.support.files import file_sha256
from edgekit.support.progress import Reporter

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

FIRST = "a"
RUN_AGAIN = "Run the same command again"
TURN_S = 4 * 3600
"""Time limit of waiting for another push or measurement, which may be a long one of several bundles."""


class Slots:
    """The slots of an app to which no other process pushes meanwhile. `pushing` opens them."""

    def __init__(self, app: Path) -> None:
        self.app = app

    @property
    def active(self) -> str | None:
        """Name of the active slot, or None."""
        return apps.active_slot(self.app)

    @property
    def inactive(self) -> str:
        """Name of the slot that the next bundle gets."""
        return apps.OTHER[self.active] if self.active else FIRST

    def folder(self, slot: str) -> Path:
        """Folder of the bundle in a slot."""
        return self.app / apps.SLOTS / slot

    def holds(self, slot: str, files: Mapping[str, str]) -> bool:
        """Whether a slot has just these files, by name and SHA-256, and they passed a trial."""
        record: Mapping[str, Any] | None = apps.record_of(self.app, slot)
        return record is not None and record["files"] == files and apps.damage(self.folder(slot), dict(files)) is None

    def receive(self, files: Mapping[str, str], store: Path) -> Path:
        """Write a bundle from files of the store into the folder of incoming bundles, which is returned.

        The files are hard links where the file system allows it. Raises DeviceError if one is gone, or damaged.
        """
        incoming = self.app / apps.INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        for name, digest in files.items():
            source = store / digest
            try:
                if file_sha256(source) != digest:
                    source.unlink()
                    raise DeviceError(
                        f"'{name}' was damaged in the device's store, and is deleted there", fix=RUN_AGAIN
                    )
                _link(source, incoming / name)
            except FileNotFoundError as error:
                raise not_in_store(name) from error
            apps.sync(incoming / name)
        apps.sync(incoming)
        return incoming

    def trusted_key(self, sent: str | None) -> "EllipticCurvePublicKey | None":
        """The key that must have signed a bundle: the device's own, or else the one that the host sent.

        Raises SignatureError if they differ, and MissingExtraError if signatures can't be verified here.
        """
        own = apps.trusted_key(self.app.parent)
        if own is None and sent is None:
            return None
        key = parse_public_key((own or sent or "").encode(), f"the key '{self.app.parent / apps.TRUST}' of the device")
        if own and sent and own != sent:
            raise other_key(own, sent, str(self.app.parent))
        return key

    def keep_key(self, key: "EllipticCurvePublicKey") -> None:
        """Make this the device's key, unless it has one: then it takes nothing else than bundles signed with it."""
        path, draft = self.app.parent / apps.TRUST, self.app.parent / f".{apps.TRUST}"
        if not path.exists():
            draft.write_bytes(public_pem(key))
            apps.sync(draft)
            draft.rename(path)
            apps.sync(self.app.parent)

    def refuse_unless_active(self, *bundles: str | None) -> None:
        """Raise BundleRefusedError unless the active bundle has one of these hashes; None stands for no bundle."""
        if apps.bundle_in(self.app, self.active) not in bundles:
            raise BundleRefusedError("another command has switched the app to another bundle meanwhile", fix=apps.AGAIN)

    def activate_incoming(self, record: SlotRecord, expected: str | None) -> None:
        """Move the incoming bundle into the inactive slot, whose bundle it replaces, and make it active.

        Raises BundleRefusedError if the active bundle is not the expected one.
        """
        with self.switching():
            self.refuse_unless_active(expected)
            slot, slots = self.inactive, self.app / apps.SLOTS
            replaces = expected if expected != record.sha256 else None
            number: Any = apps.newest_record(self.app).get("number") or 0
            record = replace(record, number=number + 1, replaces=replaces)
            slots.mkdir(exist_ok=True)
            (slots / f"{slot}.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder(slot), ignore_errors=True)
            (self.app / apps.INCOMING).rename(self.folder(slot))
            self._write(slot, to_builtins(record))
            apps.activate(self.app, slot)

    def confirm_active(self, bundle: str, signed_by: str | None) -> None:
        """Raise BundleRefusedError unless this bundle is active, and record that a key signed it."""
        with self.switching():
            self.refuse_unless_active(bundle)
            slot, record = self.active, apps.record_of(self.app, self.active)
            if slot and record and signed_by is not None:
                self._write(slot, record | {"signed_by": signed_by})

    def _write(self, slot: str, record: Mapping[str, Any]) -> None:
        """Replace the record of a slot in one step."""
        slots = self.app / apps.SLOTS
        draft = slots / f".{slot}.json"
        draft.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        apps.sync(draft)
        draft.rename(slots / f"{slot}.json")
        apps.sync(slots)

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Lock the slots against a rollback. Raises TimeoutError."""
        with (self.app / apps.LOCK).open("w") as lock:
            for _ in apps.locking(lock, apps.LOCK_S):
                pass
            yield


@contextmanager
def pushing(app: Path, device: str, reporter: Reporter) -> Iterator[Slots]:
    """Lock an app's folder, which is created if necessary, against other pushes until the block or the process ends.

    A bundle that was received, and not activated, is deleted when the block ends.

    Turns errors of the file system into a DeviceError with the device's name.
    """
    try:
        app.mkdir(parents=True, exist_ok=True)
        with turn(app / apps.PUSHING, "another push", reporter):
            try:
                yield Slots(app)
            finally:
                shutil.rmtree(app / apps.INCOMING, ignore_errors=True)
    except TimeoutError as error:
        raise DeviceError(str(error), fix=RUN_AGAIN) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(device, "the push", f"'{error.filename or app}'") from error
        problem = f"the device can't write '{error.filename or app}': {error.strerror or error}"
        raise DeviceError(problem, fix="Check the permissions and the file system there") from error


@contextmanager
def turn(path: Path, other: str, reporter: Reporter) -> Iterator[None]:
    """Lock a file until the block or the process ends, and report that another one has it. Raises TimeoutError."""
    with path.open("w") as file:
        waits = apps.locking(file, TURN_S)
        for _ in waits:
            with reporter.stage(f"wait for {other}") as step:
                for _ in waits:
                    step()  # shows the host that this process isn't stuck
        yield


def not_in_store(name: str) -> DeviceError:
    """The error for a file that was in the device's store."""
    return DeviceError(f"'{name}' is not in the device's store any more: another run needed its space", fix=RUN_AGAIN)


def _link(source: Path, path: Path) -> None:
    """Make a hard link, or a copy where the file system has none, or is another one."""
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, path)


def fingerprint_of(pem: str) -> str:
    """Fingerprint of a key by its PEM text, as signatures name their key."""
    return hashlib.sha256(pem.encode()).hexdigest()


def other_key(own: str, sent: str, folder: str) -> SignatureError:
    """The error for a device whose key, in `folder`, is not the one that the host sent."""
    return SignatureError(
        f"the device trusts the key {fingerprint_of(own)}, and this machine has the key {fingerprint_of(sent)} for it",
        fix=f"If you have a new key, delete {folder}/{apps.TRUST} on the device, and push again",
    )
