"""Pushes and rollbacks without a device, by a process that can kill itself before any of their steps.

    python -m tests.helpers.slots APP STORE COUNT

makes COUNT pushes, and then one that is killed before its first step, its second, and so on, until it comes to its end,
and likewise a rollback. After each kill it tries again without one, which must bring what was asked for, and once more,
which must change nothing. It prints the number of steps, and the bundles that were active after a kill, of both as
JSON. It has no other threads, which a fork would lose.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import convert, to_builtins

from edgekit.devices.agent import holding, pushing, receive
from edgekit.devices.messages import AppState, DeviceTrial, SlotRecord, readable
from edgekit.devices.scripts.apps import active_slot, app_state, bundle_in, switch

TRIAL = DeviceTrial(
    engine="onnxruntime 1.32.0", python="3.13.5", threads=4, max_abs_difference=0, tolerance=0.1, p50_ms=1, p99_ms=2
)
STEPS = frozenset(
    ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree", "os.truncate")
)
"""Events of Python's audit hooks that come before a change of the file system."""


def store(folder: Path, content: str) -> dict[str, str]:
    """Put the two files of a bundle into a store. Returns their hashes by name."""
    folder.mkdir(exist_ok=True)
    hashes = {}
    for name in ("manifest.json", "model"):
        data = f"{name} of {content}".encode()
        hashes[name] = hashlib.sha256(data).hexdigest()
        (folder / hashes[name]).write_bytes(data)
    return hashes


def record(bundle: str, files: dict[str, str], place: Path | None = None) -> SlotRecord:
    return SlotRecord(
        bundle=bundle, sha256=files["manifest.json"], model=None, target="onnx", precision="int8",
        device_class="raspberry-pi-5", oldest_engine="1.20", files=files, max_p99_ms=None, trial=TRIAL, edgekit="0.1.0",
        sizes={name: (place / digest).stat().st_size for name, digest in files.items()} if place else {},
    )  # fmt: skip


def push(app: Path, files: dict[str, str], bundle: str, place: Path) -> None:
    with pushing(app, "board"):
        if holding(app, files) is None:
            receive(app, files, place)
        tried = to_builtins(record(bundle, files, place))
        assert switch(app, active_hash(app), files["manifest.json"], None, tried) is None


def roll_back(app: Path) -> None:
    target = state(app).returns_to
    assert target is not None
    assert switch(app, active_hash(app), target, None) is None


def active_hash(app: Path) -> str | None:
    digest = bundle_in(app, active_slot(app))
    return None if digest is None else str(digest)


def state(app: Path) -> AppState:
    return convert(readable(app_state(app, hashes=True)), AppState)


def active(app: Path) -> str:
    """Name of the active bundle, which must be intact."""
    slot = state(app).active
    assert slot is not None
    assert slot.problem is None
    assert slot.record is not None
    return slot.record.bundle


def ended_before_step(number: int, work: Callable[[], None]) -> bool:
    """Work in a fork that kills itself before this change of the file system. Returns whether it came that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def count_steps(event: str, _: object) -> None:
            nonlocal count
            if event in STEPS:
                count += 1
                if count > number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count_steps)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def killed_at_each_step(app: Path, work: Callable[[], None], undo: Callable[[], None]) -> tuple[int, list[str]]:
    """Number of steps of the work, and the bundles that were active after it was killed before one of them."""
    before, seen, number = active(app), set(), 0
    while ended_before_step(number, work):
        seen.add(active(app))
        work()
        assert (done := active(app)) != before
        work()
        assert active(app) == done
        undo()
        assert active(app) == before
        number += 1
    return number, sorted(seen)


def main(app: Path, place: Path, pushes: int) -> None:
    for index in range(pushes):
        push(app, store(place, str(index)), str(index), place)
    old, files, new = active(app), store(place, "new"), lambda: push(app, files, "new", place)
    before = store(place, old)
    pushed = killed_at_each_step(app, new, lambda: push(app, before, old, place))
    rolled_back = killed_at_each_step(app, lambda: roll_back(app), new)
    print(json.dumps([pushed, rolled_back]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
