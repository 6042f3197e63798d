"""The agent's lines, from a process of its own on this machine."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices.agent import assemble, images_of
from edgekit.errors import BundleError
from edgekit.measure.settings import Settings
from tests.helpers.tiny import MakeBundle


@pytest.fixture
def job(make_bundle: MakeBundle, tmp_path: Path) -> dict[str, Any]:
    """A job whose files are in the store already."""
    store = tmp_path / "cache" / "files"
    store.mkdir(parents=True)
    bundle = make_bundle("onnx")
    files = {}
    for path in bundle.iterdir():
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, store / files[path.name])
    settings = asdict(Settings(threads=1, warmup=1, iterations=3))
    return {"name": "pi", "class": "raspberry-pi-5", "cache": str(tmp_path / "cache"), "bundles": {"it's": files},
            "settings": settings, "images": None, "inspect": False}  # fmt: skip


def run(job: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The agent's lines and its stderr."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.devices.agent"], input=json.dumps(job) + "\n", env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_rows_then_the_end_record(job: dict[str, Any]) -> None:
    lines, _ = run(job)
    *_, rows, end = lines
    assert end == {"end": True}
    (row,) = rows["rows"]
    assert (row["bundle"], row["verdict"], row["latency_ms"]["count"]) == ("it's", "pass", 3)
    assert (row["device"]["name"], row["device"]["class"]) == ("pi", "raspberry-pi-5")
    assert any(line.get("stage") == "time" and line["total"] == 4 for line in lines)
    assert {each.name for each in Path(job["cache"]).iterdir()} == {"files", "runtimes", "measuring"}


def test_a_bundle_that_is_damaged_is_an_error_with_an_end(job: dict[str, Any]) -> None:
    files = job["bundles"]["it's"]
    (Path(job["cache"]) / "files" / files["labels.txt"]).write_text("other")
    lines, said = run(job)
    assert "labels.txt" in lines[-2]["error"]
    assert lines[-1] == {"end": True}
    assert said == ""


def test_messages_name_the_bundle(job: dict[str, Any]) -> None:
    """As the host calls it, also where that is no name for a folder."""
    files = job["bundles"].pop("it's")
    broken = files | {"model.onnx": hashlib.sha256(b"no model").hexdigest()}
    (Path(job["cache"]) / "files" / broken["model.onnx"]).write_bytes(b"no model")
    manifest = json.loads((Path(job["cache"]) / "files" / files["manifest.json"]).read_text())
    manifest["files"]["model.onnx"] = {"sha256": broken["model.onnx"], "size_bytes": 8}
    text = json.dumps(manifest)
    broken["manifest.json"] = hashlib.sha256(text.encode()).hexdigest()
    (Path(job["cache"]) / "files" / broken["manifest.json"]).write_text(text)
    job["bundles"] = {"runs/$(touch pwned)": broken, "..": files}
    *_, rows, _ = run(job)[0]
    assert [row["verdict"] for row in rows["rows"]] == ["error", "pass"]
    assert "'$(touch pwned)' can't run in a process of its own" in rows["rows"][0]["reasons"][0]


def test_parts(job: dict[str, Any], tmp_path: Path) -> None:
    store = Path(job["cache"]) / "files"
    files = job["bundles"]["it's"]
    assert assemble(files, store, tmp_path / "one").manifest.target == "onnx"
    with pytest.raises(BundleError):
        assemble({name: digest for name, digest in files.items() if name != "golden.npz"}, store, tmp_path / "two")
    np.save(store / "pixels.npy", np.zeros((2, 4, 4, 3), np.uint8))
    (store / "file").write_bytes(b"x")
    reference = {"best": [1, 2], "hit1": [True, False], "hit5": [True, True]}
    found = images_of({"pixels": "pixels.npy", "labels": [1, 1], "reference": reference, "files": ["file"]}, store)
    assert (found.pixels.shape, found.labels.tolist(), found.files) == ((2, 4, 4, 3), [1, 1], [b"x"])
    assert found.reference.hit1.tolist() == [True, False]


def test_one_measurement_at_a_time(job: dict[str, Any]) -> None:
    cache = Path(job["cache"])
    (cache / "work-of-one-that-was-killed").mkdir()
    (cache / "measuring").touch()
    with (cache / "measuring").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(2, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        lines, _ = run(job)
    assert lines[0] == {"stage": "wait for another measurement there", "total": None}
    assert lines[-1] == {"end": True}
    assert not list(cache.glob("work-*"))


def test_the_agent_needs_no_torch_and_no_command_line() -> None:
    heavy = {"torch", "typer", "rich", "timm", "nncf"}
    code = f"import sys, edgekit.devices.agent; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
