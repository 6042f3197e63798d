"""Measures the bundles of a run: accuracy, latency, memory and INT8 kernels, one runtime after the other.

The bundles of a runtime are timed in turns. All measurements use the same sessions as apps do. A bundle that fails
loses only its own measurement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.config.choices import Precision
from edgekit.config.device_classes import load_device_class
from edgekit.errors import EdgekitError
from edgekit.images.decoding import open_image
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.baselines import Call, Group, speedup_of
from edgekit.measure.energy import EnergyMeter
from edgekit.measure.latency import Times
from edgekit.measure.machine import measuring_versions
from edgekit.measure.measurement_store import Machine, MeasureGroup, MeasurementStore
from edgekit.measure.opened_bundle import CheckedBundle, OpenedBundle, computes_in, open_bundle
from edgekit.measure.settings import Timing
from edgekit.measure.throughput import measure_streams
from edgekit.measure.timing import Timed, latency_of, time_end_to_end, time_in_turns
from edgekit.report.device import DeviceFacts
from edgekit.report.measurement import Failure, LowPrecision, Measurement, Stage
from edgekit.report.times import F32, EndToEnd, Energy, RatedLatency, Throughput, in_format
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter, each_bundle

B = TypeVar("B", bound=CheckedBundle)


BuiltBundles = Mapping[str, Bundle | Exception]
"""Bundles by name; instead of a bundle, the error of making it."""


@dataclass(frozen=True)
class GroupTimes:
    """Times of a group of bundles."""

    timed: Timed[Call]
    """Times of the models alone, for the bundles that didn't fail."""
    end_to_end: Mapping[str, Times] = field(default_factory=dict)
    """Times that include decoding and preprocessing, by the name of the bundle."""
    energy: Mapping[str, Energy] = field(default_factory=dict)
    """Energy of an inference, by the name of the bundle."""
    throughput: Mapping[str, Throughput] = field(default_factory=dict)
    """Throughput of several streams, by the name of the bundle; empty unless the timing asks for it."""
    failures: Mapping[str, Exception] = field(default_factory=dict)
    """Errors of the other bundles, by name."""


def time_group(
    opened: Mapping[str, OpenedBundle], timing: Timing, images: EvaluationImages | None, reporter: Reporter
) -> GroupTimes:
    """Time the open bundles. One that fails in f32 or end to end has no times, so that it can't be a baseline."""
    if not opened:
        return GroupTimes(Timed())
    threads = max(entry.session.threads for entry in opened.values())
    title = f"{', '.join(opened)}: time"
    inputs = {name: entry.example(images) for name, entry in opened.items()}
    meter = EnergyMeter(reporter)
    timed = time_in_turns(dict(_calls(opened, inputs)), threads, timing, title, reporter)
    for call, error in timed.failures.items():
        reporter.failed(in_format(*call), error)
    failures = {name: error for (name, computed_in), error in timed.failures.items() if computed_in == F32}
    end_to_end: dict[str, Times] = {}
    if images is not None and images.files:
        calls = {name: _end_to_end(o.session, images.files) for name, o in opened.items() if name not in failures}
        end_to_end, errors = time_end_to_end(calls, timing)
        for name, error in errors.items():
            reporter.failed(f"{name} end to end", error)
        failures |= errors
    left = [name for name in opened if name not in failures]
    energy, errors = each_bundle(
        left, lambda name: meter.measure(partial(opened[name].session, inputs[name])), reporter, "under load"
    )
    failures |= errors
    streams = {name: (opened[name].bundle, inputs[name]) for name in energy}
    throughput, errors = measure_streams(streams, timing, reporter)
    failures |= errors
    valid = {call: times for call, times in timed.times.items() if call[0] not in failures}
    return GroupTimes(replace(timed, times=valid), end_to_end, energy, throughput, failures)


def _calls(
    opened: Mapping[str, OpenedBundle], inputs: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[Call, Callable[[], object]]]:
    """Calls to time: each model alone, first all in f32, then bf16 or f16."""
    for name, entry in opened.items():
        yield (name, F32), partial(entry.session, inputs[name])
    for name, entry in opened.items():
        if entry.low is not None:
            yield (name, computes_in(entry.low.session)), partial(entry.low.session, inputs[name])


def _end_to_end(session: Session, files: Sequence[bytes]) -> Callable[[], object]:
    """Build a call that decodes, preprocesses and runs the next file, in an endless cycle."""
    turn = cycle(files)
    return lambda: session(session.preprocess(open_image(next(turn))))


def measure_built(built: BuiltBundles, device: DeviceFacts, measure: MeasureGroup) -> list[Measurement]:
    """Measure each bundle, and return one measurement per bundle or error in the same order.

    `measure` gets the bundles of one runtime at a time.
    """
    measured = {name: _not_made(name, device, error) for name, error in built.items() if isinstance(error, Exception)}
    for group in by_runtime(built).values():
        measured |= measure(group)
    return [measured[name] for name in built]


def measure_here(
    built: BuiltBundles, device: DeviceFacts, store: MeasurementStore, reporter: Reporter
) -> Sequence[Measurement]:
    """Measure the bundles of a report on this machine, with the images and the timing of the store."""

    def measure(group: Group) -> Mapping[str, Measurement]:
        return measure_group(group, store.timing, device, reporter, store.images)

    def resumed(group: Group) -> Mapping[str, Measurement]:
        target = next(iter(group.values())).manifest.target
        return store.resumed(group, Machine(device, measuring_versions(target)), measure, reporter)

    return measure_built(built, device, resumed)


