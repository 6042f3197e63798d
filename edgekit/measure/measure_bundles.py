"""Measure accuracy, latency, memory and INT8 kernels of bundles, which are timed in turns.

All measurements use the same sessions as apps do. A bundle that fails loses only its own measurement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.config.device_classes import load_device_class
from edgekit.errors import EdgekitError, StageError
from edgekit.images.crops import LabelledCrops
from edgekit.images.preprocess import open_image
from edgekit.measure.accuracy import Predictions, SnrMeter, changed_classes, compare, predict
from edgekit.measure.baselines import F32, Call, Group, is_baseline, speedup_of
from edgekit.measure.energy import EnergyMeter
from edgekit.measure.fresh_process import Fresh, measure_fresh
from edgekit.measure.latency import Times
from edgekit.measure.profiled import Profiled, profile_bundle, runs_for
from edgekit.measure.settings import Timing
from edgekit.measure.throughput import measure_streams
from edgekit.measure.timing import Timed, latency_of, time_end_to_end, time_in_turns
from edgekit.report.device_facts import DeviceFacts
from edgekit.report.row import Accuracy, EndToEnd, Failure, LowPrecision, Measurement, Roofline, Stage
from edgekit.report.under_load import Energy, Throughput
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import Session, open_session
from edgekit.support.each_bundle import each_bundle
from edgekit.support.progress import Reporter, Step


@dataclass(frozen=True)
class EvaluationImages:
    """The evaluation images, and torch's predictions for them."""

    crops: LabelledCrops
    """Cropped images and their labels."""
    reference: Predictions
    """Predictions of the original network in torch."""
    files: Sequence[bytes]
    """A few encoded image files, for end-to-end times."""
    key: str
    """Hash of everything that measurements depend on: the images in their order, their labels, and the network."""
    names: Sequence[str] = ()
    """Paths of the images within their data set, in the same order; empty where they are unknown."""
    logits: NDArray[np.float32] | None = None
    """Torch's logits [M,classes] for the first M images, for the signal-to-noise ratio; None to leave that out."""


@dataclass(frozen=True)
class LowSession:
    """Session of a float bundle in bf16 or f16, and its accuracy."""

    session: Session
    accuracy: Accuracy | None
    """None without images."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle whose session is open, and the measurements before timing."""

    bundle: Bundle
    session: Session
    fresh: Fresh
    profiled: Profiled
    accuracy: Accuracy | None = None
    snr_db: float | None = None
    low: LowSession | None = None
    """The same bundle in bf16 or f16, or None if its runtime would not choose that itself."""


@dataclass(frozen=True)
class GroupTimes:
    """Times of a group of bundles."""

    timed: Timed[Call]
    """Times of the models alone, for the bundles that didn't fail."""
    end_to_end: Mapping[str, Times]
    """Times that include decoding and preprocessing, by the name of the bundle."""
    energy: Mapping[str, Energy]
    """Energy of an inference, by the name of the bundle."""
    throughput: Mapping[str, Throughput]
    """Throughput of several streams, by the name of the bundle; empty unless the timing ask for it."""
    failures: Mapping[str, Exception]
    """Errors of the other bundles, by name."""


def measure_group(
    group: Group, timing: Timing, device: DeviceFacts, reporter: Reporter, images: EvaluationImages | None = None
) -> dict[str, Measurement]:
    """Measure each bundle, with timing in turns in this process. An error of a bundle, or a bug, costs its row.

    Float bundles also run in bf16 or f16 where their runtime would choose that: the baseline of an INT8 speed-up is the
    fastest float. With images, the bundles are also evaluated. Without images, they are timed on a golden sample.
    """
    try:
        measured, failures = _measured(group, timing, device, reporter, images)
    except Exception as error:  # a bug in what the bundles share
        if isinstance(error, EdgekitError):
            raise
        reporter.failed(f"measuring {', '.join(group)}", error)
        measured, failures = {}, dict.fromkeys(group, Failure.of("benchmark", error))
    return {
        name: failed(name, bundle, failures[name], device, images) if name in failures else measured[name]
        for name, bundle in group.items()
    }


