"""The agent on a device: reads one job from stdin, measures with the host's code, and writes messages to stdout.

    python -m edgekit.devices.agent

`edgekit.devices.messages` defines the job and the messages. The agent needs only numpy, Pillow, msgspec and the
runtime of the bundles.
"""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.devices.messages import (
    AgentJob,
    Ended,
    Failed,
    Files,
    Inspected,
    InspectJob,
    Measured,
    MeasureJob,
    PushJob,
    SentImages,
    Wire,
    decode_job,
)
from edgekit.devices.slots import RUN_AGAIN, turn
from edgekit.devices.trial import push_bundle
from edgekit.errors import DeviceError, EdgekitError
from edgekit.images.dataset import LabelledCrops
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages, Predictions
from edgekit.measure.inspect_bundle import inspect_bundle, inspect_model
from edgekit.measure.measure_bundles import measure_group
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.support.error_text import kind_of, summary_of, text_of


def main() -> None:
    wire = Wire()
    threading.Thread(target=wire.beat, daemon=True).start()
    job = decode_job(sys.stdin.buffer.readline())
    (Path(job.cache) / "runtimes").mkdir(exist_ok=True)  # the home that the host set for this process
    try:
        with alone(Path(job.cache), wire):
            answer(job, wire)
    except TimeoutError as error:
        wire.send(Failed(DeviceError.__name__, str(error), fix=RUN_AGAIN))
        wire.send(Ended())


@contextmanager
def alone(cache: Path, wire: Wire) -> Iterator[None]:
    """Allow one measurement at a time on a device, and delete the work folders of killed ones. Raises TimeoutError."""
    with turn(cache / "measuring", "another measurement on the device", wire):
        for leftover in cache.glob("work-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def answer(job: AgentJob, wire: Wire) -> None:
    """Do the job, and send its result or error followed by the end record."""
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=job.cache))
    try:
        try:
            match job:
                case MeasureJob():
                    wire.send(measured(job, folder, wire))
                case InspectJob():
                    wire.send(inspected(job, folder))
                case PushJob():
                    wire.send(push_bundle(job, wire))
        except EdgekitError as error:
            wire.send(Failed.of(error))
        except Exception as error:  # a bug in edgekit, which the host reports as such
            wire.send(Failed(kind_of(error), summary_of(error), traceback=text_of(error)))
        wire.send(Ended())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measured(job: MeasureJob, folder: Path, wire: Wire) -> Measured:
    """Measure the job's bundles. The rows are in the bundles' order."""
    store = Path(job.cache) / "files"
    bundles = {
        name: assemble(files, store, folder / str(index) / (Path(name).name.strip(".") or "bundle"))
        for index, (name, files) in enumerate(job.bundles.items())
    }
    device = machine.describe(job.name, job.device_class)
    images = images_of(job.images, store) if job.images else None
    return Measured(tuple(measure_group(bundles, job.timing, device, wire, images).values()))


def inspected(job: InspectJob, folder: Path) -> Inspected:
    """Inspect the job's bundle, or its model file with the companion files, as `edgekit inspect` does."""
    place, device = folder / "it", machine.describe(job.name, job.device_class)
    link(job.files, Path(job.cache) / "files", place)
    if MANIFEST in job.files:
        return Inspected(bundle=replace(inspect_bundle(place, job.timing.threads, job.path), device=device))
    model = place / next(iter(job.files))
    return Inspected(model=replace(inspect_model(model, job.timing.threads, job.path), device=device))


def assemble(files: Files, store: Path, folder: Path) -> Bundle:
    """Assemble a bundle from files in the store, then read and check it."""
    link(files, store, folder)
    return read_bundle(folder)


def link(files: Files, store: Path, folder: Path) -> None:
    """Create a folder with links to files in the store, under the files' own names. DeviceError if one is gone."""
    folder.mkdir(parents=True)
    for name, digest in files.items():
        try:
            os.link(store / digest, folder / name)
        except FileNotFoundError as error:
            raise DeviceError(
                f"'{name}' is not in the device's store any more: another run needed its space",
                fix=RUN_AGAIN,
            ) from error


def images_of(sent: SentImages, store: Path) -> EvaluationImages:
    """The evaluation images, memory-mapped from the store."""
    pixels = np.load(store / sent.pixels, mmap_mode="r", allow_pickle=False)
    with np.load(store / sent.reference, allow_pickle=False) as arrays:
        return EvaluationImages(
            LabelledCrops(pixels, arrays["labels"]),
            Predictions(arrays["best"], arrays["hit1"], arrays["hit5"]),
            [(store / digest).read_bytes() for digest in sent.files],
            "",
            sent.names,
            arrays.get("logits"),
        )


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
