"""The slots of an app without a device: kills before every step, the lock, damaged files, and a full disk."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.devices import slots
from edgekit.devices.scripts import apps
from edgekit.devices.scripts.apps import INCOMING, LOCK, PUSHING, SLOTS
from edgekit.devices.scripts.apps import roll_back as scripts_roll_back
from edgekit.devices.slots import pushing
from edgekit.errors import BundleRefusedError, DeviceError, DeviceFullError
from tests.helpers.missing import missing
from tests.helpers.refusals import refuses
from tests.helpers.slots import QUIET, active, active_hash, push, record, roll_back, state, store
from tests.helpers.tiny import ROOT


@pytest.mark.parametrize("pushes", [1, 2])
def test_what_is_killed_at_any_step_leaves_one_bundle_active_and_can_be_repeated(pushes: int, tmp_path: Path) -> None:
    app = tmp_path / "app"
    command = [sys.executable, "-m", "tests.helpers.slots", str(app), str(tmp_path / "store"), str(pushes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    old = str(pushes - 1)
    for (steps, seen), fewest in zip(json.loads(done.stdout), (12, 4), strict=True):
        assert steps >= fewest
        assert seen == sorted((old, "new")), "it was killed before and after the switch"
    assert active(app) == old
    assert {path.name for path in app.iterdir()} == {"current", SLOTS, LOCK, PUSHING}
    previous = state(app).previous
    assert previous is not None
    assert previous.problem is None


def test_a_rollback_returns_to_what_the_last_push_replaced(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    hashes = {name: store(place, name)["manifest.json"] for name in ("one", "two", "three")}
    push(app, store(place, "one"), "one", place)
    assert state(app).returns_to is None
    push(app, store(place, "two"), "two", place)
    for _ in range(3):
        roll_back(app)
        assert active(app) == "one"
    push(app, store(place, "three"), "three", place)
    assert state(app).returns_to == hashes["one"]
    push(app, store(place, "one"), "one", place)
    assert state(app).returns_to == hashes["three"], "both slots have a bundle that replaced the other one's"
    for _ in range(2):
        roll_back(app)
        assert active(app) == "three"


def test_what_another_command_has_switched_is_not_overwritten(tmp_path: Path) -> None:
    """The command that comes late saw another bundle before it waited for its turn."""
    app, place = tmp_path / "app", tmp_path / "store"
    one, two, three = (store(place, name) for name in ("one", "two", "three"))
    push(app, one, "one", place)
    push(app, two, "two", place)
    before = active_hash(app)
    roll_back(app)
    with pushing(app, "board", QUIET) as slots:
        slots.receive(three, place)
        with refuses(BundleRefusedError, "another bundle meanwhile"):
            slots.activate_incoming(record("three", three), before)
    assert active(app) == "one"
    refused = scripts_roll_back(app, three["manifest.json"], two["manifest.json"], None)
    assert refused
    assert "another bundle meanwhile" in refused["problem"]
    assert scripts_roll_back(app, before, one["manifest.json"], None) is None, "it is active already"
    assert active(app) == "one"


def test_a_rollback_to_a_bundle_that_is_damaged_or_gone_is_refused(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    one, two = (store(place, name) for name in ("one", "two"))
    push(app, one, "one", place)
    push(app, two, "two", place)
    (app / SLOTS / "a" / "model").unlink()
    for target, problem in ((one["manifest.json"], "file 'model' can't be read"), ("f" * 64, "in no slot")):
        refused = scripts_roll_back(app, two["manifest.json"], target, None)
        assert refused
        assert problem in refused["problem"]
    assert active_hash(app) == two["manifest.json"]


def test_a_rollback_waits_for_no_trial(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    push(app, store(place, "one"), "one", place)
    push(app, store(place, "two"), "two", place)
    with pushing(app, "board", QUIET) as slots:
        slots.receive(store(place, "three"), place)
        roll_back(app)
        assert active(app) == "one"


def test_a_lock_that_is_never_released_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    push(app, store(place, "one"), "one", place)
    push(app, store(place, "two"), "two", place)
    monkeypatch.setattr(apps, "LOCK_S", 0.1)
    monkeypatch.setattr(slots, "TURN_S", 0.1)
    with (app / LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="lock"):
            roll_back(app)
    with (app / PUSHING).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with refuses(DeviceError, f"the lock '{app / PUSHING}'"), pushing(app, "board", QUIET):
            pass


def test_what_a_status_says_about_damage(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    app.mkdir()
    assert (state(app).active, state(app).verdict) == (None, None)
    push(app, store(place, "old"), "old", place)
    push(app, store(place, "new"), "new", place)
    assert state(app).verdict == "pass"
    (app / SLOTS / "a" / "model").unlink()
    model = app / SLOTS / "b" / "model"
    model.unlink()
    model.write_text("something else")
    now = state(app)
    assert now.verdict == "error"
    assert now.active
    assert now.active.problem == "file 'model' was changed"
    assert now.previous
    assert "file 'model' can't be read" in str(now.previous.problem)
    (app / SLOTS / "b.json").write_text("{")
    now = state(app)
    assert now.active
    assert (now.active.record, now.verdict) == (None, "error")
    (app / "current").unlink()
    (app / "current").symlink_to(tmp_path)
    assert state(app).active is None


def test_files_that_are_gone_or_damaged_in_the_store(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    files = store(place, "old")
    damaged = place / files["model"]
    damaged.write_text("damaged")
    with pushing(app, "board", QUIET) as slots, refuses(DeviceError, "'model'"):
        slots.receive(files, place)
    assert not damaged.exists(), "the next copy sends it again"
    with pushing(app, "board", QUIET) as slots, pytest.raises(DeviceError):
        slots.receive(files, place)
    assert state(app).active is None


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    app = tmp_path / "app"
    program = """
import sys
from pathlib import Path
from tests.helpers.slots import pushing
from edgekit.support.progress import Reporter
class Shown(Reporter):
    def stage(self, title, total=None):
        print(title, flush=True)
        return super().stage(title, total)
with pushing(Path(sys.argv[1]), "board", Shown(quiet=True)):
    print("entered", flush=True)
    sys.stdin.read()
"""

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", program, str(app)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with start() as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"entered\n"
        with start() as waiter:
            assert waiter.stdout
            assert waiter.stdout.readline() == b"wait for another push\n"
            holder.kill()
            assert waiter.communicate()[0] == b"entered\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, with space for one bundle."""
    if os.geteuid() != 0:
        missing("needs root, to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "edgekit", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_the_active_bundle(small_disk: Path, tmp_path: Path) -> None:
    app, place = small_disk / "app", tmp_path / "store"
    push(app, store(place, "old"), "old", place)
    large = store(place, "x" * 100_000)
    with pytest.raises(DeviceFullError):
        push(app, large, "new", place)
    assert active(app) == "old"
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk)))
    with pytest.raises(DeviceFullError):
        push(app, store(place, "new"), "new", place)
    assert active(app) == "old"
    (small_disk / "filler").unlink()
    push(app, store(place, "new"), "new", place)
    assert active(app) == "new"
    assert not (app / INCOMING).exists()


def small_disk_free(place: Path) -> int:
    """Free bytes on a file system."""
    facts = os.statvfs(place)
    return facts.f_bavail * facts.f_bsize


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError), pushing(tmp_path / "file" / "app", "board", QUIET):
        pass