def by_runtime(built: BuiltBundles) -> dict[str, dict[str, Bundle]]:
    """Group the bundles by target, without those that could not be made."""
    groups: dict[str, dict[str, Bundle]] = {}
    for name, bundle in built.items():
        if isinstance(bundle, Bundle):
            groups.setdefault(bundle.manifest.target, {})[name] = bundle
    return groups


def _not_made(name: str, device: DeviceFacts, error: Exception) -> Measurement:
    """Measurement of a bundle that could not be made; its name is TARGET-PRECISION."""
    target, _, precision = name.rpartition("-")
    kind: Precision = "int8" if precision == "int8" else "float"
    return Measurement(target=target, precision=kind, device=device, failure=Failure.of("compile", error))


def measure_group(
    group: Group, timing: Timing, device: DeviceFacts, reporter: Reporter, images: EvaluationImages | None = None
) -> dict[str, Measurement]:
    """Measure each bundle, with timing in turns in this process. An error of a bundle, or a bug, costs its row.

    Float bundles also run in bf16 or f16 where their runtime would choose that: the baseline of an INT8 speed-up is the
    fastest float. With images, the bundles are also evaluated. Without images, they are timed on a golden sample.

    If the timing states no number of threads, each bundle is evaluated and timed with its fastest one; without images,
    and on an emulated device, with the one that an app would get.
    """
    may_choose = images is not None and timing.threads is None and not device.emulated
    with ExitStack() as stack:
        return measure_with(
            lambda name: open_bundle(name, group, timing, images, stack, reporter, may_choose),
            lambda opened: time_group(opened, timing, images, reporter),
            group,
            device,
            reporter,
            images,
        )


def measure_with(
    opening: Callable[[str], B],
    times_of: Callable[[Mapping[str, B]], GroupTimes],
    group: Group,
    device: DeviceFacts,
    reporter: Reporter,
    images: EvaluationImages | None,
) -> dict[str, Measurement]:
    """Measure each bundle wherever `opening` opens and checks it by its name, and `times_of` times those that work.

    An error of a bundle, or a bug, costs its row. An error of the device is raised.
    """
    opening_stage: Stage = "benchmark" if images is None else "evaluate"
    try:
        opened, unopened = each_bundle(group, opening, reporter)
        times = times_of(opened)
        measured, unmeasured = each_bundle(
            [name for name in opened if name not in times.failures],
            lambda name: measurement_of(name, group, opened[name], times, device, images),
            reporter,
        )
        failures = {name: Failure.of(opening_stage, error) for name, error in unopened.items()}
        failures |= {name: Failure.of("benchmark", error) for name, error in {**times.failures, **unmeasured}.items()}
    except Exception as error:  # a bug in what the bundles share
        if isinstance(error, EdgekitError):
            raise
        reporter.failed(f"measuring {', '.join(group)}", error)
        measured, failures = {}, dict.fromkeys(group, Failure.of("benchmark", error))
    return {
        name: failed_measurement(name, bundle, failures[name], device, images) if name in failures else measured[name]
        for name, bundle in group.items()
    }


def measurement_of(
    name: str,
    group: Group,
    this: CheckedBundle,
    times: GroupTimes,
    device: DeviceFacts,
    images: EvaluationImages | None,
) -> Measurement:
    """Put together the measurement of one bundle."""
    timed, manifest = times.timed, this.bundle.manifest
    threads, batch = this.threads, timed.batches.get((name, F32), 1)
    speedup = speedup_of(name, group, timed)
    latency = latency_of(timed.times[name, F32], threads, this.fresh, batch, this.by_threads)
    end_to_end = times.end_to_end.get(name)
    macs = sum(layer["macs"] for layer in manifest.layers)
    return Measurement(
        target=manifest.target,
        precision=manifest.precision,
        device=device,
        engine=this.engine,
        bundle=name,
        scheme=manifest.scheme,
        size_bytes=this.bundle.size_bytes,
        macs=macs,
        accuracy=this.accuracy,
        snr_db=this.snr_db,
        latency_ms=latency,
        end_to_end_ms=None if end_to_end is None else EndToEnd(float(np.median(end_to_end))),
        speedup=speedup,
        speedup_f32=speedup_of(name, group, timed, False) if speedup and speedup.versus_precision != F32 else None,
        int8=None if images is None and manifest.precision == "float" else this.profile.int8,
        profile=this.profile.time,
        limit=rated_latency(device, macs, manifest.precision, threads, latency.p50),
        peak_rss_bytes=this.fresh.peak_rss_bytes,
        low_precision=_low_precision(name, this, timed),
        thermal=timed.conditions,
        sustain=timed.sustained.get((name, F32)),
        energy=times.energy.get(name),
        throughput=times.throughput.get(name),
    )


def failed_measurement(
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


def _low_precision(name: str, this: CheckedBundle, timed: Timed[Call]) -> LowPrecision | None:
    if this.low is None:
        return None
    computed_in = computes_in(this.low.session)
    times = timed.times.get((name, computed_in))
    if times is None:
        return None
    return LowPrecision(computes_in=computed_in, accuracy=this.low.accuracy, p50_ms=float(np.median(times)))


def rated_latency(device: DeviceFacts, macs: int, precision: str, threads: int, p50_ms: float) -> RatedLatency | None:
    """Latency at the nominal peak rate of the measured device, or None if its class is unknown.

    The bundle may have been made for a different class.
    """
    if device.device_class is None:
        return None
    device_class = load_device_class(device.device_class)
    cores = min(threads, device.cores or threads)
    nominal = device_class.nominal_ms(macs, "int8" if precision == "int8" else "float", cores)
    return RatedLatency(nominal, nominal / p50_ms)
