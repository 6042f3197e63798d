"""Measures LiteRT bundles in a browser. The page returns raw logits and times, which are judged as a board's are."""

import math
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit import __version__
from edgekit.devices.registry import Device
from edgekit.devices.web import LICENSE, NAME, STEMS, VERSION, BuildName
from edgekit.devices.web.server import (
    PAGE,
    Build,
    DotProducts,
    Download,
    LogitsRequest,
    Opened,
    OpenRequest,
    PageFacts,
    PageImages,
    PageServer,
    RawTimes,
    Request,
    Shown,
    T,
    TimesRequest,
)
from edgekit.errors import BrowserError, DeviceError, EngineError, printable
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import Found, MeasureSpec, Subject, Tracking
from edgekit.measure.evaluation import EvaluatedBundle
from edgekit.measure.gates import Group
from edgekit.measure.latency import TURNS, repeats
from edgekit.measure.machine import ROOMS
from edgekit.measure.settings import Timing
from edgekit.report.figure import BrowserFacts, Conditions, DeviceFacts, DotProduct, MachineState
from edgekit.report.row import F32, Int8, Measurement, TimeProfile
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import VerifyResult, golden_error
from edgekit.support.files import digest, file_sha256
from edgekit.support.libraries import versions_of
from edgekit.support.progress import Reporter, Step, each_bundle

NO_PROFILER = "unknown: browsers have no profiler for LiteRT.js"
UNKNOWN = MachineState(**dict.fromkeys(each.name for each in fields(MachineState)))
"""State of a machine that reports nothing."""


ENGINE = re.compile(r"(Firefox|FxiOS|CriOS|EdgA?|OPR|SamsungBrowser|Chrome)/([\d.]+)|Version/([\d.]+).*Safari")
NAMES = {"FxiOS": "Firefox", "CriOS": "Chrome", "Edg": "Edge", "EdgA": "Edge", "OPR": "Opera"}


def build_for(device: str, facts: PageFacts, threads: int) -> BuildName:
    """The fastest build that the browser can run; BrowserError if it can run none."""
    if not facts.simd:
        raise BrowserError(
            f"{device}: {browser_of(facts)} has no WebAssembly SIMD, which LiteRT.js needs",
            valid="Chrome from version 91, Firefox from 89 or Safari from 16.4",
            fix="Update the browser, or open the page in another one",
        )
    if facts.dot_products is None:
        return "compat"
    return "threaded" if threads > 1 and facts.isolated else "relaxed"


def device_of(device: Device, facts: PageFacts, build: BuildName) -> DeviceFacts:
    """A browser, as reports describe it."""
    processor = facts.model or " ".join(filter(None, (facts.platform, facts.architecture)))
    system = " ".join(filter(None, (facts.platform, facts.platform_version)))
    return DeviceFacts(
        name=device.name,
        device_class=None,
        cpu=printable(f"{processor}, in {browser_of(facts)}" if processor else browser_of(facts)),
        cores=facts.cores,
        memory_bytes=None,
        system=printable(system) or None,
        browser=BrowserFacts(
            user_agent=printable(facts.user_agent),
            build=build,
            dot_product=dot_product(facts.dot_products),
            clock_ms=float(f"{facts.clock_ms:.1g}"),
            secure=facts.secure,
            license=LICENSE,
        ),
    )


def browser_of(facts: PageFacts) -> str:
    """Name and version of the browser, such as "Chromium 150"."""
    own = [(name, version) for name, version in facts.brands if not re.search(r"not.*brand", name, re.IGNORECASE)]
    if own:
        name, version = max(own, key=lambda brand: brand[0] != "Chromium")
        return f"{name} {version.split('.')[0]}"
    match = ENGINE.search(facts.user_agent)
    if match is None:
        return "an unknown browser"
    name = NAMES.get(match[1], match[1]) or "Safari"
    return f"{name} {(match[2] or match[3]).split('.')[0]}"


def dot_product(products: DotProducts | None) -> DotProduct:
    """How the browser computes relaxed SIMD's integer dot product. XNNPACK chooses its kernels by the same test."""
    if products is None:
        return "absent"
    small, large = set(products.small), set(products.large)
    if (small, large) == ({-128}, {512}):
        return "signed"
    return "unsigned" if (small, large) == ({128}, {-130560}) else "emulated"


