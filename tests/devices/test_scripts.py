"""The store and the environments on a device, which keep only what was used last."""

import fcntl
import hashlib
import io
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.config.runtimes import RUNTIMES
from edgekit.devices import agent
from edgekit.devices.scripts import environment, store

HOUR = 3600


def put(folder: Path, name: str, size: int, hours: float) -> None:
    """Create a file that was last used this many hours ago."""
    (folder / name).write_bytes(bytes(size))
    os.utime(folder / name, (time.time() - hours * HOUR,) * 2)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_listing_a_file_counts_as_use(tmp_path: Path) -> None:
    put(tmp_path, "a", 3, 100)
    put(tmp_path, "short", 2, 100)
    assert store.missing(tmp_path, {"a": 3, "short": 3, "b": 1}) == ["short", "b"]
    assert [path.name for _, _, path in store.removable(tmp_path, {})] == ["short"]
    assert store.removable(tmp_path / "none", {}) == []


def test_files_are_kept_for_a_month_while_they_are_small(tmp_path: Path) -> None:
    for name, hours in (("now", 0), ("yesterday", 24), ("old", 31 * 24), (".old.tmp-1", 6), (".new.tmp-2", 0.5)):
        put(tmp_path, name, 10, hours)
    store.make_room(tmp_path, {"new": 10})
    assert names(tmp_path) == {"now", "yesterday", ".new.tmp-2"}


def test_a_run_that_waits_for_its_turn_keeps_its_files_and_its_environment() -> None:
    assert min(store.RECENT_S, environment.RECENT_S) > agent.TURN_S


def test_files_that_another_run_renames_or_deletes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are listed and then gone, which a link to nothing imitates."""
    put(tmp_path, "old", 10, 31 * 24)
    (tmp_path / ".new.tmp-1").symlink_to(tmp_path / "gone")
    assert [path.name for _, _, path in store.removable(tmp_path, {})] == ["old"]
    listed = store.removable(tmp_path, {})
    (tmp_path / "old").unlink()
    monkeypatch.setattr(store, "removable", lambda *_: listed)
    store.make_room(tmp_path, {"new": 10})
    put(tmp_path, "a", 3, 100)
    monkeypatch.setattr(os, "utime", lambda path: path.unlink() or path.stat())
    assert store.missing(tmp_path, {"a": 3}) == ["a"]


def test_the_longest_unused_are_deleted_first_and_recent_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KEPT_BYTES", 100)
    for name, hours in (("c", 6), ("b", 24), ("a", 48), ("wanted", 72), ("recent", 0.1)):
        put(tmp_path, name, 30, hours)
    store.make_room(tmp_path, {"new": 10, "wanted": 30})
    assert names(tmp_path) == {"wanted", "recent"}
    put(tmp_path, "c", 30, 6)
    put(tmp_path, "b", 30, 24)
    store.make_room(tmp_path, {"new": 10})
    assert names(tmp_path) == {"recent", "b", "c"}, "no more files are deleted than necessary"


def test_a_full_disk_deletes_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", 30, 24)
    store.make_room(tmp_path, {"new": 10})
    assert names(tmp_path) == {"a"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 95, 5))
    store.make_room(tmp_path, {"new": 10})
    assert names(tmp_path) == set()


CONTENT = bytes(range(256)) * 40
NAME = hashlib.sha256(CONTENT).hexdigest()


def receive(folder: Path, content: bytes, offset: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Receive a file whose first bytes are there; returns the files that arrived damaged."""
    patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    return store.receive(folder, {NAME: len(CONTENT)}, {NAME: offset})


def test_a_copy_that_was_cut_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHUNK", 1000)
    with pytest.raises(SystemExit, match="the data ended 7740 bytes early"):
        receive(tmp_path, CONTENT[:2500], 0, monkeypatch)
    assert store.missing(tmp_path, {NAME: len(CONTENT)}) == [NAME]
    assert store.partial(tmp_path, [NAME, "other"]) == {NAME: 2500}
    with pytest.raises(SystemExit):
        receive(tmp_path, CONTENT[2500:5000], 2500, monkeypatch)
    assert receive(tmp_path, CONTENT[4000:], 4000, monkeypatch) == [], "it may go back"
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert names(tmp_path) == {NAME}


def test_a_part_that_is_damaged_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.part_of(tmp_path, NAME).write_bytes(b"?" + CONTENT[1:2500])
    assert receive(tmp_path, CONTENT[2500:], 2500, monkeypatch) == [NAME]
    store.part_of(tmp_path, NAME).write_bytes(CONTENT[:100])
    assert receive(tmp_path, CONTENT[2500:], 2500, monkeypatch) == [NAME], "another run has shortened it"
    assert names(tmp_path) == set()
    assert receive(tmp_path, CONTENT, 0, monkeypatch) == []


