"""Measures on a device: sends missing files, runs the agent there, and returns its rows, or its error as rows.

The agent gets one job, which it answers. A browser measures in the same way, through edgekit.devices.web.
`edgekit benchmark` measures on this machine and on devices.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import ValidationError, convert

from edgekit.config.runtimes import Runtime
from edgekit.devices.messages import AgentJob, AppsAnswer, InspectJob, MeasureJob, PushJob, SentImages
from edgekit.devices.registry import THIS, Device, each_device
from edgekit.devices.scripts import APPS
from edgekit.devices.setup import (
    check_memory,
    ensure_environment,
    probe,
    python_of,
    row_device,
    send_files,
    unknown_device,
)
from edgekit.devices.transport import Connection, connect, exit_error, frozen, watched
from edgekit.devices.web import Pages, check_browsers, runnable_on, serving
from edgekit.errors import ConnectionCutError, DeviceError, InputError
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import BuiltBundles, Here, MeasureSpec, measure
from edgekit.measure.gates import Group, check_comparable, judge_latency
from edgekit.measure.inspect_bundle import BundleInspection, Inspection, ModelInspection, inspect_bundle, inspect_model
from edgekit.measure.settings import Gates, Timing
from edgekit.report.answer import Benchmark
from edgekit.report.row import Measurement
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import target_of
from edgekit.support import child_process
from edgekit.support.libraries import release
from edgekit.support.progress import Reporter, Step
from edgekit.support.worker import Call, Worker

if TYPE_CHECKING:
    from edgekit.devices.web.browser import Browser

SILENCE_S = 120
"""Time without a message after which an agent counts as frozen. It sends one every few seconds."""
IDLE_S = 300
"""Time without progress and computing after which a runtime counts as deadlocked."""
STEP_S = 4 * 3600
"""Time without progress after which a runtime that computes counts as stuck."""
BUSY_S = 1.0
"""Computing time that shows that a runtime isn't deadlocked. The signs of life alone take a thousandth of it each."""

A = TypeVar("A")


def run_agent(connection: Connection, python: str, job: AgentJob, kind: type[A], reporter: Reporter) -> A:
    """Run one job and return its answer. DeviceError if the agent fails, falls silent, or ends without an answer."""
    name, work = connection.device.name, "the trial" if isinstance(job, PushJob) else "the measurement"
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        # ONNX Runtime and OpenVINO write into the home. This one is in edgekit's folder and is cleaned with it.
        home = f"{job.cache}/runtimes"
        process = connection.start(
            ["env", f"HOME={home}", f"XDG_CACHE_HOME={home}/.cache", python, "-I", "-m", "edgekit.devices.agent"],
            stderr,
        )
        with watched(process, name, f"{work} sent no message", SILENCE_S) as moved:
            pace = Pace(name, work)

            def watch(call: Call) -> None:
                moved()
                pace.check(call)

            worker = Worker(process, f"{name}: ", watch)
            answer = worker.ask(job, reporter)
            for _ in worker.lines:  # until the agent closes its pipe
                pass
            process.wait()
        stderr.seek(0)
        output = stderr.read().decode(errors="replace")
    child_process.note(f"{name}: {work} ended with status {process.returncode}", output)
    connection.check(process.returncode)
    if answer is not None and (error := answer.error) is not None:
        if error.bug:
            raise error.rebuilt()
        raise DeviceError(f"{name}: {error.problem}", valid=error.valid, fix=error.fix)
    if process.returncode != 0:
        raise exit_error(name, work, process.returncode, output)
    if answer is None:
        raise ConnectionCutError(f"{name}: the answer is incomplete", fix="Run the same command again")
    try:
        return convert(answer.value, kind)
    except ValidationError:
        raise mismatch(name) from None


def mismatch(device: str) -> ConnectionCutError:
    """The error for an answer that isn't one to the job."""
    return ConnectionCutError(f"{device}: the answer does not match the job", fix="Run the same command again")


class Pace:
    """Tells from an agent's calls whether its work still advances."""

    def __init__(self, device: str, work: str) -> None:
        self._device, self._work, self._stage = device, work, "start"
        self._cpu_s = 0.0
        self._advanced = self._computed = time.monotonic()

    def check(self, call: Call) -> None:
        """Raise FrozenError if there are signs of life, but neither progress nor computing, for too long."""
        now = time.monotonic()
        if call.name != "alive":
            self._advanced = self._computed = now
            if call.name == "stage":
                self._stage = call.args[0]
            return
        (cpu_s,) = call.args
        if cpu_s - self._cpu_s >= BUSY_S:
            self._cpu_s, self._computed = cpu_s, now
        for since, limit_s, problem in (
            (self._computed, IDLE_S, "computed nothing"),
            (self._advanced, STEP_S, "made no progress"),
        ):
            if now - since > limit_s:
                raise frozen(self._device, f"{self._work} {problem} for {limit_s} s in the stage '{self._stage}'")


