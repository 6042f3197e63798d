"""Describes the apps on a device and the bundles in their slots, or makes a bundle in a slot active again.

    ~/edgekit-apps/APP/slots/a            a bundle
    ~/edgekit-apps/APP/slots/a.json       its record, which is written after it has passed its trial on the device
    ~/edgekit-apps/APP/slots/b, b.json    another bundle
    ~/edgekit-apps/APP/current            link to the active slot, slots/a or slots/b; its age is the time of the switch
    ~/edgekit-apps/APP/incoming           a bundle that was not tried yet
    ~/edgekit-apps/APP/pushing            is locked by a push, from the receipt of its bundle to its end
    ~/edgekit-apps/APP/lock               is locked only while the slots and the link change
    ~/edgekit-apps/trust.pem              public key that signed all bundles; unsigned ones are taken without it

The argument is a JSON request: {"apps": [NAME]}, where an empty list stands for all, or {"roll_back": NAME, "expected":
SHA256, "target": SHA256, "trust": PEM}. `edgekit.devices.app_state` has the answers. A rollback needs no environment,
and waits for neither a measurement nor a trial. It compares the bundle's files with the record, and changes nothing if
the target is active already, or if neither the target nor the expected bundle is.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

APPS = "edgekit-apps"
CURRENT, SLOTS, INCOMING, PUSHING, LOCK = "current", "slots", "incoming", "pushing", "lock"
TRUST = "trust.pem"
OTHER = {"a": "b", "b": "a"}
"""The other slot, by the name of a slot."""
LOCK_S = 60
"""Time limit for the lock of the slots, which nobody holds for longer than a few files take to reach the disk."""
POLL_S = 0.2


def active_slot(app: Path) -> "str | None":
    """Name of the slot to which an app's link points; None without a link, and for a link to another place."""
    try:
        target = os.readlink(app / CURRENT)
    except OSError:
        return None
    return next((slot for slot in OTHER if target == f"{SLOTS}/{slot}"), None)


def record_of(app: Path, slot: "str | None") -> "dict[str, object] | None":
    """The record of the bundle in a slot, or None if it passed no trial."""
    try:
        record = json.loads((app / SLOTS / f"{slot}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def bundle_in(app: Path, slot: "str | None") -> "object | None":
    """Hash of the bundle in a slot, or None if it passed no trial."""
    return (record_of(app, slot) or {}).get("sha256")


def newest_record(app: Path) -> "dict[str, object]":
    """The record of the app's last push, or an empty one."""
    records = [record for record in (record_of(app, slot) for slot in OTHER) if record is not None]
    return max(records, key=lambda record: record.get("number") or 0, default={})  # type: ignore[arg-type, return-value]


def damage(folder: Path, files: "dict[str, str]") -> "str | None":
    """What is wrong with the first file of a folder that doesn't have its SHA-256, or None."""
    for name, digest in files.items():
        try:
            with (folder / name).open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError as error:
            return f"file '{name}' can't be read: {error.strerror}"
        if not intact:
            return f"file '{name}' was changed"
    return None


def trusted_key(folder: Path) -> "str | None":
    """The public key in the folder of all apps, or None."""
    try:
        return (folder / TRUST).read_text("utf-8")
    except FileNotFoundError:
        return None


def slot_state(app: Path, slot: str) -> "dict[str, object]":
    """The bundle in a slot, and what is wrong with it."""
    record = record_of(app, slot)
    if record is None:
        return {"slot": slot, "record": None, "problem": "the bundle has no record of a trial"}
    return {"slot": slot, "record": record, "problem": damage(app / SLOTS / slot, dict(record["files"]))}  # type: ignore[call-overload]


def app_state(app: Path) -> "dict[str, object]":
    """The bundles of an app, and the one to which a rollback returns."""
    active = active_slot(app)
    others = [slot for slot in OTHER if slot != active and record_of(app, slot) is not None]
    since = os.lstat(app / CURRENT).st_mtime if active else None
    bundle = slot_state(app, active) if active else None
    return {
        "name": app.name,
        "path": str(app / CURRENT),
        "trust": str(app.parent / TRUST) if (app.parent / TRUST).exists() else None,
        "verdict": ("error" if bundle["problem"] else "pass") if bundle else None,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)) if since else None,
        "active": bundle,
        "previous": slot_state(app, others[0]) if active and others else None,
        "returns_to": newest_record(app).get("replaces"),
    }


def locking(file: "IO[str]", limit_s: float) -> "Iterator[None]":
    """Lock a file until it is closed, and yield from time to time while another process holds the lock.

    Raises TimeoutError after `limit_s`.
    """
    import fcntl  # devices have it, but not every host that imports this module

    end = time.monotonic() + limit_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"another process has held the lock '{file.name}' for {limit_s:.0f} s") from None
        yield
        time.sleep(POLL_S)


def activate(app: Path, slot: str) -> None:
    """Point an app's link to a slot, in one step."""
    sync(app)
    draft = app / f".{CURRENT}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(f"{SLOTS}/{slot}")
    draft.rename(app / CURRENT)
    sync(app)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def roll_back(app: Path, expected: "str | None", target: str, trust: "str | None") -> "dict[str, str] | None":
    """Make the target active, unless it is. Returns the fields of an error if that is refused."""
    with (app / LOCK).open("w") as lock:
        for _ in locking(lock, LOCK_S):
            pass
        active = active_slot(app)
        slot = next((slot for slot in (active, *OTHER) if slot and bundle_in(app, slot) == target), None)
        if slot != active and bundle_in(app, active) != expected:
            return refusal("another command has switched the app to another bundle meanwhile", AGAIN)
        record = record_of(app, slot)
        if slot is None or record is None:
            return refusal(f"the bundle {target[:12]} is in no slot of the app '{app.name}'", PUSH)
        if problem := damage(app / SLOTS / slot, dict(record["files"])):  # type: ignore[call-overload]
            return refusal(f"the bundle {target[:12]} is damaged: {problem}", PUSH)
        key = trusted_key(app.parent) or trust
        if key is not None and record.get("signed_by") != hashlib.sha256(key.encode()).hexdigest():
            return refusal(f"the key of the device didn't sign the bundle {target[:12]}", PUSH, "SignatureError")
        if slot != active:
            activate(app, slot)
    return None


AGAIN = "See with `edgekit devices status` what is active, then run the same command again"
PUSH = "Push the bundle that you want with `edgekit push`"


def refusal(problem: str, fix: str, error: str = "BundleRefusedError") -> "dict[str, str]":
    """The fields of an error."""
    return {"error": error, "problem": problem, "valid": "", "fix": fix}


if __name__ == "__main__":
    place, request = Path.home() / APPS, json.loads(sys.argv[1])
    if name := request.get("roll_back"):
        refused = roll_back(place / name, request["expected"], request["target"], request["trust"])
        print(json.dumps({"app": app_state(place / name), "refusal": refused}))
    else:
        folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        apps = [app_state(path) for path in folders if not request["apps"] or path.name in request["apps"]]
        free = shutil.disk_usage(place if place.is_dir() else Path.home()).free
        print(json.dumps({"folder": str(place), "disk_free_bytes": free, "trust": trusted_key(place), "apps": apps}))