def test_two_runs_that_receive_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = store.part_of(tmp_path, NAME)
    part.write_bytes(CONTENT[:2500])
    with part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert receive(tmp_path, CONTENT[2000:], 2000, monkeypatch) == []
        assert (tmp_path / NAME).read_bytes() == CONTENT
        assert part.read_bytes() == CONTENT[:2500], "the other one writes on"


def test_another_run_has_received_the_file_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert receive(tmp_path, CONTENT[2500:], 2500, monkeypatch) == []
    assert (tmp_path / NAME).read_bytes() == CONTENT
    (tmp_path / NAME).write_bytes(CONTENT[:100])
    assert receive(tmp_path, CONTENT, 0, monkeypatch) == [], "a file that was shortened doesn't count"
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert names(tmp_path) == {NAME}


def test_a_part_counts_as_a_file(tmp_path: Path) -> None:
    put(tmp_path, f".{NAME}.part", 10, 24)
    store.make_room(tmp_path, {"new": 10})
    assert names(tmp_path) == {f".{NAME}.part"}


def test_wheels_are_unpacked_without_what_no_model_needs(tmp_path: Path) -> None:
    wheel = "ai_edge_litert-2.1.0"
    members = {
        "ai_edge_litert/interpreter.py": "packages",
        "ai_edge_litert/libLiteRt.so": "packages",
        "ai_edge_litert/libLiteRtWebGpuAccelerator.so": "",
        f"{wheel}.data/platlib/ai_edge_litert/kernels.so": "packages",
        f"{wheel}.data/purelib/litert.py": "packages",
        f"{wheel}.data/scripts/litert": "",
        f"{wheel}.data/purelib/": "",
        f"{wheel}.dist-info/METADATA": "packages",
    }
    (tmp_path / "files").mkdir()
    with zipfile.ZipFile(tmp_path / "files" / "digest", "w") as archive:
        for name in members:
            archive.writestr(name, name)
    unused = RUNTIMES["tflite"].unused_files
    place = tmp_path / "environment"
    environment.install(place, tmp_path, {"archives": ["digest"], "unused": unused})
    (packages,) = place.glob("lib/python3*/site-packages")
    files = {path.relative_to(packages).as_posix(): path.read_text() for path in packages.rglob("*") if path.is_file()}
    expected = {name for name, where in members.items() if where}
    assert set(files.values()) == expected
    assert set(files) == {name.partition("lib/")[2] if ".data/" in name else name for name in expected}
    assert os.access(place / "bin" / "python", os.X_OK)


def test_packages_are_on_the_disk_before_an_environment_counts_as_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure after the mark, and before the packages are written, would leave empty libraries for good."""
    (tmp_path / "files").mkdir()
    with zipfile.ZipFile(tmp_path / "files" / "digest", "w") as archive:
        archive.writestr("kernels.so", "code")
    place, synced = tmp_path / "environments" / "key", []

    def sync() -> None:
        synced.append((len(list(place.rglob("kernels.so"))), (place / environment.COMPLETE).exists()))

    monkeypatch.setattr(os, "sync", sync)
    assert environment.make(tmp_path, {"key": "key", "archives": ["digest"], "unused": []})["made"]
    assert synced == [(1, False)]
    assert (place / environment.COMPLETE).exists()


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """The folder of nine environments, each used an hour sooner than the one before, except for the longest unused."""
    folder = tmp_path / "environments"
    for index in range(9):
        (folder / f"e{index}").mkdir(parents=True)
        put(folder / f"e{index}", environment.COMPLETE, 0, 7 * index)
        (folder / f"e{index}" / "lib").mkdir()
        (folder / f"e{index}" / "lib" / "kernels.so").touch()
    return folder


def test_environments_used_last_are_kept(environments: Path) -> None:
    (environments / "unfinished").mkdir()
    environment.drop_old(environments)
    recent = {f"e{index}" for index in range(environment.KEPT)}
    assert names(environments) == recent | {"unfinished"}
    for name in recent:
        (environments / name / environment.COMPLETE).touch()
    for index in range(3):
        (environments / f"n{index}").mkdir()
        (environments / f"n{index}" / environment.COMPLETE).touch()
    environment.drop_old(environments)
    assert len(list(environments.glob(f"*/{environment.COMPLETE}"))) == 9, "all of them were used within five hours"


@pytest.mark.parametrize("work", [lambda cache: environment.drop_old(cache / "environments"), environment.clean])
def test_what_an_interrupted_deletion_leaves_of_an_environment_does_not_count_as_one(
    environments: Path, work: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure, or a file that can't be deleted, would leave an environment without half of its packages."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    work(environments.parent)
    assert not (environments / "e8" / environment.COMPLETE).exists()
    assert (environments / "e8" / "lib" / "kernels.so").exists()
