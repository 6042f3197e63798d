"""Runs on the device: one job on stdin, messages on stdout, through the code that measures on the host too.

    python -m edgekit.devices.agent

`edgekit.devices.messages` has the job and the messages. Needs numpy, Pillow, msgspec and the bundles' runtime alone.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.devices.messages import (
    AgentJob,
    Alive,
    Ended,
    Failed,
    Inspected,
    Measured,
    Message,
    SentImages,
    StageBegan,
    Stepped,
    Warned,
    decode_job,
    encode,
)  # fmt: skip
from edgekit.errors import EdgekitError
from edgekit.images.crops import LabelledCrops
from edgekit.measure import machine
from edgekit.measure.accuracy import Predictions
from edgekit.measure.inspect_bundle import inspect_bundle, inspect_model
from edgekit.measure.measure_bundles import EvaluationImages, measure_group
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
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, message: Message) -> None:
        """Send one line. If nobody listens any more, the work ends."""
        try:
            with self._sending:
                self._out.write(encode(message))
                self._out.flush()
        except BrokenPipeError:
            os._exit(1)

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str, error: Exception | None = None) -> None:
        self.send(Warned(message))

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        self.send(StageBegan(title, total))
        done, last = 0, time.monotonic()

        def step() -> None:
            nonlocal done, last
            done += 1
            if time.monotonic() - last > STEP_S:
                last = time.monotonic()
                self.send(Stepped(done))

        yield step
        self.send(Stepped(done))

    def beat(self) -> None:
        """Show now and then that this process lives, whatever the runtime does."""
        while True:
            time.sleep(BEAT_S)
            self.send(Alive())


def main() -> None:
    wire = Wire()
    threading.Thread(target=wire.beat, daemon=True).start()
    job = decode_job(sys.stdin.buffer.readline())
    (Path(job.cache) / "runtimes").mkdir(exist_ok=True)  # what the host made the home of this process
    with alone(Path(job.cache), wire):
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


def answer(job: AgentJob, wire: Wire) -> None:
    """Do the job and send what came of it, or the error that it ended in, and the end record."""
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=job.cache))
    try:
        try:
            wire.send(inspected(job, folder) if job.inspect else measured(job, folder, wire))
        except EdgekitError as error:
            wire.send(Failed(type(error).__name__, error.problem, error.valid, error.fix))
        wire.send(Ended())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measured(job: AgentJob, folder: Path, wire: Wire) -> Measured:
    """The measurements of the job's bundles, in their order."""
    store = Path(job.cache) / "files"
    bundles = {
        name: assemble(files, store, folder / str(at) / (Path(name).name.strip(".") or "bundle"))
        for at, (name, files) in enumerate(job.bundles.items())
    }
    device = machine.describe(job.name, job.device_class)
    images = images_of(job.images, store) if job.images else None
    return Measured(tuple(measure_group(bundles, job.settings, device, wire, images).values()))


def inspected(job: AgentJob, folder: Path) -> Inspected:
    """What `edgekit inspect` says here of the job's bundle, or of its model file with the files that belong to it."""
    ((name, files),) = job.bundles.items()
    store, device = Path(job.cache) / "files", machine.describe(job.name, job.device_class)
    threads = job.settings.threads
    if MANIFEST in files:
        place = assemble(files, store, folder / "it").path
        return Inspected(bundle=replace(inspect_bundle(place, threads, name), device=device))
    link(files, store, folder / "it")
    return Inspected(model=replace(inspect_model(folder / "it" / next(iter(files)), threads, name), device=device))


def assemble(files: Mapping[str, str], store: Path, folder: Path) -> Bundle:
    """A bundle's folder made of the files in the store, read and checked."""
    link(files, store, folder)
    return read_bundle(folder)


def link(files: Mapping[str, str], store: Path, folder: Path) -> None:
    """A new folder with files of the store under their own names."""
    folder.mkdir(parents=True)
    for name, digest in files.items():
        os.link(store / digest, folder / name)


def images_of(sent: SentImages, store: Path) -> EvaluationImages:
    """The evaluation images, mapped from the store."""
    pixels = np.load(store / sent.pixels, mmap_mode="r", allow_pickle=False)
    return EvaluationImages(
        LabelledCrops(pixels, np.array(sent.labels, np.int64)),
        Predictions(np.array(sent.best, np.int64), np.array(sent.hit1, bool), np.array(sent.hit5, bool)),
        [(store / digest).read_bytes() for digest in sent.files],
        "",
    )


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
