"""Measures the bundles of a run: accuracy, latency, memory and INT8 kernels, one runtime after the other.

The bundles of a runtime are timed in turns; everything else is measured when a bundle is opened. All measurements use
the same sessions as apps do, and are stored in the run folder, from which an interrupted run resumes. A bundle that
fails loses only its own measurement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import DeviceClass, Precision
from edgekit.errors import EdgekitError, EngineError, StageError
from edgekit.images.preprocess import open_image
from edgekit.measure.accuracy import EvaluationImages, SnrMeter, predict
from edgekit.measure.fresh_process import Fresh, measure_fresh
from edgekit.measure.gates import Call, Group, is_baseline, speedup_of
from edgekit.measure.latency import (
    ThreadChoice,
    Timed,
    Times,
    fastest_threads,
    latency_of,
    measure_streams,
    time_end_to_end,
    time_in_turns,
)
from edgekit.measure.machine import EnergyMeter, measuring_versions
from edgekit.measure.settings import Timing
from edgekit.measure.task import Answers
from edgekit.report.figure import DeviceFacts
from edgekit.report.row import (
    F32,
    Accuracy,
    EndToEnd,
    Energy,
    Failure,
    Int8,
    LowPrecision,
    Measurement,
    RatedLatency,
    Stage,
    ThreadTime,
    Throughput,
    TimedKind,
    TimedLayer,
    TimeProfile,
    in_format,
)
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import RUNS, Profile, profile_session
from edgekit.runtime.session import Session, open_session
from edgekit.support.files import Inputs, digest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, Step, each_bundle
from edgekit.support.run_folder import RunFolder

MeasureGroup = Callable[[Group], Mapping[str, Measurement]]


@dataclass(frozen=True)
class Machine:
    """The machine that measures a group of bundles, as far as its measurements depend on it."""

    device: DeviceFacts
    """Hardware and system of the machine."""
    versions: Mapping[str, str]
    """Versions of the runtime, Python and edgekit on the machine."""
    address: str | None = None
    """ssh:// address; None for the machine that edgekit runs on."""
    ssh_config: str | None = None
    """Path of the ssh configuration that the address is looked up in, if it isn't the user's own."""


@dataclass(frozen=True)
class GroupInputs(Inputs):
    """Inputs of the measurements of a group of bundles, except for the passing state of the machine."""

    bundles: tuple[tuple[str, str], ...]
    """Name and content of each bundle, in the order in which they take turns; see `MeasurementStore.contents`."""
    images: str
    """`EvaluationImages.key`."""
    image_names: tuple[str, ...]
    """Names of the images, which rows list where predictions changed."""
    timing: Timing
    """Settings of latency and throughput."""
    machine: Machine
    """The machine that measures the bundles."""


@dataclass(frozen=True)
class StoredRows:
    """The measurements of a group of bundles."""

    labels: str
    """Hash of the names of the bundles' classes."""
    rows: dict[str, Measurement]
    """Measurements by the name of the bundle."""


@dataclass(frozen=True)
class MeasurementStore:
    """Measurements in the run folder, from which the same command resumes after an interruption.

    A command whose bundles have other class names also takes those of a completed run.
    """

    run: RunFolder
    images: EvaluationImages
    timing: Timing
    contents: Mapping[str, str] = field(default_factory=dict)
    """Hash of what a bundle was made from without the names of its classes, by `Bundle.sha256`. Without an entry, the
    bundle's own hash stands for its content."""

    def resumed(
        self, group: Group, machine: Machine, measure: MeasureGroup, reporter: Reporter
    ) -> Mapping[str, Measurement]:
        """The measurements of an interrupted run if they have the same inputs; otherwise measure and store them.

        Those of a completed run are taken if only class names differ, as long as no bundle failed. The bundles are of
        one runtime. If the device is lost, its failures are not stored, so that the same command measures those bundles
        again.
        """
        target, device = next(iter(group.values())).manifest.target, machine.device.name
        # The name of a device may be an ssh:// address, which contains characters that are not valid in file names.
        name = target + ("" if machine.address is None else f"-on-{quote(device, safe='')}")
        where = "" if machine.address is None else f"{device}: "
        inputs, labels = self.inputs(group, machine), digest(*(bundle.labels for bundle in group.values()))
        stored = self._recall(f"row-{name}", inputs, group)
        if stored is not None and stored.labels == labels:
            reporter.say(f"{where}{target}: resumed the measurements of an interrupted run")
            return stored.rows
        stored = stored or self._recall(f"measured-{name}", inputs, group)
        if stored is not None and stored.labels != labels and not any(row.failure for row in stored.rows.values()):
            reporter.say(f"{where}{target}: kept the measurements of an earlier run, which had other class names")
            # The names are in the model files.
            measured = {each: replace(row, size_bytes=group[each].size_bytes) for each, row in stored.rows.items()}
        else:
            measured = dict(measure(group))
        if not any(map(lost_with_device, measured.values())):
            self.run.remember(f"row-{name}", inputs, StoredRows(labels, measured))
        return measured

    def _recall(self, name: str, inputs: GroupInputs, group: Group) -> StoredRows | None:
        stored = self.run.recall(name, inputs, StoredRows)
        return stored if stored is not None and stored.rows.keys() == group.keys() else None

    def inputs(self, group: Group, machine: Machine) -> GroupInputs:
        """Inputs of the measurements of these bundles on this machine."""
        bundles = tuple((name, self.contents.get(bundle.sha256, bundle.sha256)) for name, bundle in group.items())
        return GroupInputs(bundles, self.images.key, tuple(self.images.names), self.timing, machine)


