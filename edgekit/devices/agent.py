"""Runs on the device: one JSON job on stdin, JSON lines on stdout, through the code that measures on the host too.

    python -m edgekit.devices.agent

The job: {"name", "class", "cache", "bundles": {NAME: {FILE: SHA256}}, "settings": {...}, "images": null or {"pixels":
SHA256, "labels": [...], "reference": {...}, "files": [SHA256]}, "inspect": BOOL}. With images it gives rows of
report.json, without them rows of `edgekit benchmark`, and told to inspect what `edgekit inspect` says of each bundle,
or of each model file: the first one where there is no manifest.

The lines: {"warn"}, {"stage", "total"}, {"step"}, {"beat"}, {"rows"}, {"error"}, and at last {"end": true}: an answer
without it is not an answer. Needs numpy, Pillow and the bundles' engine alone.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError
from edgekit.measure import machine
from edgekit.measure.accuracy import Predictions
from edgekit.measure.benchmark_bundles import benchmark_bundles
from edgekit.measure.bundle_rows import Images, measure_group
from edgekit.measure.inspect_bundle import inspect_bundle, inspect_model
from edgekit.measure.rows import Row
from edgekit.measure.settings import Settings
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.support.progress import Reporter, Step

BEAT_S = 5
STEP_S = 0.5
"""Progress is sent no more often than this."""


class Wire(Reporter):
    """Sends lines to the host; progress too."""

    def __init__(self) -> None:
        self.quiet = False
        self._sending = threading.Lock()
        # The runtimes print on descriptor 1: theirs goes to stderr, this one is the host's.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, **line: Any) -> None:
        """One JSON line. If nobody listens any more, the work ends."""
        try:
            with self._sending:
                self._out.write(json.dumps(line, allow_nan=False) + "\n")
                self._out.flush()
        except BrokenPipeError:
            os._exit(1)

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str, error: Exception | None = None) -> None:
        self.send(warn=message)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        self.send(stage=title, total=total)
        done, last = 0, time.monotonic()

        def step() -> None:
            nonlocal done, last
            done += 1
            if time.monotonic() - last > STEP_S:
                last = time.monotonic()
                self.send(step=done)

        yield step
        self.send(step=done)

    def beat(self) -> None:
        """Show now and then that this process lives, whatever the runtime does."""
        while True:
            time.sleep(BEAT_S)
            self.send(beat=True)


def main() -> None:
    wire = Wire()
    threading.Thread(target=wire.beat, daemon=True).start()
    job = json.loads(sys.stdin.readline())
    (Path(job["cache"]) / "runtimes").mkdir(exist_ok=True)  # what the host made the home of this process
    with alone(Path(job["cache"]), wire):
        answer(job, wire)


@contextmanager
def alone(cache: Path, wire: Wire) -> Iterator[None]:
    """Run one measurement at a time on a device, and delete the work folders that killed ones left behind."""
    import fcntl  # devices run Linux and have no filelock; the host that imports this module needn't be POSIX

    with (cache / "measuring").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with wire.stage("wait for another measurement there"):
                fcntl.flock(file, fcntl.LOCK_EX)
        for left in cache.glob("work-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def answer(job: Mapping[str, Any], wire: Wire) -> None:
    """Do the job and send its rows, or the error that it ended in, and the end record."""
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=job["cache"]))
    try:
        try:
            rows = work(job, folder, wire)
        except EdgekitError as error:
            wire.send(error=str(error))
        else:
            wire.send(rows=[row | {"device": describe(job)} for row in rows])
        wire.send(end=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def work(job: Mapping[str, Any], folder: Path, wire: Wire) -> list[Row]:
    """The rows of a job, in the order of its bundles."""
    store, settings = Path(job["cache"]) / "files", Settings(**job["settings"])
    if job["inspect"]:
        return [inspected(name, files, store, folder, settings) for name, files in job["bundles"].items()]
    bundles = {
        name: assemble(files, store, folder / str(at) / (Path(name).name.strip(".") or "bundle"))
        for at, (name, files) in enumerate(job["bundles"].items())
    }
    if job["images"] is not None:
        measured = measure_group(bundles, images_of(job["images"], store), settings, describe(job), wire)
        return [measured[name] for name in bundles]
    paths = [bundle.path for bundle in bundles.values()]
    found = benchmark_bundles(paths, settings, wire)["results"]
    names = dict(zip(map(str, paths), bundles, strict=True))
    for row in found:
        row["bundle"] = names[row["bundle"]]
        if row["speedup"]:
            row["speedup"]["versus"] = names[row["speedup"]["versus"]]
    return list(found)


def inspected(name: str, files: Mapping[str, str], store: Path, folder: Path, settings: Settings) -> Row:
    """What `edgekit inspect` says here of a bundle, or of a model file with those that belong to it."""
    if MANIFEST in files:
        place = assemble(files, store, folder / "it").path
        return inspect_bundle(place, settings.threads) | {"bundle": name}
    link(files, store, folder / "it")
    return inspect_model(folder / "it" / next(iter(files)), settings.threads) | {"model": name}


def assemble(files: Mapping[str, str], store: Path, folder: Path) -> Bundle:
    """A bundle's folder made of the files in the store, read and checked."""
    link(files, store, folder)
    return read_bundle(folder)


def link(files: Mapping[str, str], store: Path, folder: Path) -> None:
    """A new folder with files of the store under their own names."""
    folder.mkdir(parents=True)
    for name, digest in files.items():
        os.link(store / digest, folder / name)


def images_of(given: Mapping[str, Any], store: Path) -> Images:
    """The evaluation images, mapped from the store."""
    best, hit1, hit5 = (given["reference"][name] for name in ("best", "hit1", "hit5"))
    return Images(
        np.load(store / given["pixels"], mmap_mode="r", allow_pickle=False),
        np.array(given["labels"], np.int64),
        Predictions(np.array(best, np.int64), np.array(hit1, bool), np.array(hit5, bool)),
        [(store / digest).read_bytes() for digest in given["files"]],
        "",
    )


def describe(job: Mapping[str, Any]) -> Row:
    """The `device` object of the rows."""
    found = machine.describe(job["name"])
    return found | {"class": job["class"] or found["class"]}


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
