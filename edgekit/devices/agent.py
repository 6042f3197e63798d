"""The agent on a device: reads one job from stdin, measures with the host's code, and writes messages to stdout.

    python -m edgekit.devices.agent

`edgekit.devices.messages` defines the job and the messages. The agent needs only numpy, Pillow, msgspec and the
runtime of the bundles.
"""

import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import convert, to_builtins

from edgekit import __version__
from edgekit.devices import messages
from edgekit.devices.messages import AppState, DeviceTrial, Refusal, SlotRecord, readable
from edgekit.devices.scripts.apps import app_state, locking, switch
from edgekit.devices.slots import RUN_AGAIN, holding, link, pushing, receive, stored, trusted_key
from edgekit.errors import BundleRefusedError, DeviceError, EdgekitError
from edgekit.images.dataset import LabelledCrops
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import measure_group
from edgekit.measure.inspect_bundle import inspect_bundle, inspect_model
from edgekit.measure.latency import CallFailed, alternate
from edgekit.measure.tasks import task_of
from edgekit.report.figure import counted
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.session import golden_error, open_session
from edgekit.runtime.signature import fingerprint, read_signed_bundle
from edgekit.support.probe import emulated
from edgekit.support.progress import Reporter, kind_of, summary_of, text_of

TURN_S = 4 * 3600
"""Time limit of waiting for another push or measurement, which may be a long one of several bundles."""


def main() -> None:
    wire = messages.Wire()
    threading.Thread(target=wire.beat, daemon=True).start()
    job = messages.decode_job(sys.stdin.buffer.readline())
    (Path(job.cache) / "runtimes").mkdir(exist_ok=True)  # the home that the host set for this process
    try:
        with alone(Path(job.cache), wire):
            answer(job, wire)
    except TimeoutError as error:
        wire.send(messages.Failed(DeviceError.__name__, str(error), fix=RUN_AGAIN))
        wire.send(messages.Ended())


@contextmanager
def alone(cache: Path, wire: messages.Wire) -> Iterator[None]:
    """Allow one measurement at a time on a device, and delete the work folders of killed ones. Raises TimeoutError."""
    with (cache / "measuring").open("w") as file:
        waits = locking(file, TURN_S)
        for _ in waits:
            with wire.stage("wait for another measurement on the device") as step:
                for _ in waits:
                    step()  # shows the host that this process isn't stuck
        for leftover in cache.glob("work-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def answer(job: messages.AgentJob, wire: messages.Wire) -> None:
    """Do the job, and send its result or error followed by the end record."""
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=job.cache))
    try:
        try:
            match job:
                case messages.MeasureJob():
                    wire.send(measured(job, folder, wire))
                case messages.InspectJob():
                    wire.send(inspected(job, folder))
                case messages.PushJob():
                    wire.send(push_bundle(job, wire))
        except EdgekitError as error:
            wire.send(messages.Failed.of(error))
        except Exception as error:  # a bug in edgekit, which the host reports as such
            wire.send(messages.Failed(kind_of(error), summary_of(error), traceback=text_of(error)))
        wire.send(messages.Ended())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measured(job: messages.MeasureJob, folder: Path, wire: messages.Wire) -> messages.Measured:
    """Measure the job's bundles. The rows are in the bundles' order."""
    store = Path(job.cache) / "files"
    bundles = {
        name: assemble(files, store, folder / str(index) / (Path(name).name.strip(".") or "bundle"))
        for index, (name, files) in enumerate(job.bundles.items())
    }
    device = machine.describe(job.name, job.device_class)
    images = images_of(job.images, store) if job.images else None
    return messages.Measured(tuple(measure_group(bundles, job.timing, device, wire, images).values()))


def inspected(job: messages.InspectJob, folder: Path) -> messages.Inspected:
    """Inspect the job's bundle, or its model file with the companion files, as `edgekit inspect` does."""
    place, device = folder / "it", machine.describe(job.name, job.device_class)
    link(job.files, Path(job.cache) / "files", place)
    if MANIFEST in job.files:
        return messages.Inspected(bundle=replace(inspect_bundle(place, job.timing.threads, job.path), device=device))
    model = place / next(iter(job.files))
    return messages.Inspected(model=replace(inspect_model(model, job.timing.threads, job.path), device=device))


def assemble(files: messages.Files, store: Path, folder: Path) -> Bundle:
    """Assemble a bundle from files in the store, then read and check it."""
    link(files, store, folder)
    return read_bundle(folder)


