"""Deltas between files: made here, applied by the script on a device, and kept for the next push."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.devices import pushed_files
from edgekit.devices.deltas import write_delta
from edgekit.devices.pushed_files import PushedFiles
from edgekit.devices.scripts import DELTAS, deltas, source

WEIGHTS = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def changed(data: bytes) -> bytes:
    """The data with one byte in ten larger by one."""
    weights = np.frombuffer(data, np.uint8).copy()
    weights[np.random.default_rng(1).permutation(len(data))[: len(data) // 10]] += 1
    return weights.tobytes()


def made(folder: Path, old: bytes, new: bytes) -> int:
    """Make the new file from the old one, by a delta. Returns the delta's size in bytes."""
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    write_delta(folder / "old", folder / "new", folder / "delta")
    deltas.make(folder, sha256(new), len(new), folder / "old", folder / "delta")
    assert (folder / sha256(new)).read_bytes() == new
    assert {path.name for path in folder.iterdir()} == {"old", "new", "delta", sha256(new)}
    return (folder / "delta").stat().st_size


@pytest.mark.parametrize(
    "new",
    [
        changed(WEIGHTS),
        changed(WEIGHTS[:30_000] + bytes(20) + WEIGHTS[30_000:]),
        changed(WEIGHTS[:30_000] + WEIGHTS[30_200:]),
        changed(b"begin" + WEIGHTS + bytes(5000)),
    ],
    ids=["in place", "moved up", "moved down", "longer"],
)
def test_a_delta_is_smaller_where_weights_change_by_steps_or_move(new: bytes, tmp_path: Path) -> None:
    assert made(tmp_path, WEIGHTS, new) < 0.3 * len(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"", WEIGHTS[:5000]), (WEIGHTS[:5000], b""), (b"a", b"bc"), (WEIGHTS, WEIGHTS[::-1]), (WEIGHTS[:5000], WEIGHTS)],
    ids=["from nothing", "to nothing", "tiny", "another file", "much longer"],
)
def test_a_delta_gives_any_file(old: bytes, new: bytes, tmp_path: Path) -> None:
    made(tmp_path, old, new)


def test_bytes_are_added_modulo_256() -> None:
    one, two = (bytes(values) for values in zip(*((a, b) for a in range(256) for b in range(256)), strict=True))
    assert deltas.added(one, two) == bytes((a + b) % 256 for a, b in zip(one, two, strict=True))


def test_what_goes_wrong_on_a_device_leaves_nothing(tmp_path: Path) -> None:
    """The script as it runs there: two good deltas, between which are a wrong base, a cut delta, and other data."""
    store, old, new = tmp_path / "files", tmp_path / "old", tmp_path / "new"
    store.mkdir()
    old.write_bytes(WEIGHTS)
    (tmp_path / "wrong").write_bytes(WEIGHTS[::-1])
    jobs = []
    for name, base in (("good", old), ("wrong", tmp_path / "wrong"), ("gone", tmp_path / "gone"), ("cut", old),
                       ("data", old), ("again", old)):  # fmt: skip
        new.write_bytes(changed(WEIGHTS) + name.encode())
        write_delta(old, new, store / name)
        size, digest = new.stat().st_size, sha256(new.read_bytes())
        jobs.append({"sha256": digest, "size": size, "base": str(base), "delta": name})
    (store / "cut").write_bytes((store / "cut").read_bytes()[:-1000])
    (store / "data").write_bytes(b"data")
    request = json.dumps({"cache": str(tmp_path), "deltas": jobs})
    command = [sys.executable, "-I", "-c", source(DELTAS), request]
    failed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["failed"]
    good, wrong, gone, cut, data, again = (job["sha256"] for job in jobs)
    assert {path.name for path in store.iterdir()} == {good, again}
    assert set(failed) == {wrong, gone, cut, data}
    assert failed[wrong] == "ValueError: the result has another hash"
    assert failed[gone].startswith("FileNotFoundError")


def test_pushed_files_are_kept_while_they_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed_files, "KEPT_BYTES", 25)
    pushed = PushedFiles(tmp_path / "pushed")
    assert pushed.find("0") is None
    paths = [tmp_path / name for name in "abc"]
    for age, path in zip((1, 3, 2), paths, strict=True):
        path.write_text(path.name * 10)
        pushed.keep([path])
        kept = pushed.find(sha256(path.read_bytes()))
        assert kept is not None
        assert kept.read_bytes() == path.read_bytes()
        if path.name != "c":
            os.utime(kept, (age, age))
    pushed.keep([paths[2]])
    assert {path.read_text()[0] for path in pushed.folder.iterdir()} == {"b", "c"}
