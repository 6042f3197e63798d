"""The slots of an app without a device: kills before every step, the lock, damaged files, and a full disk."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.devices.scripts.apps import INCOMING, SLOTS
from edgekit.devices.slots import changing
from edgekit.errors import DeviceError, DeviceFullError
from tests.helpers.refusals import refuses
from tests.helpers.slots import QUIET, active, push, state, store
from tests.helpers.tiny import ROOT
from tests.helpers.waiting import wait_until


@pytest.mark.parametrize("pushes", [1, 2])
def test_a_push_that_is_killed_at_any_step_leaves_one_bundle_active(pushes: int, tmp_path: Path) -> None:
    app = tmp_path / "app"
    command = [sys.executable, "-m", "tests.helpers.slots", str(app), str(tmp_path / "store"), str(pushes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    steps, seen = json.loads(done.stdout)
    assert steps >= 12
    assert seen == sorted((str(pushes - 1), "new")), "it was killed before and after the switch"
    assert active(app) == "new"
    assert {path.name for path in app.iterdir()} == {"current", SLOTS, "lock"}
    previous = state(app).previous
    assert previous is not None
    assert previous.problem is None


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
    with changing(app, "board", QUIET) as slots, refuses(DeviceError, "'model'"):
        slots.receive(files, place)
    assert not damaged.exists(), "the next copy sends it again"
    with changing(app, "board", QUIET) as slots, pytest.raises(DeviceError):
        slots.receive(files, place)
    assert state(app).active is None


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    app = tmp_path / "app"
    with changing(app, "board", QUIET):
        pass
    enter = "import sys; from pathlib import Path; from tests.helpers.slots import QUIET, changing; "
    enter += "lock = changing(Path(sys.argv[1]), 'board', QUIET); lock.__enter__(); print(flush=True)"

    def start(more: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", enter + more, app], cwd=ROOT, stdout=subprocess.PIPE)

    with start("; import time; time.sleep(600)") as holder:
        assert holder.stdout
        holder.stdout.readline()
        with start("; print('entered')") as waiter:
            place = Path(f"/proc/{waiter.pid}/wchan")
            wait_until(lambda: "lock" in place.read_text(), "it waits for the lock")
            assert waiter.poll() is None
            holder.kill()
            assert waiter.communicate()[0].split() == [b"entered"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, with space for one bundle."""
    if os.geteuid() != 0:
        reason = "needs root, to mount a small file system"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
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
    with pytest.raises(DeviceError), changing(tmp_path / "file" / "app", "board", QUIET):
        pass