CHUNK_BYTES, CHUNK_IMAGES = 2 << 20, 64
"""Largest size and number of the images of one request, which a page that was loaded again starts anew."""
OnStep = Callable[[int], None]
"""Gets the number of steps that are done."""


class Runner:
    """Asks a page to run models. Every method raises a StageError if that fails."""

    def __init__(self, server: PageServer, build: Build, clock_ms: float) -> None:
        self._server, self._build, self._clock_ms = server, build, clock_ms

    def open(self, model: Download) -> Opened:
        """Load a model in a new worker, and run it once."""
        return self._ask(OpenRequest(build=self._build, models=(model,)), Opened)

    def logits(
        self,
        bundle: Bundle,
        model: Download,
        crops: Iterable[NDArray[np.uint8]],
        on_step: OnStep = lambda done: None,
    ) -> Iterator[NDArray[np.float32]]:
        """Logits [1,classes] of each image [H,W,C]. `on_step` gets the number of images done."""
        remaining, before = iter(crops), 0
        count = min(CHUNK_IMAGES, max(1, CHUNK_BYTES // math.prod(bundle.manifest.input_shape)))
        while chunk := list(islice(remaining, count)):
            with self._offered(bundle, np.stack(chunk)) as images:
                request = LogitsRequest(build=self._build, models=(model,), images=(images,), before=before)
                answer = self._ask(request, bytes, on_step)
            values = len(chunk) * bundle.manifest.classes
            if len(answer) != 4 * values:
                raise EngineError(f"'{bundle.path.name}' returned {len(answer)} bytes for {values} logits")
            before += len(chunk)
            on_step(before)
            yield from np.frombuffer(answer, "<f4").astype(np.float32).reshape(len(chunk), 1, -1)

    def times(
        self,
        models: Sequence[tuple[Bundle, Download]],
        examples: Sequence[NDArray[np.uint8]],
        timing: Timing,
        on_step: OnStep,
    ) -> RawTimes:
        """Times of models in turns, each on its own example [1,H,W,C]. `on_step` gets the number of rounds done."""
        with ExitStack() as stack:
            images = [
                stack.enter_context(self._offered(bundle, example))
                for (bundle, _), example in zip(models, examples, strict=True)
            ]
            request = TimesRequest(
                build=self._build,
                models=tuple(model for _, model in models),
                images=tuple(images),
                warmup=timing.warmup,
                rounds=timing.iterations,
                **vars(TURNS),
                clock_ms=self._clock_ms,
            )
            times = self._ask(request, RawTimes, on_step)
        if list(map(len, (times.batches, *times.times))) != [len(models), *len(models) * [timing.iterations]]:
            raise EngineError(f"the page's times are not {timing.iterations} of each of {len(models)} bundles")
        return times

    def _ask(self, request: Request, kind: type[T], on_step: OnStep = lambda done: None) -> T:
        """The page's answer, of this type."""
        answer = self._server.ask(request, on_step)
        try:
            return msgspec.convert(answer, kind)
        except msgspec.ValidationError as error:
            raise EngineError(f"the page's answer can't be read: {error}") from error

    @contextmanager
    def _offered(self, bundle: Bundle, pixels: NDArray[np.uint8]) -> Iterator[PageImages]:
        """Offer images [N,H,W,C] to the page while the block runs."""
        manifest = bundle.manifest
        levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], manifest.preprocessing.channels, axis=2)
        table = manifest.preprocessing.normalize(levels)[0, :, :, 0] if manifest.dtype == "float32" else np.empty(0)
        download = self._server.offer(pixels.tobytes())
        try:
            yield PageImages(
                pixels=download,
                count=len(pixels),
                shape=manifest.input_shape[1:],
                table=tuple(map(tuple, table.tolist())),
            )
        finally:
            self._server.withdraw(download)


