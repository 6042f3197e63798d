"""The agent's part of a push: try a bundle on the device, and make it active if it passes."""

import platform
from pathlib import Path

import numpy as np
from msgspec import convert

from edgekit import __version__
from edgekit.devices.app_state import AppState, Refusal, SlotRecord, Trial
from edgekit.devices.messages import PushJob, Slotted
from edgekit.devices.scripts.apps import app_state
from edgekit.devices.slots import Slots, fingerprint_of, pushing
from edgekit.errors import BundleRefusedError, DeviceError, EdgekitError
from edgekit.measure.latency import CallFailed, alternate
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import golden_error, open_session
from edgekit.runtime.signature import public_pem, read_signed_bundle
from edgekit.support.probe import emulated
from edgekit.support.progress import Reporter

TIMED_MS = 20_000
"""Duration of the timing after which a slow model gets fewer rounds, in milliseconds."""
FEWEST_ROUNDS = 20


def push_bundle(job: PushJob, reporter: Reporter) -> Slotted:
    """Push the job's bundle. One that doesn't pass its trial is refused, and nothing changes."""
    with pushing(Path(job.folder), job.name, reporter) as slots:
        trials: list[Trial] = []
        try:
            push(job, slots, reporter, trials)
            refusal = None
        except DeviceError:
            raise
        except EdgekitError as error:
            refusal = Refusal.of(error)
        state = convert(app_state(slots.app), AppState)
        return Slotted(state, trials[-1] if trials else None, refusal)


def push(job: PushJob, slots: Slots, reporter: Reporter, trials: list[Trial]) -> None:
    """Try the job's bundle, and make it active. If it's active already, it is only tried."""
    slots.refuse_unless_active(job.expected, job.sha256)
    name, files = job.bundle, job.files
    is_active = slots.active is not None and slots.holds(slots.active, files)
    if is_active and slots.active:
        folder = slots.folder(slots.active)
    else:
        folder = slots.receive(files, Path(job.cache) / "files")
    key = slots.trusted_key(job.trust)
    bundle = read_bundle(folder) if key is None else read_signed_bundle(folder, key)  # nothing has opened its model yet
    trials.append(trial := try_bundle(bundle, job, reporter))
    if job.max_p99_ms is not None and trial.p99_ms > job.max_p99_ms:
        raise BundleRefusedError(
            f"the p99 of '{name}' is {milliseconds(trial.p99_ms)} with {threads_in_words(trial.threads)}",
            valid=f"at most {milliseconds(job.max_p99_ms)}, {job.bound}",
            fix=f"See with `edgekit doctor {job.name}` whether it is throttled or busy, or give --max-p99 MS",
        )
    signed_by = None if key is None else fingerprint_of(public_pem(key).decode())
    with reporter.stage("switch"):  # the message ends this process if the host is gone
        if is_active:
            slots.confirm_active(job.sha256, signed_by)
        else:
            slots.activate_incoming(record_of(bundle, job, trial, signed_by), job.expected)
        if key is not None:
            slots.keep_key(key)


def try_bundle(bundle: Bundle, job: PushJob, reporter: Reporter) -> Trial:
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
        return Trial(
            engine=engine,
            python=platform.python_version(),
            threads=session.threads,
            max_abs_difference=golden.max_abs_difference,
            tolerance=golden.tolerance,
            p50_ms=float(np.percentile(times, 50)),
            p99_ms=float(np.percentile(times, 99)),
            emulated=emulated(Path("/")),
        )


def record_of(bundle: Bundle, job: PushJob, trial: Trial, signed_by: str | None) -> SlotRecord:
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
        max_p99_ms=job.max_p99_ms,
        trial=trial,
        edgekit=__version__,
        signed_by=signed_by,
    )


def milliseconds(time: float) -> str:
    """A time with its unit. A very short one has two digits that are not zero."""
    return f"{time:.2f} ms" if time >= 0.01 else f"{time:.2g} ms"


def threads_in_words(threads: int) -> str:
    """A number of threads with its noun."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
