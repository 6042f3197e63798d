"""Measures the bundles of a run: accuracy, latency, memory and INT8 kernels, one runtime after the other.

A `Host` gives the rows of a group of bundles: this machine, a board, which runs the same code, or a browser. Trackers
fill the figures of a row. The bundles of a runtime are timed in turns; everything else is measured when a bundle is
opened. All measurements use the same sessions as apps do, and are stored in the run folder, from which an interrupted
run resumes. A bundle that fails loses only its own measurement.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import PRECISIONS, RUNTIMES, Precision
from edgekit.errors import DeviceError, EdgekitError, EngineError, InputError, StageError
from edgekit.images.preprocess import Preprocessing
from edgekit.measure.accuracy import EvaluationImages, predict
from edgekit.measure.end_to_end import from_files, time_camera, time_end_to_end, time_preparations
from edgekit.measure.fresh_process import measure_fresh
from edgekit.measure.gates import Call, Group, is_baseline, speedup_of
from edgekit.measure.latency import (
    Times,
    fastest_threads,
    latency_of,
    measure_throughput,
    time_in_turns,
)
from edgekit.measure.machine import EnergyMeter, measuring_versions
from edgekit.measure.settings import Timing
from edgekit.report.document import REPORT_FILE, is_run, load_report
from edgekit.report.figure import DeviceFacts, EndToEnd, Preparation, counted
from edgekit.report.row import (
    F32,
    Accuracy,
    Failure,
    Int8,
    LowPrecision,
    Measurement,
    TimedKind,
    TimedLayer,
    TimeProfile,
    in_format,
)
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import RUNS, Profile, profile_session
from edgekit.runtime.session import Session, open_session
from edgekit.support import child_process
from edgekit.support.files import Inputs, digest
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, Step, each_bundle
from edgekit.support.run_folder import RunFolder

BuiltBundles = Mapping[str, Bundle | Exception]
"""Bundles by name; instead of a bundle, the error of making it."""
Found = tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Exception]]
"""What a tracker found, by the name of the bundle: figures by the fields of `Measurement`, and errors."""


@dataclass(frozen=True)
class GroupInputs(Inputs):
    """Inputs of the measurements of a group of bundles, except for the passing state of the host."""

    bundles: tuple[tuple[str, str], ...]
    """Name of each bundle and the hash of what it was made from, in the order in which they take turns."""
    images: str
    """`EvaluationImages.key`; empty without images."""
    image_names: tuple[str, ...]
    """Names of the images, which rows list where predictions changed."""
    timing: Timing
    """Settings of latency and throughput."""
    device: DeviceFacts
    """Hardware and system of the host."""
    versions: Mapping[str, str]
    """`Host.versions`."""


@dataclass(frozen=True)
class StoredRows:
    """The measurements of a group of bundles."""

    labels: str
    """Hash of the names of the bundles' classes."""
    rows: dict[str, Measurement]
    """Measurements by the name of the bundle."""


@dataclass(frozen=True)
class MeasureSpec:
    """What to measure of bundles, and the run folder from which the same command resumes after an interruption.

    A command whose bundles have other class names also takes the measurements of a completed run.
    """

    timing: Timing
    images: EvaluationImages | None = None
    """Images to evaluate on. Without them, bundles are timed on a test vector, as in `edgekit benchmark`."""
    run: RunFolder | None = None
    """Folder that stores the measurements; None to store none."""

    def recalled(self, group: Group, inputs: GroupInputs, reporter: Reporter) -> dict[str, Measurement] | None:
        """The measurements of an interrupted run if they have the same inputs, or None.

        Those of a completed run are taken if only class names differ, as long as no bundle failed.
        """
        name, where = _place(group, inputs)
        labels = _labels(group)
        stored = self._recall(f"row-{name}", inputs, group)
        if stored is not None and stored.labels == labels:
            reporter.say(f"{where}: resumed the measurements of an interrupted run")
            return stored.rows
        stored = stored or self._recall(f"measured-{name}", inputs, group)
        if stored is None or stored.labels == labels or any(row.failure for row in stored.rows.values()):
            return None
        reporter.say(f"{where}: kept the measurements of an earlier run, which had other class names")
        # The names are in the model files.
        return {each: replace(row, size_bytes=group[each].size_bytes) for each, row in stored.rows.items()}

    def remember(self, group: Group, inputs: GroupInputs, rows: dict[str, Measurement]) -> None:
        """Store measurements. Those of a lost device are measured again by the same command."""
        if self.run is not None and not any(row.lost_with_device for row in rows.values()):
            self.run.remember(f"row-{_place(group, inputs)[0]}", inputs, StoredRows(_labels(group), rows))

    def _recall(self, name: str, inputs: GroupInputs, group: Group) -> StoredRows | None:
        stored = self.run.recall(name, inputs, StoredRows) if self.run is not None else None
        return stored if stored is not None and stored.rows.keys() == group.keys() else None

    def inputs(self, group: Group, device: DeviceFacts, versions: Mapping[str, str]) -> GroupInputs:
        """Inputs of the measurements of these bundles on this device."""
        bundles = tuple((name, bundle.manifest.fingerprint or bundle.sha256) for name, bundle in group.items())
        if self.images is None:
            return GroupInputs(bundles, "", (), self.timing, device, versions)
        return GroupInputs(bundles, self.images.key, tuple(self.images.names), self.timing, device, versions)

    def failed(self, name: str, bundle: Bundle, failure: Failure, device: DeviceFacts) -> Measurement:
        """Measurement of a bundle that doesn't run there. Only a benchmark, which has no images, names the bundle."""
        return Measurement(
            target=bundle.manifest.target,
            precision=bundle.manifest.precision,
            device=device,
            bundle=name if self.images is None else None,
            failure=failure,
        )