def _measured(
    group: Group, timing: Timing, device: DeviceFacts, reporter: Reporter, images: EvaluationImages | None
) -> tuple[dict[str, Measurement], dict[str, Failure]]:
    """Measurements of the bundles that work, and why the others don't."""
    stage: Stage = "benchmark" if images is None else "evaluate"
    with ExitStack() as stack:

        def opening(name: str) -> Opened:
            return _open(name, group, timing, images, stack, reporter)

        opened, unopened = each_bundle(group, opening, reporter)
        times = _time(opened, timing, images, reporter)
    timed = [name for name in opened if name not in times.failures]

    def measurement(name: str) -> Measurement:
        return _measurement(name, group, opened[name], times, device, images)

    measured, unmeasured = each_bundle(timed, measurement, reporter)
    failures = {name: Failure.of(stage, error) for name, error in unopened.items()}
    failures |= {name: Failure.of("benchmark", error) for name, error in {**times.failures, **unmeasured}.items()}
    return measured, failures


def failed(
    name: str, bundle: Bundle, failure: Failure, device: DeviceFacts, images: EvaluationImages | None
) -> Measurement:
    """Measurement of a bundle that doesn't run there. Only a benchmark, which has no images, names the bundle."""
    return Measurement(
        target=bundle.manifest.target,
        precision=bundle.manifest.precision,
        device=device,
        bundle=name if images is None else None,
        failure=failure,
    )


def _open(
    name: str, group: Group, timing: Timing, images: EvaluationImages | None, stack: ExitStack, reporter: Reporter
) -> Opened:
    """Open and check a bundle, and evaluate it on the images; raises StageError."""
    bundle = group[name]
    # This comes first, because a runtime that crashes then takes down only the fresh process.
    fresh = measure_fresh(bundle.path, check_threads(timing.threads))
    session = stack.enter_context(open_session(bundle, timing.threads))
    session.verify()
    accuracy, snr = None, SnrMeter(images.logits if images else None)
    if images is not None:
        predictions = _predict(f"{name}: evaluate", session, images, reporter, snr)
        changes = changed_classes(predictions, images.reference, images.crops.labels, images.names, bundle.labels)
        accuracy = replace(compare(predictions, images.reference), changes=changes)
    profiled = profile_bundle(bundle, session.threads, runs_for(fresh.first_ms))
    judged = images is not None or is_baseline(name, group)
    low = _open_low(name, session, images, stack, reporter) if judged else None
    return Opened(
        bundle=bundle, session=session, fresh=fresh, profiled=profiled, accuracy=accuracy, snr_db=snr.db, low=low
    )


def _open_low(
    name: str, session: Session, images: EvaluationImages | None, stack: ExitStack, reporter: Reporter
) -> LowSession | None:
    """Open and evaluate the bundle in bf16 or f16; None if its runtime would not choose that, or fails.

    It may fail although f32 works, because f16 overflows above 65504.
    """
    try:
        low = session.in_low_precision()
        if low is None:
            return None
        stack.enter_context(low)
        if images is None:
            return LowSession(low, None)
        title = f"{_label(name, computes_in(low))}: evaluate"
        predictions = _predict(title, low, images, reporter, SnrMeter(None))
        return LowSession(low, compare(predictions, images.reference))
    except StageError as error:
        reporter.warn(f"{name} in bf16 or f16: {error}", error)
        return None


def _time(
    opened: Mapping[str, Opened], timing: Timing, images: EvaluationImages | None, reporter: Reporter
) -> GroupTimes:
    """Time the open bundles. One that fails in f32 or end to end has no times, so that it can't be a baseline."""
    if not opened:
        return GroupTimes(Timed(), {}, {}, {}, {})
    threads = max(entry.session.threads for entry in opened.values())
    title = f"{', '.join(opened)}: time"
    inputs = {name: _input(entry, images) for name, entry in opened.items()}
    meter = EnergyMeter(reporter)
    timed = time_in_turns(dict(_calls(opened, inputs)), threads, timing, title, reporter)
    for (name, computed_in), error in timed.failures.items():
        reporter.failed(_label(name, computed_in), error)
    failures = {name: error for (name, computed_in), error in timed.failures.items() if computed_in == F32}
    end_to_end: dict[str, Times] = {}
    if images is not None:
        calls = {name: _end_to_end(o.session, images.files) for name, o in opened.items() if name not in failures}
        end_to_end, errors = time_end_to_end(calls, timing)
        for name, error in errors.items():
            reporter.failed(f"{name} end to end", error)
        failures |= errors
    left = [name for name in opened if name not in failures]
    energy, errors = each_bundle(
        left, lambda name: meter.measure(_call(opened[name].session, inputs[name])), reporter, "under load"
    )
    failures |= errors
    streams = {name: (opened[name].bundle, inputs[name]) for name in energy}
    throughput, errors = measure_streams(streams, timing, reporter)
    failures |= errors
    valid = {call: times for call, times in timed.times.items() if call[0] not in failures}
    return GroupTimes(replace(timed, times=valid), end_to_end, energy, throughput, failures)