class Browser(Tracking):
    """A browser that opened the page, ready to measure."""

    def __init__(
        self, device: Device, server: PageServer, runtime: Path, threads: int | None, reporter: Reporter
    ) -> None:
        self._device = device
        self._server = server
        self._facts = server.joined().facts
        try:
            build = build_for(device.name, self._facts, threads or 1)
        except BrowserError as error:
            text = f"Needed: {error.valid}. {error.fix}."
            server.show(Shown(state="failed", title="This browser has no WebAssembly SIMD", text=text))
            raise
        self._threads = min(threads or 1, self._facts.cores) if build == "threaded" else 1
        if threads and threads > self._threads == 1:
            needed = "relaxed SIMD, and a page from this machine or over HTTPS (`--web-network https`)"
            reporter.warn(f"{device.name}: measured with one thread: more need {needed}")
        elif threads and threads > self._threads:
            reporter.warn(f"{device.name}: measured with {self._threads} threads, all that the browser offers")
        stem = STEMS[build]
        wasm = replace(server.offer(runtime / f"{stem}.wasm"), url=f"runtime/{stem}.wasm")
        files = Build(f"runtime/{stem}.js", wasm, self._threads)
        self._runner = Runner(server, files, self._facts.clock_ms)
        self._engine = f"{NAME} {VERSION} ({build})"
        super().__init__(device_of(device, self._facts, build), reporter)

    def versions(self, group: Group) -> Mapping[str, str]:
        """Versions on which the measurements depend."""
        page = digest({file.name: file_sha256(file) for file in PAGE.iterdir()})
        return {
            NAME: VERSION,
            "page": page,
            "address": self._device.url or "",
            "edgekit": __version__,
            **versions_of(("numpy", "pillow"), ROOMS),
        }

    def rows(self, group: Group, spec: MeasureSpec) -> dict[str, Measurement]:
        """Measure bundles in the browser. Raises a DeviceError if it fails or leaves."""
        rows = super().rows(group, spec)
        self._server.show(outcome(list(rows.values())))
        return rows

    def track(self, subjects: dict[str, Subject], group: Group, spec: MeasureSpec, stack: ExitStack) -> Iterator[Found]:
        with self._offering(group, "The measurement failed") as offered:
            yield each_bundle(
                list(subjects), lambda name: self._check(subjects[name], offered[name], spec.images), self.reporter
            )
            if subjects:
                yield {name: {"thermal": self._time(subjects, spec)} for name in subjects}, {}

    @contextmanager
    def _offering(self, bundles: Group, failed: str) -> Iterator[dict[str, Download]]:
        """Offer the models of bundles to the page while the block runs. An error of the device is shown there, too."""
        offered = {name: self._server.offer(bundle.model_path) for name, bundle in bundles.items()}
        try:
            yield offered
        except DeviceError as error:
            self._server.show(Shown(state="failed", title=failed, text=str(error)))
            raise
        finally:
            for model in offered.values():
                self._server.withdraw(model)

    def _check(self, subject: Subject, model: Download, images: EvaluationImages | None) -> Mapping[str, Any]:
        """Run the test vectors and, if there are any, the evaluation images."""
        bundle = subject.bundle
        opened = self._open(subject.name, bundle, model)
        judged = {}
        if images is not None:
            title = f"{Path(subject.name).name}: evaluate"
            with self.reporter.stage(f"{self._device.name}: {title}", len(images.crops)) as step:
                self._show(title, 0, len(images.crops))
                rows = self._runner.logits(bundle, model, images.crops.pixels, counted(step))
                judged = images.judged(bundle, lambda row: row, rows)
        int8 = Int8(
            share_of_macs=None,
            method=NO_PROFILER,
            float_layers=None,
            simulated=None,
            pairs_that_can_saturate=bundle.manifest.pairs_that_can_saturate,
        )
        subject.latency |= {"threads": self._threads, "load": opened.load_ms, "first": opened.first_ms}
        subject.session = model
        return {
            "engine": self._engine,
            "int8": None if images is None and bundle.manifest.precision == "float" else int8,
            "profile": TimeProfile(missing=NO_PROFILER),
            **judged,
        }

    def outputs(
        self, bundle: Bundle, crops: Iterable[NDArray[np.uint8]], count: int, step: Step
    ) -> Generator[NDArray[np.float32]]:
        """Check the test vectors of a bundle, and run it on `count` crops [H,W,C]. Raises a StageError."""
        name = bundle.path.name
        with self._offering({name: bundle}, "The evaluation failed") as offered:
            self._open(name, bundle, offered[name])
            self._show(f"{name}: evaluate", 0, count)
            yield from self._runner.logits(bundle, offered[name], crops, counted(step))

    def finish(self, rows: Sequence[EvaluatedBundle]) -> None:
        """Show the accuracy of all bundles that were evaluated."""
        self._server.show(evaluated(rows))

    def _open(self, name: str, bundle: Bundle, model: Download) -> Opened:
        """Load a bundle in a new worker, and check its test vectors. Raises a StageError."""
        self._show(f"{Path(name).name}: load")
        opened = self._runner.open(model)
        golden = bundle.golden()
        logits = np.concatenate(list(self._runner.logits(bundle, model, golden.pixels)))
        result = VerifyResult(float(np.abs(logits - golden.logits).max()), golden.tolerance)
        if not result.passed:
            raise golden_error(name, result, self._engine, None, f"'{self._device.name}'")
        return opened

    def _time(self, subjects: dict[str, Subject], spec: MeasureSpec) -> Conditions:
        """Time the bundles in turns on the first image, or without images on a test vector."""
        timing = spec.timing
        attempt = 0
        title = f"{', '.join(Path(name).name for name in subjects)}: time"
        total = timing.warmup + timing.iterations
        models = [(each.bundle, each.session) for each in subjects.values()]
        examples = [each.pixels(spec.images) for each in subjects.values()]
        while True:
            attempt += 1
            started = time.monotonic()
            with self.reporter.stage(f"{self._device.name}: {title}", total) as step:
                on_step = counted(step)
                self._show(title, 0, total)
                measured = self._runner.times(models, examples, timing, on_step)
                on_step(total)
            conditions = Conditions(
                before=UNKNOWN,
                after=UNKNOWN,
                seconds=time.monotonic() - started,
                series=(),
                throttled=None,
                cpus=max(1, self._facts.cores),
                other_cpus=None,
                hidden=measured.hidden,
            )
            times = {name: np.array(own) for name, own in zip(subjects, measured.times, strict=True)}
            if not repeats(attempt, times, conditions, self._threads, self.reporter):
                break
        for subject, batch in zip(subjects.values(), measured.batches, strict=True):
            subject.latency["batch"] = batch
            subject.times[F32] = times[subject.name]
        return conditions

    def _show(self, title: str, done: int | None = None, total: int | None = None) -> None:
        self._server.show(Shown(state="working", title=title, done=done, total=total))