def _place(group: Group, inputs: GroupInputs) -> tuple[str, str]:
    """Name of the stored measurements of a group, whose bundles are of one runtime, and the same for messages."""
    target, device = next(iter(group.values())).manifest.target, inputs.device.name
    if inputs.device.is_local:
        return target, target
    # The name of a device may be an ssh:// address, which contains characters that are not valid in file names.
    return f"{target}-on-{quote(device, safe='')}", f"{device}: {target}"


def _labels(group: Group) -> str:
    return digest(*(bundle.labels for bundle in group.values()))


class Host(Protocol):
    """What runs and measures bundles."""

    row_facts: DeviceFacts
    """The host, as reports describe it."""

    def versions(self, group: Group) -> Mapping[str, str]:
        """Versions of what runs these bundles of one target there, and the address. Raises a DeviceError."""
        ...

    def rows(self, group: Group, spec: MeasureSpec) -> dict[str, Measurement]:
        """Measure bundles, each with the others in turns. An error of a bundle costs its row; DeviceError is raised."""
        ...


def measure(
    connect: Callable[[], AbstractContextManager[Host]],
    device: DeviceFacts,
    built: BuiltBundles,
    spec: MeasureSpec,
    reporter: Reporter,
    together: bool = False,
) -> list[Measurement]:
    """Measure each bundle on a host, and return one measurement per bundle or error in the same order.

    Bundles are measured with those of their runtime or, with `together`, with all others. For each group, the host is
    connected anew. An error of the device, or a bug, costs the group's rows. Rows that failed before a connection have
    the facts that a later one gave in place of `device`. Stored measurements are used only if the host that answers is
    the one that they were measured on.
    """
    unknown = device
    rows: dict[str, Measurement] = {}
    groups: dict[str, dict[str, Bundle]] = {}
    for name, bundle in built.items():
        if isinstance(bundle, Bundle):
            groups.setdefault("" if together else bundle.manifest.target, {})[name] = bundle
        else:
            rows[name] = _not_made(name, unknown, bundle)
    for group in groups.values():
        try:
            with connect() as host:
                device = host.row_facts
                inputs = None if spec.run is None else spec.inputs(group, device, host.versions(group))
                measured = (inputs and spec.recalled(group, inputs, reporter)) or host.rows(group, spec)
                if inputs is not None:
                    spec.remember(group, inputs, measured)
        except Exception as error:
            child_process.check()  # an interrupt makes the main thread close the connections, which is not an error
            if isinstance(error, DeviceError):
                reporter.warn(str(error), error)
            elif isinstance(error, EdgekitError):
                raise
            else:
                reporter.failed(f"measuring {', '.join(group)} on {device.name}", error)
            failure = Failure.of("device", error)
            measured = {name: spec.failed(name, bundle, failure, device) for name, bundle in group.items()}
        rows |= measured
    ordered = [rows[name] for name in built]
    return [replace(row, device=device) if row.device == unknown else row for row in ordered]


def _not_made(name: str, device: DeviceFacts, error: Exception) -> Measurement:
    """Measurement of a bundle that could not be made; its name is TARGET-PRECISION."""
    target, _, precision = name.rpartition("-")
    kind: Precision = "int8" if precision == "int8" else "float"
    return Measurement(target=target, precision=kind, device=device, failure=Failure.of("compile", error))


