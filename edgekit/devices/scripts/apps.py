"""Describes the apps on a device, and the bundles in their slots, as one JSON object. Changes nothing.

    ~/edgekit-apps/APP/slots/a            a bundle
    ~/edgekit-apps/APP/slots/a.json       its record, which is written after it has passed its trial on the device
    ~/edgekit-apps/APP/slots/b, b.json    another bundle
    ~/edgekit-apps/APP/current            link to the active slot, slots/a or slots/b; its age is the time of the switch
    ~/edgekit-apps/APP/incoming           a bundle that was not tried yet
    ~/edgekit-apps/APP/lock               is locked by the process that changes the app's folder
    ~/edgekit-apps/trust.pem              public key that signed all bundles; unsigned ones are taken without it

The argument is a JSON request: {"apps": [NAME]}, where an empty list stands for all. `edgekit.devices.app_state`
has the keys of the answer.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

APPS = "edgekit-apps"
CURRENT, SLOTS, INCOMING, LOCK = "current", "slots", "incoming", "lock"
TRUST = "trust.pem"
OTHER = {"a": "b", "b": "a"}
"""The other slot, by the name of a slot."""


def active_slot(app: Path) -> "str | None":
    """Name of the slot to which an app's link points; None without a link, and for a link to another place."""
    try:
        target = os.readlink(app / CURRENT)
    except OSError:
        return None
    return next((slot for slot in OTHER if target == f"{SLOTS}/{slot}"), None)


def record_of(app: Path, slot: str) -> "dict[str, object] | None":
    """The record of the bundle in a slot, or None if it passed no trial."""
    try:
        record = json.loads((app / SLOTS / f"{slot}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


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
    """The active bundle of an app, and the one to which a rollback returns."""
    active = active_slot(app)
    previous = [slot for slot in OTHER if slot != active and record_of(app, slot) is not None]
    since = os.lstat(app / CURRENT).st_mtime if active else None
    bundle = slot_state(app, active) if active else None
    return {
        "name": app.name,
        "path": str(app / CURRENT),
        "trust": str(app.parent / TRUST) if (app.parent / TRUST).exists() else None,
        "verdict": ("error" if bundle["problem"] else "pass") if bundle else None,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)) if since else None,
        "active": bundle,
        "previous": slot_state(app, previous[0]) if active and previous else None,
    }


if __name__ == "__main__":
    place = Path.home() / APPS
    wanted = json.loads(sys.argv[1])["apps"]
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    apps = [app_state(path) for path in folders if not wanted or path.name in wanted]
    free = shutil.disk_usage(place if place.is_dir() else Path.home()).free
    print(json.dumps({"folder": str(place), "disk_free_bytes": free, "trust": trusted_key(place), "apps": apps}))