def counted(step: Step) -> Callable[[int], None]:
    """A function that gets the number of steps done, and takes those that are new."""
    taken = 0

    def on_step(done: int) -> None:
        nonlocal taken
        if done > taken:
            step(done - taken)
            taken = done

    return on_step


def outcome(rows: Sequence[Measurement]) -> Shown:
    """What the page shows when its bundles are measured."""
    failed = [f"{row.name}: {row.failure.message}" for row in rows if row.failure]
    lines = [line for row in rows if (line := _line(row))]
    if failed:
        return Shown(state="failed", title="Not every bundle runs here", text="\n".join([*failed, *lines]))
    return Shown(state="done", title="Measured", text="\n".join([*lines, "The report is on the computer."]))


def evaluated(rows: Sequence[EvaluatedBundle]) -> Shown:
    """What the page shows when all bundles are evaluated."""
    lines = []
    for row in rows:
        if row.accuracy is not None:
            accuracy = row.accuracy
            lines.append(
                f"{Path(row.bundle).name}: {accuracy.metric} {accuracy.value:.1%} on {accuracy.count:,} images."
            )
        elif row.failure is not None:
            lines.append(f"{Path(row.bundle).name}: {row.failure.message}")
    return Shown(state="done", title="Evaluated", text="\n".join(lines))


def _line(row: Measurement) -> str | None:
    """Time, speed-up and agreement of a bundle."""
    if row.latency_ms is None:
        return None
    speedup = f": {row.speedup.ratio:.1f} times as fast as {Path(row.speedup.baseline).name}" if row.speedup else ""
    words = f"{Path(row.name).name} {row.latency_ms.p50:.1f} ms{speedup}"
    if row.accuracy is None:
        return f"{words}."
    same = round(row.accuracy.agreement * row.accuracy.count)
    return f"{words}; {same:,} of {row.accuracy.count:,} answers as torch's."