@dataclass(eq=False)
class Subject:
    """A bundle that is being measured, and what trackers have found so far."""

    name: str
    bundle: Bundle
    session: Any = None
    """What runs the bundle."""
    low: Session | None = None
    """The same bundle in bf16 or f16, or None if its runtime would not choose that itself."""
    low_accuracy: Accuracy | None = None
    """Accuracy in that format; None without images."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Figures by the fields of `Measurement`."""
    latency: dict[str, Any] = field(default_factory=dict)
    """Figures by the fields of `Latency`, without those that follow from the times."""
    times: dict[str, Times] = field(default_factory=dict)
    """Times of the model alone, by the number format that it computes in."""

    def pixels(self, images: EvaluationImages | None) -> NDArray[np.uint8]:
        """The image to time on, [1,H,W,C]: the first one, or without images a test vector."""
        return (images.crops if images is not None else self.bundle.golden()).pixels[:1]


class Tracking(Host, ABC):
    """A host whose trackers run in this process."""

    def __init__(self, facts: DeviceFacts, reporter: Reporter) -> None:
        self.row_facts = facts
        self.reporter = reporter

    def connected(self) -> AbstractContextManager[Host]:
        """This host, which needs no connection."""
        return nullcontext(self)

    @abstractmethod
    def track(self, subjects: dict[str, Subject], group: Group, spec: MeasureSpec, stack: ExitStack) -> Iterator[Found]:
        """Yield what each tracker found: first those that open and check the bundles, then those of times.

        Bundles that a tracker yields errors for are no longer among the subjects of the next.
        """

    def rows(self, group: Group, spec: MeasureSpec) -> dict[str, Measurement]:
        """Measure bundles, each with the others in turns. An error of a bundle, or a bug, costs its row."""
        subjects = {name: Subject(name, bundle) for name, bundle in group.items()}
        failures: dict[str, Failure] = {}
        with ExitStack() as stack:
            for figures, errors in self.track(subjects, group, spec, stack):
                for name, found in figures.items():
                    subjects[name].figures |= found
                for name, error in errors.items():
                    opens = spec.images is not None and subjects[name].session is None
                    failures[name] = Failure.of("evaluate" if opens else "benchmark", error)
                    del subjects[name]
            rows, errors = each_bundle(list(subjects), lambda name: self._row(name, subjects, group), self.reporter)
        failures |= {name: Failure.of("benchmark", error) for name, error in errors.items()}
        for name, failure in failures.items():
            rows[name] = spec.failed(name, group[name], failure, self.row_facts)
        return {name: rows[name] for name in group}

    def _row(self, name: str, subjects: dict[str, Subject], group: Group) -> Measurement:
        """The measurement of a bundle, compared with those that work."""
        subject = subjects[name]
        manifest = subject.bundle.manifest
        times: dict[Call, Times] = {}
        for other, each in subjects.items():
            times |= {(other, computed_in): own for computed_in, own in each.times.items()}
        speedup = speedup_of(name, group, times)
        speedup_f32 = None
        if speedup and speedup.versus_precision != F32:
            speedup_f32 = speedup_of(name, group, times, in_any_format=False)
        latency = latency_of(subject.times[F32], **subject.latency)
        macs = sum(layer["macs"] for layer in manifest.layers)
        low = None
        if subject.low is not None and (computes_in := _format_of(subject.low)) in subject.times:
            p50 = float(np.median(subject.times[computes_in]))
            low = LowPrecision(computes_in=computes_in, accuracy=subject.low_accuracy, p50_ms=p50)
        return Measurement(
            target=manifest.target,
            precision=manifest.precision,
            device=self.row_facts,
            bundle=name,
            scheme=manifest.scheme,
            size_bytes=subject.bundle.size_bytes,
            macs=macs,
            latency_ms=latency,
            speedup=speedup,
            speedup_f32=speedup_f32,
            limit=latency.rated(self.row_facts, macs, manifest.precision),
            low_precision=low,
            **subject.figures,
        )