def _label(name: str, computed_in: str) -> str:
    return name if computed_in == F32 else f"{name} in {computed_in}"


def _predict(title: str, session: Session, images: EvaluationImages, reporter: Reporter, snr: SnrMeter) -> Predictions:
    with reporter.stage(title, len(images.crops)) as step:
        return predict(snr.watched(session), _normalized(session.bundle, images, step), images.names)


def _normalized(bundle: Bundle, images: EvaluationImages, step: Step) -> Iterator[tuple[NDArray[np.float32], int]]:
    for image, label in images.crops.normalized(bundle.manifest.preprocessing):
        yield image, label
        step()


def _input(entry: Opened, images: EvaluationImages | None) -> NDArray[np.float32]:
    """The first image, or a golden sample, normalized: float32 [1,C,H,W]."""
    if images is not None:
        return entry.session.preprocess(open_image(images.files[0]))
    return entry.bundle.manifest.preprocessing.normalize(entry.bundle.golden().pixels[0])


def _calls(
    opened: Mapping[str, Opened], inputs: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[Call, Callable[[], object]]]:
    """Calls to time: each model alone, first all in f32, then bf16 or f16."""
    for name, entry in opened.items():
        yield (name, F32), _call(entry.session, inputs[name])
    for name, entry in opened.items():
        if entry.low is not None:
            yield (name, computes_in(entry.low.session)), _call(entry.low.session, inputs[name])


def _call(session: Session, image: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: session(image)


def _end_to_end(session: Session, files: Sequence[bytes]) -> Callable[[], object]:
    """Build a call that decodes, preprocesses and runs the next file, in an endless cycle."""
    turn = cycle(files)
    return lambda: session(session.preprocess(open_image(next(turn))))


def _measurement(
    name: str, group: Group, this: Opened, times: GroupTimes, device: DeviceFacts, images: EvaluationImages | None
) -> Measurement:
    """Put together the measurement of one bundle."""
    timed, manifest = times.timed, this.bundle.manifest
    threads = this.session.threads
    latency = latency_of(timed.times[name, F32], threads, this.fresh)
    end_to_end = times.end_to_end.get(name)
    macs = sum(layer["macs"] for layer in manifest.layers)
    return Measurement(
        target=manifest.target,
        precision=manifest.precision,
        device=device,
        bundle=name,
        scheme=manifest.scheme,
        size_bytes=this.bundle.size_bytes,
        macs=macs,
        accuracy=this.accuracy,
        snr_db=this.snr_db,
        latency_ms=latency,
        end_to_end_ms=None if end_to_end is None else EndToEnd(float(np.median(end_to_end))),
        speedup=speedup_of(name, group, timed),
        int8=None if images is None and manifest.precision == "float" else this.profiled.int8,
        profile=this.profiled.time,
        limit=roofline(device, macs, manifest.precision, threads, latency.p50),
        peak_rss_bytes=this.fresh.peak_rss_bytes,
        low_precision=_low_precision(name, this, timed),
        thermal=timed.conditions,
        sustain=timed.sustained.get((name, F32)),
        energy=times.energy.get(name),
        throughput=times.throughput.get(name),
    )


def _low_precision(name: str, this: Opened, timed: Timed[Call]) -> LowPrecision | None:
    if this.low is None:
        return None
    computed_in = computes_in(this.low.session)
    times = timed.times.get((name, computed_in))
    if times is None:
        return None
    return LowPrecision(computes_in=computed_in, accuracy=this.low.accuracy, p50_ms=float(np.median(times)))


def computes_in(session: Session) -> Literal["bf16", "f16"]:
    """Number format of a session from `Session.in_low_precision`."""
    return "bf16" if session.bundle.manifest.session["inference_precision"] == "bf16" else "f16"


def roofline(device: DeviceFacts, macs: int, precision: str, threads: int, p50_ms: float) -> Roofline | None:
    """Latency at the nominal peak rate of the measured device, or None if its class is unknown.

    The bundle may have been made for a different class.
    """
    if device.device_class is None:
        return None
    device_class = load_device_class(device.device_class)
    cores = min(threads, device.cores or threads)
    nominal = device_class.nominal_ms(macs, "int8" if precision == "int8" else "float", cores)
    return Roofline(nominal, nominal / p50_ms)