def lost_with_device(measured: Measurement) -> bool:
    """Whether the device failed and not the bundle, so that the same command may succeed later."""
    return measured.failure is not None and measured.failure.stage == "device"


PROFILED_MS = 500.0
"""Time that the profiled runs of a fast bundle take together, in milliseconds."""
MOST_RUNS = 50
DIGITS = 4
"""Decimals of a time in milliseconds; profilers count whole microseconds at best, and take medians and means."""


@dataclass(frozen=True)
class ProfileSummary:
    """The figures of a profile that a report has."""

    int8: Int8
    """The part that ran in integer kernels."""
    time: TimeProfile
    """Times of the kinds of operations, and of the layers."""


def summarize_profile(session: Session, runs: int = RUNS) -> ProfileSummary:
    """Profile the bundle of a session. Without a profile, the figures are None or empty, and the reason is in both."""
    try:
        with quiet():
            ran = profile_session(session, runs)
        int8, times = int8_of(ran), time_of(ran)
    except EngineError as error:
        int8 = Int8(share_of_macs=None, method=f"unknown: {error}", float_layers=None, simulated=None)
        times = TimeProfile(missing=str(error))
    pairs = session.bundle.manifest.pairs_that_can_saturate
    return ProfileSummary(replace(int8, pairs_that_can_saturate=pairs), times)


def runs_for(first_ms: float) -> int:
    """Number of runs to profile a bundle with for about half a second, by the time of its first inference."""
    return max(RUNS, min(MOST_RUNS, int(PROFILED_MS / max(first_ms, 1.0))))


def int8_of(ran: Profile) -> Int8:
    """Summarize which part of the model ran in integer kernels."""
    return Int8(
        share_of_macs=ran.share_of_macs, method=ran.method, float_layers=ran.float_layers, simulated=ran.simulated
    )


def time_of(ran: Profile) -> TimeProfile:
    """Summarize the times, the slowest first; without times, the method of the profile says why."""
    if not ran.time_by_kind:
        return TimeProfile(missing=ran.method)
    layers = [
        TimedLayer(op.name, op.kernel, op.int8, round(op.ms or 0.0, DIGITS), round(op.around_ms, DIGITS))
        for op in ran.ops
        if op.has_time
    ]
    return TimeProfile(
        kinds=tuple(TimedKind(kind, round(ms, DIGITS)) for kind, ms in ran.time_by_kind.items()),
        layers=tuple(sorted(layers, key=lambda layer: -layer.ms - layer.around_ms)),
        sum_ms=round(sum(ran.time_by_kind.values()), DIGITS),
        conversion_ns=ran.conversion_ns,
    )


@dataclass(frozen=True)
class LowPrecisionSession:
    """Session of a float bundle in bf16 or f16, and its accuracy."""

    session: Session
    computes_in: Literal["bf16", "f16"]
    """Number format of the session."""
    accuracy: Accuracy | None
    """Accuracy in this format; None without images."""


@dataclass(frozen=True, kw_only=True)
class CheckedBundle:
    """A bundle that gives its golden logits, and the measurements before timing."""

    bundle: Bundle
    engine: str
    """Distribution that runs the bundle, with its version."""
    threads: int
    """Number of threads that the runtime computes with."""
    by_threads: tuple[ThreadTime, ...] = ()
    """Medians of the numbers of threads that were compared."""
    fresh: Fresh
    profile: ProfileSummary
    figures: Mapping[str, Any]
    """Figures that were measured before the timing, by the names of the fields of `Measurement`."""
    low: LowPrecisionSession | None = None
    """The same bundle in bf16 or f16, or None if its runtime would not choose that itself."""


@dataclass(frozen=True, kw_only=True)
class OpenedBundle(CheckedBundle):
    """A checked bundle whose session is open in this process."""

    session: Session

    def example(self, images: EvaluationImages | None) -> NDArray[np.float32]:
        """The first image, or without images a golden sample, normalized: float32 [1,C,H,W]."""
        pixels = (images.crops if images is not None else self.bundle.golden()).pixels[0]
        return self.bundle.manifest.preprocessing.normalize(pixels)


