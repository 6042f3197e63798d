"""The agent on a device: reads one job from stdin, measures with the host's code, and answers on stdout.

    python -m edgekit.devices.agent

`edgekit.devices.messages` defines the jobs and answers, and `edgekit.support.worker` how they are sent. The agent needs
only numpy, Pillow, msgspec and the runtime of the bundles.
"""

import errno
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import convert, to_builtins

from edgekit import __version__
from edgekit.devices import messages
from edgekit.devices.messages import AppState, DeviceTrial, SlotRecord, readable
from edgekit.devices.registry import other_key
from edgekit.devices.scripts import apps
from edgekit.devices.transport import full_disk
from edgekit.errors import BundleRefusedError, DeviceError, EdgekitError
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import Here, MeasureSpec, measure
from edgekit.measure.inspect_bundle import Inspection, inspect_bundle, inspect_model
from edgekit.measure.latency import CallFailed, alternate
from edgekit.measure.tasks import task_of
from edgekit.report.figure import counted
from edgekit.report.row import Measurement
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.session import golden_error, open_session
from edgekit.runtime.signature import fingerprint, parse_public_key, read_signed_bundle
from edgekit.support.files import file_sha256
from edgekit.support.probe import emulated
from edgekit.support.progress import Reporter
from edgekit.support.worker import SentError, Wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

RUN_AGAIN = "Run the same command again"
TURN_S = 4 * 3600
"""Time limit of waiting for another push or measurement, which may be a long one of several bundles."""


def main() -> None:
    wire = Wire()
    threading.Thread(target=wire.beat, daemon=True).start()
    wire.answer(lambda: answer(convert(json.loads(sys.stdin.buffer.readline()), messages.AgentJob), wire))


def answer(job: messages.AgentJob, wire: Wire) -> object:
    """Do a job."""
    (Path(job.cache) / "runtimes").mkdir(exist_ok=True)  # the home that the host set for this process
    with alone(Path(job.cache), wire) as folder:
        match job:
            case messages.MeasureJob():
                return measured(job, folder, wire)
            case messages.InspectJob():
                return inspected(job, folder)
            case messages.PushJob():
                return push_bundle(job, wire)


@contextmanager
def alone(cache: Path, wire: Wire) -> Iterator[Path]:
    """Allow one measurement at a time on a device, and delete the work folders of killed ones. Yields a new one.

    DeviceError if another measurement takes too long.
    """
    with (cache / "measuring").open("w") as file:
        waits = apps.locking(file, TURN_S)
        try:
            for _ in waits:
                with wire.stage("wait for another measurement on the device") as step:
                    for _ in waits:
                        step()  # shows the host that this process isn't stuck
        except TimeoutError as error:
            raise DeviceError(str(error), fix=RUN_AGAIN) from error
        for leftover in cache.glob("work-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def measured(job: messages.MeasureJob, folder: Path, wire: Wire) -> list[Measurement]:
    """Measure the job's bundles. The rows are in the bundles' order."""
    store = Path(job.cache) / "files"
    bundles = {
        name: assemble(files, store, folder / str(index) / (Path(name).name.strip(".") or "bundle"))
        for index, (name, files) in enumerate(job.bundles.items())
    }
    here = Here(machine.describe(job.name, job.device_class), wire)
    spec = MeasureSpec(job.timing, images_of(job.images, store) if job.images else None)
    return measure(here.connected, here.row_facts, bundles, spec, wire)


def inspected(job: messages.InspectJob, folder: Path) -> Inspection:
    """Inspect the job's bundle, or its model file with the companion files, as `edgekit inspect` does."""
    place, device = folder / "it", machine.describe(job.name, job.device_class)
    link(job.files, Path(job.cache) / "files", place)
    if MANIFEST in job.files:
        return replace(inspect_bundle(place, job.timing.threads, job.path), device=device)
    model = place / next(iter(job.files))
    return replace(inspect_model(model, job.timing.threads, job.path), device=device)


def assemble(files: messages.Files, store: Path, folder: Path) -> Bundle:
    """Assemble a bundle from files in the store, then read and check it."""
    link(files, store, folder)
    return read_bundle(folder)


def images_of(sent: messages.SentImages, store: Path) -> EvaluationImages:
    """The evaluation images, memory-mapped from the store."""
    pixels = np.load(stored(store, sent.pixels, "pixels.npy"), mmap_mode="r", allow_pickle=False)
    with np.load(stored(store, sent.reference, "reference.npz"), allow_pickle=False) as arrays:
        files = [stored(store, digest, "image").read_bytes() for digest in sent.files]
        return EvaluationImages.of_arrays(task_of(sent.task, sent.thresholds), pixels, arrays, files, sent.names)


def stored(store: Path, digest: str, name: str) -> Path:
    """Path of a file in the store, which has its hash. DeviceError, which names it, if it is gone or damaged.

    A damaged one is deleted, so that the next command sends it again.
    """
    path = store / digest
    try:
        if file_sha256(path) == digest:
            return path
        path.unlink()
    except FileNotFoundError as error:
        problem = f"'{name}' is not in the device's store any more: another run needed its space"
        raise DeviceError(problem, fix=RUN_AGAIN) from error
    raise DeviceError(f"'{name}' was damaged in the device's store, and is deleted there", fix=RUN_AGAIN)


def link(files: Mapping[str, str], store: Path, folder: Path) -> None:
    """Create a folder with links to files in the store, under the files' own names. Raises the errors of `stored`."""
    folder.mkdir(parents=True)
    for name, digest in files.items():
        source = stored(store, digest, name)
        try:
            os.link(source, folder / name)
        except OSError as error:  # the file system has no hard links, or is another one
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source, folder / name)