class Here(Tracking):
    """This machine.

    Float bundles also run in bf16 or f16 where their runtime would choose that: the baseline of an INT8 speed-up is the
    fastest float. If the timing states no number of threads, each bundle is evaluated and timed with its fastest one;
    without images, and on an emulated device, with the one that an app would get.
    """

    def __init__(self, facts: DeviceFacts, reporter: Reporter) -> None:
        super().__init__(facts, reporter)
        self._preparations: dict[tuple[Preprocessing, str], dict[str, Preparation]] = {}

    def versions(self, group: Group) -> Mapping[str, str]:
        return measuring_versions(next(iter(group.values())).manifest.target)

    def track(self, subjects: dict[str, Subject], group: Group, spec: MeasureSpec, stack: ExitStack) -> Iterator[Found]:
        timing, images = spec.timing, spec.images
        reporter = self.reporter
        yield each_bundle(list(subjects), lambda name: self._check(subjects[name], group, spec, stack), reporter)
        if not subjects:
            return
        inputs = {name: each.bundle.manifest.input_of(each.pixels(images)) for name, each in subjects.items()}
        meter = EnergyMeter(reporter)
        yield self._time(subjects, inputs, timing)
        if images is not None and images.files:
            yield self._end_to_end(subjects, images, timing)

        def under_load(name: str) -> Mapping[str, Any]:
            return {"energy": meter.measure(partial(subjects[name].session, inputs[name]))}

        yield each_bundle(list(subjects), under_load, reporter, "under load")
        if timing.streams:
            work = f"run {counted(timing.streams, 'stream')}"

            def streams(name: str) -> Mapping[str, Any]:
                with reporter.stage(f"{name}: {work}"):
                    return {"throughput": measure_throughput(subjects[name].bundle, inputs[name], timing)}

            yield each_bundle(list(subjects), streams, reporter, work)
        if timing.camera:
            size = timing.camera

            def frames(name: str) -> Mapping[str, Any]:
                pixels = subjects[name].pixels(images)[0]
                with reporter.stage(f"{name}: frames of {size[0]}x{size[1]}"):
                    return {"camera": time_camera(subjects[name].session, pixels, size, timing)}

            yield each_bundle(list(subjects), frames, reporter, "camera")

    def _time(self, subjects: dict[str, Subject], inputs: Mapping[str, NDArray[np.float32]], timing: Timing) -> Found:
        """Time each model alone, first all in f32, then in bf16 or f16. One that fails in f32 can't be a baseline."""
        calls: dict[Call, Callable[[], object]] = {}
        for name, each in subjects.items():
            calls[name, F32] = partial(each.session, inputs[name])
        for name, each in subjects.items():
            if each.low is not None:
                calls[name, _format_of(each.low)] = partial(each.low, inputs[name])
        threads = max(each.session.threads for each in subjects.values())
        timed = time_in_turns(calls, threads, timing, f"{', '.join(subjects)}: time", self.reporter)
        figures: dict[str, Mapping[str, Any]] = {}
        errors: dict[str, Exception] = {}
        for (name, computed_in), times in timed.times.items():
            subjects[name].times[computed_in] = times
            if computed_in == F32:
                figures[name] = {"thermal": timed.conditions, "sustain": timed.sustained.get((name, F32))}
        for (name, computed_in), error in timed.failures.items():
            self.reporter.failed(in_format(name, computed_in), error)
            if computed_in == F32:
                errors[name] = error
        return figures, errors

    def _end_to_end(self, subjects: dict[str, Subject], images: EvaluationImages, timing: Timing) -> Found:
        """Time the way from a file to the answer, and the preparation of images once in each form of preprocessing."""
        calls = {name: from_files(each.session, images.files) for name, each in subjects.items()}
        times, errors = time_end_to_end(calls, timing)
        for name, error in errors.items():
            self.reporter.failed(f"{name} end to end", error)
        figures = {}
        for name, own in times.items():
            manifest = subjects[name].bundle.manifest
            form = manifest.preprocessing, manifest.dtype
            if form not in self._preparations:
                pixels = None if self.row_facts.emulated else images.crops.pixels[0]
                self._preparations[form] = time_preparations(manifest, images.files, pixels)
            figures[name] = {"end_to_end_ms": EndToEnd(float(np.median(own)), **self._preparations[form])}
        return figures, errors

    def _check(self, subject: Subject, group: Group, spec: MeasureSpec, stack: ExitStack) -> Mapping[str, Any]:
        """Open and check a bundle, and evaluate it on the images; raises StageError."""
        bundle, reporter = subject.bundle, self.reporter
        timing, images = spec.timing, spec.images
        may_choose = images is not None and timing.threads is None and not self.row_facts.emulated
        threads = check_threads(timing.threads, None if may_choose else bundle.manifest.threads)
        # This comes first, because a runtime that crashes then takes down only the fresh process.
        fresh = measure_fresh(bundle.path, threads)
        fastest, by_threads = fastest_threads(bundle, threads, reporter) if may_choose else (threads, ())
        if fastest != threads:
            fresh = measure_fresh(bundle.path, fastest)
        session = stack.enter_context(open_session(bundle, fastest))
        session.verify()
        subject.latency |= {
            "threads": session.threads,
            "by_threads": by_threads,
            "load": fresh.load_ms,
            "first": fresh.first_ms,
        }
        judged = {}
        if images is not None:
            with reporter.stage(f"{subject.name}: evaluate", len(images.crops)) as step:
                judged = images.judged(bundle, session, _inputs(bundle, images, step))
        int8, profile = summarize_profile(session, runs_for(fresh.first_ms))
        if images is not None or is_baseline(subject.name, group):
            self._open_in_low_precision(subject, session, images, stack)
        subject.session = session
        return {
            "engine": f"{session.engine_name} {session.engine_version}",
            "peak_rss_bytes": fresh.peak_rss_bytes,
            "int8": None if images is None and bundle.manifest.precision == "float" else int8,
            "profile": profile,
            **judged,
        }

    def _open_in_low_precision(
        self, subject: Subject, session: Session, images: EvaluationImages | None, stack: ExitStack
    ) -> None:
        """Open and evaluate the bundle in bf16 or f16, if its runtime would choose that.

        It may fail although f32 works, because f16 overflows above 65504.
        """
        try:
            low = session.in_low_precision()
            if low is None:
                return
            stack.enter_context(low)
            if images is not None:
                title = f"{in_format(subject.name, _format_of(low))}: evaluate"
                with self.reporter.stage(title, len(images.crops)) as step:
                    answers = predict(images.task, low, _inputs(low.bundle, images, step), images.names)
                subject.low_accuracy = images.task.compare(answers, images.reference, images.crops.labels)
            subject.low = low
        except StageError as error:
            self.reporter.warn(f"{subject.name} in bf16 or f16: {error}", error)