INSTALLED = (
    "import json; from importlib.metadata import distributions; "
    "print(json.dumps({each.name: each.version for each in distributions()}))"
)
"""Program that prints the version of every distribution in its environment."""


class Board:
    """A connected device, ready to measure. `open_board` creates one."""

    def __init__(self, connection: Connection, reporter: Reporter) -> None:
        self.connection, self._reporter = connection, reporter
        self.device = connection.device
        self.facts = probe(connection)
        self.row_facts = row_device(self.device, self.facts)
        """The device, as reports describe it."""
        self.place: dict[str, Any] = {
            "name": self.device.name,
            "device_class": self.device.device_class or self.facts.matching_class,
            "cache": self.facts.cache,
        }
        """What every job of the agent states."""

    def rows(self, group: Group, spec: MeasureSpec) -> dict[str, Measurement]:
        """Measure bundles of one target on the device, where the agent runs the code of `Here`.

        Raises a DeviceError if that fails, or if memory or disk are too small.
        """
        target, oldest = _runtime_of(group)
        sizes = {name: bundle.size_bytes for name, bundle in group.items()}
        python = self.ready(target, oldest, sizes, spec.timing.streams or 0)
        with self.copying():
            sent = None if spec.images is None else self._send_images(spec.images)
            files = self.send({name: files_of(bundle) for name, bundle in group.items()})
        job = MeasureJob(**self.place, timing=spec.timing, bundles=files, images=sent)
        rows = run_agent(self.connection, python, job, list[Measurement], self._reporter)
        if len(rows) != len(group):
            raise mismatch(self.device.name)
        return {name: replace(row, bundle=name) for name, row in zip(group, rows, strict=True)}

    def versions(self, group: Group) -> Mapping[str, str]:
        """Versions of all packages with which the device runs these bundles of one target, their environment, and the
        address of the device.

        Raises a DeviceError.
        """
        target, oldest = _runtime_of(group)
        python = self.environment(target, oldest)
        installed = self.connection.run([python, "-I", "-c", INSTALLED], work="the list of packages")
        packages = self.connection.answer(installed, dict[str, str], "the list of packages")
        return {
            **packages,
            "environment": python,
            "address": self.device.url or "",
            "ssh": self.device.ssh_config or "",
        }

    def inspect(self, path: Path, threads: int | None) -> Inspection:
        """Inspect a bundle or model file on the device, as `edgekit inspect` does. Raises the errors of `measure`."""
        if path.is_dir():
            bundle = read_bundle(path)
            target, oldest, files = bundle.manifest.target, bundle.manifest.engine["minimum"], files_of(bundle)
        else:
            target, oldest = target_of(path), None
            companions = (path.with_suffix(suffix) for suffix in Runtime.find(target).companion_suffixes)
            files = [path, *(file for file in companions if file.is_file())]
        python = self.ready(target, oldest, {path.name: sum(file.stat().st_size for file in files)})
        with self.copying():
            sent = self.send({"": files})[""]
        job = InspectJob(**self.place, timing=Timing(threads=threads), path=str(path), files=sent)
        kind: type[Inspection] = BundleInspection if path.is_dir() else ModelInspection
        return run_agent(self.connection, python, job, kind, self._reporter)

    def ask_apps(self, *names: str, hashes: bool = False) -> AppsAnswer:
        """The apps with these names, or all; with `hashes` their bundles' files are read. Raises a DeviceError."""
        python = python_of(self.device.name, self.facts).path
        request = {"apps": names, "hashes": hashes}
        return self.connection.ask(python, APPS, request, AppsAnswer, "the list of apps")

    def ready(self, target: str, oldest: str | None, sizes: Mapping[str, int], streams: int = 0) -> str:
        """Check that the bundles fit into memory, and prepare the target's environment. Returns its Python."""
        check_memory(self.device.name, self.facts, sizes, streams)
        return self.environment(target, oldest)

    def environment(self, target: str, oldest: str | None) -> str:
        """Prepare the environment of a target, whose runtime is not older than `oldest`. Returns its Python."""
        with self._reporter.stage(f"{self.device.name}: set up {target}"):
            return ensure_environment(self.connection, self.facts, target, oldest)

    def send(self, groups: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, str]]:
        """Send the files of groups into the device's store. Returns the hash of each file, by its group and name."""
        paths = [path for group in groups.values() for path in group]
        hashes = iter(send_files(self.connection, self.facts, paths))
        return {name: {path.name: next(hashes) for path in group} for name, group in groups.items()}

    def copying(self) -> AbstractContextManager[Step]:
        """The stage in which files are sent."""
        return self._reporter.stage(f"{self.device.name}: copy")

    def _send_images(self, images: EvaluationImages) -> SentImages:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            np.savez(Path(folder) / "reference.npz", **images.arrays())
            pixels = getattr(images.crops.pixels, "filename", None)
            if pixels is None:
                pixels = Path(folder) / "pixels.npy"
                np.save(pixels, images.crops.pixels)
            files = [Path(folder) / str(index) for index in range(len(images.files))]
            for path, content in zip(files, images.files, strict=True):
                path.write_bytes(content)
            paths = [Path(pixels), Path(folder) / "reference.npz", *files]
            first, second, *others = send_files(self.connection, self.facts, paths)
        return SentImages(
            pixels=first,
            reference=second,
            files=tuple(others),
            names=tuple(images.names),
            task=images.task.name,
            thresholds=images.task.thresholds,
        )