def receive(app: Path, files: Mapping[str, str], store: Path) -> Path:
    """Write a bundle from files of the store into the folder of incoming bundles, which is returned."""
    incoming = app / apps.INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    link(files, store, incoming)
    for path in (*incoming.iterdir(), incoming):
        apps.sync(path)
    return incoming


def holding(app: Path, files: Mapping[str, str]) -> Path | None:
    """Folder of the active bundle if it has just these files, by name and SHA-256; else None."""
    slot = apps.active_slot(app)
    record, folder = apps.record_of(app, slot), app / apps.SLOTS / str(slot)
    same = record is not None and record["files"] == files and apps.damage(folder, record, hashes=True) is None
    return folder if same else None


def trusted_key(app: Path, sent: str | None) -> "EllipticCurvePublicKey | None":
    """The key that must have signed a bundle: the device's own, or else the one that the host sent.

    Raises SignatureError if they differ, and MissingExtraError if signatures can't be verified here.
    """
    own = apps.trusted_key(app.parent)
    if own is None and sent is None:
        return None
    if own and sent and own != sent:
        raise other_key(own, sent, str(app.parent))
    return parse_public_key((own or sent or "").encode(), f"the key '{app.parent / apps.TRUST}' of the device")


@contextmanager
def pushing(app: Path, device: str) -> Iterator[None]:
    """Create an app's folder if necessary. A bundle that was received, and not activated, is deleted at the end.

    Turns errors of the file system into a DeviceError with the device's name.
    """
    try:
        app.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            shutil.rmtree(app / apps.INCOMING, ignore_errors=True)
    except TimeoutError as error:
        raise DeviceError(str(error), fix=RUN_AGAIN) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(device, "the push", f"'{app}'") from error
        problem = f"the device can't write '{error.filename or app}': {error.strerror or error}"
        raise DeviceError(problem, fix="Check the permissions and the file system there") from error


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
            refusal = SentError.of(error)
        state = convert(readable(apps.app_state(app)), AppState)
        return messages.Slotted(state, trials[-1] if trials else None, refusal)


def push(job: messages.PushJob, app: Path, reporter: Reporter, trials: list[DeviceTrial]) -> SentError | None:
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
        return convert(apps.switch(app, job.expected, job.sha256, job.trust, record), SentError | None)


def try_bundle(bundle: Bundle, job: messages.PushJob, reporter: Reporter) -> DeviceTrial:
    """Open a bundle in this process, run its test vectors, and time it on the first one.

    Raises GoldenError, BundleError, MissingExtraError, or EngineError.
    """
    name = job.bundle
    with reporter.stage(f"try {name}"), open_session(bundle, job.timing.threads) as session:
        engine = f"{session.engine_name} {session.engine_version}"
        golden = session.compare_golden()
        if not golden.passed:
            raise golden_error(name, golden, engine, bundle.manifest.made_with, job.name)
        image = bundle.manifest.input_of(bundle.golden().pixels[:1])
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