def images_of(sent: messages.SentImages, store: Path) -> EvaluationImages:
    """The evaluation images, memory-mapped from the store."""
    pixels = np.load(stored(store, sent.pixels, "pixels.npy"), mmap_mode="r", allow_pickle=False)
    with np.load(stored(store, sent.reference, "reference.npz"), allow_pickle=False) as arrays:
        task = task_of(sent.task, sent.thresholds)
        return EvaluationImages(
            task,
            LabelledCrops(pixels, arrays["labels"]),
            task.answers(**{name: arrays[name] for name in task.answers.names()}),
            [stored(store, digest, "image").read_bytes() for digest in sent.files],
            "",
            sent.names,
            arrays.get("logits"),
        )


TIMED_MS = 20_000
"""Duration of the timing after which a slow model gets fewer rounds, in milliseconds."""
FEWEST_ROUNDS = 20


def push_bundle(job: messages.PushJob, reporter: Reporter) -> messages.Slotted:
    """Push the job's bundle. One that doesn't pass its trial is refused, and nothing changes."""
    app, trials = Path(job.folder), list[DeviceTrial]()
    with pushing(app, job.name):
        try:
            refusal = push(job, app, reporter, trials)
        except DeviceError:
            raise
        except EdgekitError as error:
            refusal = Refusal.of(error)
        state = convert(readable(app_state(app)), AppState)
        return messages.Slotted(state, trials[-1] if trials else None, refusal)


def push(job: messages.PushJob, app: Path, reporter: Reporter, trials: list[DeviceTrial]) -> Refusal | None:
    """Try the job's bundle, and make it active. If it's active already, it is only tried."""
    name = job.bundle
    folder = holding(app, job.files) or receive(app, job.files, Path(job.cache) / "files")
    key = trusted_key(app, job.trust)
    bundle = read_bundle(folder) if key is None else read_signed_bundle(folder, key)  # nothing has opened its model yet
    trials.append(trial := try_bundle(bundle, job, reporter))
    if job.max_p99_ms is not None and trial.p99_ms > job.max_p99_ms:
        raise BundleRefusedError(
            f"the p99 of '{name}' is {milliseconds(trial.p99_ms)} with {counted(trial.threads, 'thread')}",
            valid=f"at most {milliseconds(job.max_p99_ms)}, {job.bound}",
            fix=f"See with `edgekit doctor {job.name}` whether it is throttled or busy, or give --max-p99 MS",
        )
    record = to_builtins(record_of(bundle, job, trial, None if key is None else fingerprint(key)))
    with reporter.stage("switch"):  # the message ends this process if the host is gone
        return convert(switch(app, job.expected, job.sha256, job.trust, record), Refusal | None)


def try_bundle(bundle: Bundle, job: messages.PushJob, reporter: Reporter) -> DeviceTrial:
    """Open a bundle in this process, run its golden samples, and time it on the first one.

    Raises GoldenError, BundleError, MissingExtraError, or EngineError.
    """
    name = job.bundle
    with reporter.stage(f"try {name}"), open_session(bundle, job.timing.threads) as session:
        engine = f"{session.engine_name} {session.engine_version}"
        golden = session.compare_golden()
        if not golden.passed:
            raise golden_error(name, golden, engine, bundle.manifest.made_with, job.name)
        image = bundle.manifest.preprocessing.normalize(bundle.golden().pixels[:1])
        calls = {name: lambda: session(image)}
        try:
            ((one_ms,),) = alternate(calls, 1, 1).values()
            rounds = max(FEWEST_ROUNDS, min(job.timing.iterations, int(TIMED_MS / one_ms)))
            times = alternate(calls, min(job.timing.warmup, rounds), rounds)[name]
        except CallFailed as failed:
            raise failed.error from failed
        return DeviceTrial(
            engine=engine,
            python=platform.python_version(),
            threads=session.threads,
            max_abs_difference=golden.max_abs_difference,
            tolerance=golden.tolerance,
            p50_ms=float(np.percentile(times, 50)),
            p99_ms=float(np.percentile(times, 99)),
            emulated=emulated(Path("/")),
        )


def record_of(bundle: Bundle, job: messages.PushJob, trial: DeviceTrial, signed_by: str | None) -> SlotRecord:
    """The record of a bundle that passed its trial."""
    manifest = bundle.manifest
    return SlotRecord(
        bundle=job.bundle,
        sha256=job.sha256,
        model=manifest.recorded("model", "name"),
        target=manifest.target,
        precision=manifest.precision,
        device_class=manifest.device_class,
        oldest_engine=manifest.engine["minimum"],
        files=job.files,
        sizes={name: (bundle.path / name).stat().st_size for name in job.files},
        max_p99_ms=job.max_p99_ms,
        trial=trial,
        edgekit=__version__,
        signed_by=signed_by,
    )


def milliseconds(time: float) -> str:
    """A time with its unit. A very short one has two digits that are not zero."""
    return f"{time:.2f} ms" if time >= 0.01 else f"{time:.2g} ms"


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