def _runtime_of(bundles: Group) -> tuple[str, str]:
    """The target of bundles that have the same one, and the oldest version of its runtime that loads all of them."""
    manifests = [bundle.manifest for bundle in bundles.values()]
    return manifests[0].target, max((manifest.engine["minimum"] for manifest in manifests), key=release)


def files_of(bundle: Bundle) -> list[Path]:
    """Paths of all files of a bundle."""
    return [bundle.path / name for name in (MANIFEST, *bundle.manifest.files)]


@contextmanager
def open_board(device: Device, reporter: Reporter) -> Iterator[Board]:
    """Connect to a device and probe it; raises a DeviceError if that fails."""
    with connect(device) as connection:
        yield Board(connection, reporter)


@contextmanager
def open_host(
    device: Device, threads: int | None, reporter: Reporter, pages: Pages | None
) -> Iterator["Board | Browser"]:
    """Connect to a board, or wait for a browser. Raises a DeviceError if that fails."""
    if device.is_browser:
        assert pages is not None
        yield pages.browser(device, threads)
    else:
        with open_board(device, reporter) as board:
            yield board


def inspect_on(device: Device, path: Path, threads: int | None, reporter: Reporter) -> Inspection:
    """Inspect a bundle or model file on this machine or on a device: the document of `edgekit inspect`."""
    if device == THIS:
        return inspect_model(path, threads) if path.is_file() else inspect_bundle(path, threads)
    if not path.exists():
        raise InputError(f"'{path}' doesn't exist", valid="a model file, or the folder of a bundle")
    with open_board(device, reporter) as board:
        return board.inspect(path, check_threads(threads) if threads is not None else None)


def measure_on_device(
    device: Device,
    built: BuiltBundles,
    spec: MeasureSpec,
    reporter: Reporter,
    pages: Pages | None = None,
    together: bool = False,
) -> list[Measurement]:
    """Measure bundles on this machine or another device, as `measure` does. A browser needs `pages`.

    A lost connection is opened again for the bundles of the next runtime.
    """
    if device == THIS:
        here = Here(machine.describe(), reporter)
        return measure(here.connected, here.row_facts, built, spec, reporter, together)
    connect = partial(open_host, device, spec.timing.threads, reporter, pages)
    return measure(connect, unknown_device(device), built, spec, reporter)


def benchmark_devices(
    paths: Sequence[Path], devices: Sequence[Device], timing: Timing, reporter: Reporter, gates: Gates | None = None
) -> Benchmark:
    """Measure each bundle on each device. The rows of a device that fails contain its error.

    On this machine, one process times all bundles in turns. On a device, each runtime has its own process, so that a
    crash doesn't affect the other runtimes. With gates, each bundle has to beat its baselines of the same runtime.
    Raises UsageError if a bundle is the only one of its runtime then.
    """
    check_threads(timing.threads)
    bundles = {str(path): read_bundle(path) for path in paths}
    runnable = {device: runnable_on(device, bundles, reporter) for device in devices}
    check_browsers(devices, timing)
    if gates is not None:
        check_comparable(bundles)

    with serving(devices, reporter) as pages:

        def measured_on(device: Device) -> Sequence[Measurement]:
            return measure_on_device(device, runnable[device], MeasureSpec(timing), reporter, pages, together=True)

        measured = each_device(devices, measured_on)
    rows = tuple(judge_latency(row, gates, bundles) for row in measured)
    return Benchmark(device=rows[0].device, results=rows)
