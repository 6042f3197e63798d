"""The slots of an app without a device: kills before every step, the lock, damaged files, and a full disk."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import convert, to_builtins

from edgekit.devices.agent import pushing, receive
from edgekit.devices.messages import UNREADABLE, AppState, readable
from edgekit.devices.registry import fingerprint_of
from edgekit.devices.scripts import apps
from edgekit.devices.scripts.apps import INCOMING, LOCK, SLOTS, TRUST, app_state, switch
from edgekit.errors import DeviceError, DeviceFullError
from tests.helpers.missing import missing
from tests.helpers.refusals import refuses
from tests.helpers.slots import active, active_hash, push, record, roll_back, state, store
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
    assert {path.name for path in app.iterdir()} == {"current", SLOTS, LOCK}
    assert {path.name for path in (app / SLOTS).iterdir()} == {"a", "a.json", "b", "b.json"}
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
    with pushing(app, "board"):
        receive(app, three, place)
        refused = switch(app, before, three["manifest.json"], None, to_builtins(record("three", three, place)))
    assert refused
    assert "another bundle meanwhile" in refused["problem"]
    assert active(app) == "one"
    refused = switch(app, three["manifest.json"], two["manifest.json"], None)
    assert refused
    assert "another bundle meanwhile" in refused["problem"]
    assert switch(app, before, one["manifest.json"], None) is None, "it is active already"
    assert active(app) == "one"
    tried_in_its_slot = to_builtins(record("two", two, place))
    refused = switch(app, one["manifest.json"], two["manifest.json"], None, tried_in_its_slot)
    assert refused, "the bundle that was tried there is not the active one any more"
    assert active(app) == "one"


def test_a_rollback_to_a_bundle_that_is_damaged_or_gone_is_refused(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    one, two = (store(place, name) for name in ("one", "two"))
    push(app, one, "one", place)
    push(app, two, "two", place)
    (app / SLOTS / "a" / "model").unlink()
    for target, problem in ((one["manifest.json"], "file 'model' can't be read"), ("f" * 64, "in no slot")):
        refused = switch(app, two["manifest.json"], target, None)
        assert refused
        assert problem in refused["problem"]
    assert active_hash(app) == two["manifest.json"]


def test_a_rollback_waits_for_no_trial(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    push(app, store(place, "one"), "one", place)
    push(app, store(place, "two"), "two", place)
    with pushing(app, "board"):
        receive(app, store(place, "three"), place)
        roll_back(app)
        assert active(app) == "one"


def test_a_lock_that_is_never_released_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    push(app, store(place, "one"), "one", place)
    push(app, store(place, "two"), "two", place)
    monkeypatch.setattr(apps, "LOCK_S", 0.1)
    with (app / LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="lock"):
            roll_back(app)


@pytest.mark.parametrize("hashes", [False, True])
def test_only_a_status_reads_the_files_of_bundles(tmp_path: Path, hashes: bool) -> None:
    """A rollback of some gigabytes would take minutes at the speed of an SD card, in which the slots are locked."""
    app, place = tmp_path / "app", tmp_path / "store"
    one, two = (store(place, name) for name in ("one", "two"))
    push(app, one, "one", place)
    push(app, two, "two", place)
    code = f"""
import sys
from pathlib import Path
from edgekit.devices.scripts.apps import app_state, switch
app = Path({str(app)!r})
sys.addaudithook(lambda event, about: event == "open" and print(about[0]))
app_state(app, {hashes})
assert switch(app, {two["manifest.json"]!r}, {one["manifest.json"]!r}, None) is None
app_state(app, {hashes})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    opened = [line for line in done.stdout.splitlines() if line.endswith(("/model", "/manifest.json"))]
    assert bool(opened) == hashes
    assert active(app) == "one"


def test_a_key_accepts_what_it_signed_and_the_bundle_that_its_first_one_replaced(tmp_path: Path) -> None:
    app, place, key = tmp_path / "app", tmp_path / "store", "a public key"
    hashes = {name: store(place, name)["manifest.json"] for name in ("one", "two", "signed")}

    def refusal(target: str) -> str | None:
        refused = switch(app, active_hash(app), hashes[target], key)
        return refused["error"] if refused else None

    for name in ("one", "two"):
        push(app, store(place, name), name, place)
    assert refusal("one") == "SignatureError", "it was not active when the key came"
    files = store(place, "signed")
    with pushing(app, "board"):
        receive(app, files, place)
        tried = replace(record("signed", files, place), signed_by=fingerprint_of(key))
        assert switch(app, hashes["two"], hashes["signed"], key, to_builtins(tried)) is None
    assert (tmp_path / TRUST).read_text() == key
    assert refusal("two") is None
    assert active(app) == "two"
    assert refusal("signed") is None
    assert active(app) == "signed"


def test_a_rollback_compares_sizes(tmp_path: Path) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    one, two = (store(place, name) for name in ("one", "two"))
    push(app, one, "one", place)
    push(app, two, "two", place)
    with (app / SLOTS / "a" / "model").open("ab") as file:
        file.write(b"more")
    refused = switch(app, two["manifest.json"], one["manifest.json"], None)
    assert refused
    assert "file 'model' was changed" in refused["problem"]


def test_a_push_over_a_bundle_whose_files_can_not_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be root's, after a `sudo` in the folder."""
    app, place = tmp_path / "app", tmp_path / "store"
    for name in ("one", "two"):
        push(app, store(place, name), name, place)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    push(app, store(place, "three"), "three", place)
    assert active(app) == "three"
    roll_back(app)
    assert active(app) == "two"
    monkeypatch.undo()
    push(app, store(place, "four"), "four", place)
    assert {path.name for path in (app / SLOTS).iterdir()} == {"a", "a.json", "b", "b.json"}


@pytest.mark.parametrize(
    "change", [{"files": None}, {"number": "3"}, {"trial": {}}, {"precision": "int4"}, {"sha256": 5}, {"bundle": None}]
)
def test_a_record_that_this_version_can_not_read_stops_neither_a_status_nor_a_push(
    tmp_path: Path, change: dict[str, object]
) -> None:
    app, place = tmp_path / "app", tmp_path / "store"
    for name in ("one", "two"):
        push(app, store(place, name), name, place)
    path = app / SLOTS / "b.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    shown = convert(readable(app_state(app)), AppState)
    assert shown.active
    assert (shown.verdict, shown.active.record) == ("error", None)
    assert shown.active.problem in (UNREADABLE, "the bundle has no record of a trial")
    assert shown.previous
    assert shown.previous.record
    push(app, store(place, "three"), "three", place)
    assert active(app) == "three"


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
    with pushing(app, "board"), refuses(DeviceError, "'model'", "damaged"):
        receive(app, files, place)
    assert not damaged.exists(), "the next copy sends it again"
    with pushing(app, "board"), refuses(DeviceError, "'model'", "any more"):
        receive(app, files, place)
    assert state(app).active is None


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
    with refuses(DeviceFullError, f"'{app}'"):
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
    with pytest.raises(DeviceError), pushing(tmp_path / "file" / "app", "board"):
        pass