def _inputs(bundle: Bundle, images: EvaluationImages, step: Step) -> Iterator[NDArray[Any]]:
    for pixels in images.crops.pixels:
        yield bundle.manifest.input_of(pixels)
        step()


def _format_of(low: Session) -> Any:
    """Number format of a session in low precision: bf16 or f16."""
    return low.bundle.manifest.session["inference_precision"]


PROFILED_MS = 500.0
"""Time that the profiled runs of a fast bundle take together, in milliseconds."""
MOST_RUNS = 50
DIGITS = 4
"""Decimals of a time in milliseconds; profilers count whole microseconds at best, and take medians and means."""


def summarize_profile(session: Session, runs: int = RUNS) -> tuple[Int8, TimeProfile]:
    """Profile the bundle of a session: the part in integer kernels, and the times of the operations.

    Without a profile, the figures are None or empty, and the reason is in both.
    """
    try:
        with quiet():
            ran = profile_session(session, runs)
        int8 = int8_of(ran)
        times = time_of(ran)
    except EngineError as error:
        int8 = Int8(share_of_macs=None, method=f"unknown: {error}", float_layers=None, simulated=None)
        times = TimeProfile(missing=str(error))
    return replace(int8, pairs_that_can_saturate=session.bundle.manifest.pairs_that_can_saturate), times


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


def bundles_of(paths: list[Path]) -> list[Path]:
    """Bundle folders, with each run folder replaced by the bundles of its report, or by all of an unfinished run.

    Raises InputError for a run without any, or with bundles of several networks.
    """
    order, bundles = [f"{target}-{precision}" for target in RUNTIMES for precision in PRECISIONS], []
    for path in paths:
        if not is_run(path) or (path / MANIFEST).exists():
            bundles.append(path)
            continue
        reported = load_report(path).bundles if (path / REPORT_FILE).exists() else order
        inside = [path / name for name in order if name in reported and (path / name / MANIFEST).exists()]
        if not inside:
            raise InputError(f"run '{path}' contains no bundle", fix=f"Finish it with `edgekit deploy {path}`")
        if len(networks := networks_in(inside)) > 1:
            names = ", ".join(bundle.name for bundle in networks.values())
            raise InputError(
                f"run '{path}' has bundles of {len(networks)} networks, such as {names}",
                fix=f"Finish it with `edgekit deploy {path}`, or name the bundles of one",
            )
        bundles += inside
    return bundles


def networks_in(bundles: Iterable[Path]) -> dict[str, Path]:
    """The hashes of the weights in these bundles, as far as they record it, each with the last such bundle."""
    found = {
        read_bundle(bundle, check_hashes=False).manifest.recorded("model", "weights_sha256"): bundle
        for bundle in bundles
    }
    return {weights: bundle for weights, bundle in found.items() if weights is not None}