def open_bundle(
    name: str,
    group: Group,
    timing: Timing,
    images: EvaluationImages | None,
    stack: ExitStack,
    reporter: Reporter,
    may_choose: bool,
) -> OpenedBundle:
    """Open and check a bundle, and evaluate it on the images; raises StageError.

    If it may choose the number of threads, the fastest is taken.
    """
    bundle = group[name]
    choice = ThreadChoice(check_threads(timing.threads, None if may_choose else bundle.manifest.threads))
    # This comes first, because a runtime that crashes then takes down only the fresh process.
    fresh = measure_fresh(bundle.path, choice.threads)
    if may_choose and (choice := fastest_threads(bundle, all_cores := choice.threads, reporter)).threads != all_cores:
        fresh = measure_fresh(bundle.path, choice.threads)
    session = stack.enter_context(open_session(bundle, choice.threads))
    session.verify()
    accuracy, snr = None, SnrMeter(images.logits if images else None)
    if images is not None:
        accuracy = accuracy_of(bundle, _predict(f"{name}: evaluate", session, images, reporter, snr), images)
    profile = summarize_profile(session, runs_for(fresh.first_ms))
    judged = images is not None or is_baseline(name, group)
    low = _open_in_low_precision(name, session, images, stack, reporter) if judged else None
    return OpenedBundle(
        bundle=bundle,
        engine=f"{session.engine_name} {session.engine_version}",
        threads=session.threads,
        by_threads=choice.times,
        session=session,
        fresh=fresh,
        profile=profile,
        figures={"accuracy": accuracy, "snr_db": snr.db},
        low=low,
    )


def accuracy_of(bundle: Bundle, answers: Answers, images: EvaluationImages) -> Accuracy:
    """Accuracy of a bundle's answers for the evaluation images, and the classes that changed, by their indices."""
    task, targets = images.task, images.crops.labels
    confidence = task.confidence(answers, images.reference, targets)
    return replace(
        task.compare(answers, images.reference, targets),
        changes=task.changes(answers, images.reference, targets, images.names),
        right_by_class=task.right_by_class(answers, targets),
        given_by_class=task.given_by_class(answers, targets),
        confidence=replace(confidence, temperature=bundle.manifest.temperature),
    )


def _open_in_low_precision(
    name: str, session: Session, images: EvaluationImages | None, stack: ExitStack, reporter: Reporter
) -> LowPrecisionSession | None:
    """Open and evaluate the bundle in bf16 or f16; None if its runtime would not choose that, or fails.

    It may fail although f32 works, because f16 overflows above 65504.
    """
    try:
        low = session.in_low_precision()
        if low is None:
            return None
        stack.enter_context(low)
        computes_in, accuracy = low.bundle.manifest.session["inference_precision"], None
        if images is not None:
            title = f"{in_format(name, computes_in)}: evaluate"
            answers = _predict(title, low, images, reporter, SnrMeter(None))
            accuracy = images.task.compare(answers, images.reference, images.crops.labels)
        return LowPrecisionSession(low, computes_in, accuracy)
    except StageError as error:
        reporter.warn(f"{name} in bf16 or f16: {error}", error)
        return None


def _predict(title: str, session: Session, images: EvaluationImages, reporter: Reporter, snr: SnrMeter) -> Answers:
    with reporter.stage(title, len(images.crops)) as step:
        return predict(images.task, snr.watched(session), _normalized(session.bundle, images, step), images.names)


def _normalized(bundle: Bundle, images: EvaluationImages, step: Step) -> Iterator[NDArray[np.float32]]:
    for image in images.crops.normalized(bundle.manifest.preprocessing):
        yield image
        step()


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
            yield (name, entry.low.computes_in), partial(entry.low.session, inputs[name])


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
        **this.figures,
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
    low = this.low
    times = timed.times.get((name, low.computes_in)) if low else None
    if low is None or times is None:
        return None
    return LowPrecision(computes_in=low.computes_in, accuracy=low.accuracy, p50_ms=float(np.median(times)))


def rated_latency(device: DeviceFacts, macs: int, precision: str, threads: int, p50_ms: float) -> RatedLatency | None:
    """Latency at the nominal peak rate of the measured device, or None if its class is unknown.

    The bundle may have been made for a different class.
    """
    if device.device_class is None:
        return None
    device_class = DeviceClass.load(device.device_class)
    cores = min(threads, device.cores or threads)
    nominal = device_class.nominal_ms(macs, "int8" if precision == "int8" else "float", cores)
    return RatedLatency(nominal, nominal / p50_ms)
