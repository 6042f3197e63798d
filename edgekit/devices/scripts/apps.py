"""Describes the apps on a device and the bundles in their slots, or makes another bundle active: the only switch.

    ~/edgekit-apps/APP/slots/a            a bundle
    ~/edgekit-apps/APP/slots/a.json       its record, which is written after it has passed its trial on the device
    ~/edgekit-apps/APP/slots/b, b.json    another bundle
    ~/edgekit-apps/APP/current            link to the active slot, slots/a or slots/b; its age is the time of the switch
    ~/edgekit-apps/APP/incoming           a bundle that was not tried yet
    ~/edgekit-apps/APP/lock               is locked only while the slots and the link change
    ~/edgekit-apps/trust.pem              public key that signed all bundles; unsigned ones are taken without it

One bundle is active at any time: the link is replaced in one step, after everything that it points to was written to
the disk, and nothing that it points to is ever changed. A process that is killed, or a device that loses power, leaves
the old bundle or the new one active, and files that the next push removes.

The argument is a JSON request: {"apps": [NAME], "hashes": BOOL}, where an empty list stands for all, or {"roll_back":
NAME, "expected": SHA256, "target": SHA256, "trust": PEM}. `edgekit.devices.messages` has the answers. A switch changes
nothing if neither the target nor the expected bundle is active. It compares names and sizes with the record, and reads
no file of a bundle: the trial has verified their content, and so does an app that loads it. So a rollback needs no
environment, and waits for neither a measurement nor a trial. Only with "hashes" the files are read, for a status.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

APPS = "edgekit-apps"
CURRENT, SLOTS, INCOMING, LOCK = "current", "slots", "incoming", "lock"
TRUST = "trust.pem"
OTHER = {"a": "b", "b": "a"}
"""The other slot, by the name of a slot."""
RECORD = {"sha256": str, "files": dict, "sizes": dict, "number": int}
"""What a record must have here; `edgekit.devices.messages.SlotRecord` is the whole of it."""
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


def record_of(app: Path, slot: "str | None") -> "dict[str, Any] | None":
    """The record of the bundle in a slot, or None if it passed no trial, or the record is damaged."""
    try:
        record = json.loads((app / SLOTS / f"{slot}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in RECORD.items())
    return record if fits else None


def bundle_in(app: Path, slot: "str | None") -> "str | None":
    """Hash of the bundle in a slot, or None if it passed no trial."""
    return (record_of(app, slot) or {}).get("sha256")


def records(app: Path) -> "list[dict[str, Any]]":
    """The records in the slots, the one of the last push last."""
    return sorted(filter(None, (record_of(app, slot) for slot in OTHER)), key=lambda record: record["number"])


def damage(folder: Path, record: "dict[str, Any]", hashes: bool) -> "str | None":
    """What is wrong with the first file that doesn't have its size or, with `hashes`, its SHA-256; or None."""
    for name, digest in record["files"].items():
        try:
            intact = (folder / name).stat().st_size == record["sizes"].get(name)
            if intact and hashes:
                with (folder / name).open("rb") as file:
                    intact = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError as error:
            return f"file '{name}' can't be read: {error.strerror}"
        if not intact:
            return f"file '{name}' was changed"
    return None


def trusted_key(folder: Path) -> "str | None":
    """The public key in the folder of all apps, or None."""
    return (folder / TRUST).read_text("utf-8") if (folder / TRUST).exists() else None


def slot_state(app: Path, slot: str, hashes: bool) -> "dict[str, object]":
    """The bundle in a slot, and what is wrong with it."""
    record = record_of(app, slot)
    problem = damage(app / SLOTS / slot, record, hashes) if record else "the bundle has no record of a trial"
    return {"slot": slot, "sha256": bundle_in(app, slot), "record": record, "problem": problem}


def app_state(app: Path, hashes: bool = False) -> "dict[str, object]":
    """The bundles of an app, and the one to which a rollback returns."""
    active, known = active_slot(app), records(app)
    other = OTHER[active] if active else None
    since = os.lstat(app / CURRENT).st_mtime if active else None
    bundle = slot_state(app, active, hashes) if active else None
    return {
        "name": app.name,
        "path": str(app / CURRENT),
        "trust": str(app.parent / TRUST) if (app.parent / TRUST).exists() else None,
        "verdict": ("error" if bundle["problem"] else "pass") if bundle else None,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)) if since else None,
        "active": bundle,
        "previous": slot_state(app, other, hashes) if other and record_of(app, other) else None,
        "returns_to": known[-1].get("replaces") if known else None,
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


def switch(
    app: Path, expected: "str | None", target: str, trust: "str | None", tried: "dict[str, Any] | None" = None
) -> "dict[str, str] | None":
    """Make the target active, unless it is. Returns the fields of an error if that is refused.

    A push gives the record of what it has `tried`: the incoming bundle, which is moved into the inactive slot, or
    without one the active bundle. A rollback has none, and takes the target from its slot.
    """
    with (app / LOCK).open("w") as lock:
        for _ in locking(lock, LOCK_S):
            pass
        active, moves = active_slot(app), tried is not None and (app / INCOMING).exists()
        if bundle_in(app, active) not in ((expected, target) if moves or not tried else (target,)):
            return refusal("another command has switched the app to another bundle meanwhile", AGAIN)
        slot = next((slot for slot in (active, *OTHER) if slot and bundle_in(app, slot) == target), None)
        record = tried or record_of(app, slot)
        if record is None:
            return refusal(f"the bundle {target[:12]} is in no slot of the app '{app.name}'", PUSH)
        if not tried and (problem := damage(app / SLOTS / str(slot), record, hashes=False)):
            return refusal(f"the bundle {target[:12]} is damaged: {problem}", PUSH)
        key = trusted_key(app.parent) or trust
        if key is not None and not accepts(key, record, records(app)):
            return refusal(f"the key of the device didn't sign the bundle {target[:12]}", PUSH, "SignatureError")
        if tried:
            slot = settle(app, active, tried, expected, moves)
        if slot != active:
            activate(app, str(slot))
        if tried and trust is not None and trusted_key(app.parent) is None:
            write(app.parent / TRUST, trust)
    for old in (app / SLOTS).glob(".old-*"):
        shutil.rmtree(old, ignore_errors=True)
    return None


def accepts(key: str, record: "dict[str, Any]", others: "list[dict[str, Any]]") -> bool:
    """Whether a key signed a bundle, or one that it signed has replaced it: the first signed one can be taken back."""
    signer = hashlib.sha256(key.encode()).hexdigest()
    signed = [other["replaces"] for other in others if other.get("signed_by") == signer]
    return record.get("signed_by") == signer or record["sha256"] in signed


def settle(
    app: Path, active: "str | None", record: "dict[str, Any]", expected: "str | None", moves: bool
) -> "str | None":
    """Write the record of the active bundle or, if it `moves`, the incoming one, which gets the inactive slot.

    Returns the slot. The bundle that was there is only moved aside, because a file in it may not be deletable.
    """
    slots, known = app / SLOTS, records(app)
    slot, kept = active, record_of(app, active) or {}
    number, replaces = kept.get("number"), kept.get("replaces")
    if moves:
        slots.mkdir(exist_ok=True)
        slot = OTHER[active] if active else "a"
        number, replaces = known[-1]["number"] + 1 if known else 1, expected if expected != record["sha256"] else None
        (slots / f"{slot}.json").unlink(missing_ok=True)
        if (slots / slot).exists():
            (slots / slot).rename(slots / f".old-{time.time_ns()}")
        (app / INCOMING).rename(slots / slot)
    write(slots / f"{slot}.json", json.dumps({**record, "number": number, "replaces": replaces}, indent=1) + "\n")
    return slot


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, "utf-8")
    sync(draft)
    draft.rename(path)
    sync(path.parent)


AGAIN = "See with `edgekit devices status` what is active, then run the same command again"
PUSH = "Push the bundle that you want with `edgekit push`"


def refusal(problem: str, fix: str, error: str = "BundleRefusedError") -> "dict[str, str]":
    """The fields of an error."""
    return {"error": error, "problem": problem, "valid": "", "fix": fix}


if __name__ == "__main__":
    place, request = Path.home() / APPS, json.loads(sys.argv[1])
    if name := request.get("roll_back"):
        refused = switch(place / name, request["expected"], request["target"], request["trust"])
        print(json.dumps({"app": app_state(place / name), "refusal": refused}))
    else:
        folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        apps = [
            app_state(path, request["hashes"])
            for path in folders
            if not request["apps"] or path.name in request["apps"]
        ]
        free = shutil.disk_usage(place if place.is_dir() else Path.home()).free
        print(json.dumps({"folder": str(place), "disk_free_bytes": free, "trust": trusted_key(place), "apps": apps}))
