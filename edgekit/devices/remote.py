"""Measure on a device: send missing files, run the agent there, and return its rows or the error as rows.

A browser measures in the same way, through edgekit.devices.web.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.config.runtimes import find_runtime
from edgekit.devices.app_state import AppsAnswer
from edgekit.devices.messages import Inspected, InspectJob, Measured, MeasureJob, SentImages
from edgekit.devices.probe_result import check_memory, probe, python_of, row_device, unknown_device
from edgekit.devices.protocol import mismatch, run_agent
from edgekit.devices.registry import THIS, Device
from edgekit.devices.scripts import APPS
from edgekit.devices.setup import ensure_environment, send_files
from edgekit.devices.transport import Connection, connect
from edgekit.devices.web.pages import Pages
from edgekit.errors import DeviceError, EdgekitError, InputError
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.baselines import Group
from edgekit.measure.inspect_bundle import Inspection, inspect_bundle, inspect_model
from edgekit.measure.measure_bundles import BuiltBundles, failed_measurement, measure_built
from edgekit.measure.measurement_store import Machine, MeasurementStore
from edgekit.measure.settings import Timing
from edgekit.report.measurement import Failure, Measurement
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profile import target_of
from edgekit.support import interrupts
from edgekit.support.distribution import release
from edgekit.support.progress import Reporter, Step

if TYPE_CHECKING:
    from edgekit.devices.web.browser import Browser

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

    def measure(self, bundles: Group, timing: Timing, images: EvaluationImages | None = None) -> Sequence[Measurement]:
        """Measure bundles of one target on the device, as `measure_group` does here. Rows are in the bundles' order.

        Raises a DeviceError if that fails, or if memory or disk are too small.
        """
        target, oldest = _runtime_of(bundles)
        sizes = {name: bundle.size_bytes for name, bundle in bundles.items()}
        python = self.ready(target, oldest, sizes, timing.streams or 0)
        with self.copying():
            sent = None if images is None else self._send_images(images)
            files = self.send({name: files_of(bundle) for name, bundle in bundles.items()})
        job = MeasureJob(**self.place, timing=timing, bundles=files, images=sent)
        answer = run_agent(self.connection, python, job, Measured, self._reporter)
        if len(answer.rows) != len(bundles):
            raise mismatch(self.device.name)
        return [replace(row, bundle=name) for name, row in zip(bundles, answer.rows, strict=True)]

    def versions(self, bundles: Group) -> dict[str, str]:
        """Versions of all packages with which the device runs these bundles of one target, and their environment.

        Raises a DeviceError.
        """
        target, oldest = _runtime_of(bundles)
        python = self.environment(target, oldest)
        installed = self.connection.run([python, "-I", "-c", INSTALLED], work="the list of packages")
        return {"environment": python, **self.connection.answer(installed, dict[str, str], "the list of packages")}

    def inspect(self, path: Path, threads: int | None) -> Inspection:
        """Inspect a bundle or model file on the device, as `edgekit inspect` does. Raises the errors of `measure`."""
        if path.is_dir():
            bundle = read_bundle(path)
            target, oldest, files = bundle.manifest.target, bundle.manifest.engine["minimum"], files_of(bundle)
        else:
            target, oldest = target_of(path), None
            companions = (path.with_suffix(suffix) for suffix in find_runtime(target).companion_suffixes)
            files = [path, *(file for file in companions if file.is_file())]
        python = self.ready(target, oldest, {path.name: sum(file.stat().st_size for file in files)})
        with self.copying():
            sent = self.send({"": files})[""]
        job = InspectJob(**self.place, timing=Timing(threads=threads), path=str(path), files=sent)
        answer = run_agent(self.connection, python, job, Inspected, self._reporter)
        if (inspection := answer.bundle or answer.model) is None:
            raise mismatch(self.device.name)
        return inspection

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
        arrays: dict[str, Any] = {"labels": images.crops.labels, **images.reference.arrays()}
        if images.logits is not None:
            arrays["logits"] = images.logits
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            np.savez(Path(folder) / "reference.npz", **arrays)
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
def open_measurer(
    device: Device, timing: Timing, reporter: Reporter, pages: Pages | None
) -> Iterator["Board | Browser"]:
    """Connect to a board, or wait for a browser. Raises a DeviceError if that fails."""
    if device.is_browser:
        assert pages is not None
        yield pages.browser(device, timing.threads)
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
    timing: Timing,
    reporter: Reporter,
    images: EvaluationImages | None = None,
    store: MeasurementStore | None = None,
    pages: Pages | None = None,
) -> list[Measurement]:
    """Measure bundles on a device, one measurement each. If the device fails, the measurements contain the error.

    A lost connection is opened again for the bundles of the next runtime. Rows that failed before a connection have the
    facts that a later one gave. Measurements in `store` are used only if the device that answers is the one that they
    were measured on. A browser needs `pages`.
    """
    facts = unknown = unknown_device(device)

    def measure(group: Group) -> Mapping[str, Measurement]:
        nonlocal facts
        try:
            with open_measurer(device, timing, reporter, pages) as measurer:
                facts = measurer.row_facts

                def measure_there(group: Group) -> Mapping[str, Measurement]:
                    return dict(zip(group, measurer.measure(group, timing, images), strict=True))

                if store is None:
                    return measure_there(group)
                machine = Machine(facts, measurer.versions(group), device.url, device.ssh_config)
                return store.resumed(group, machine, measure_there, reporter)
        except Exception as error:
            interrupts.check()  # an interrupt makes the main thread close the connections, which is not an error
            if isinstance(error, DeviceError):
                reporter.warn(str(error), error)
            elif isinstance(error, EdgekitError):
                raise
            else:
                reporter.failed(f"{device.name}: measuring {', '.join(group)}", error)
            failure = Failure.of("device", error)
        return {name: failed_measurement(name, bundle, failure, facts, images) for name, bundle in group.items()}

    rows = measure_built(built, unknown, measure)
    return [replace(row, device=facts) if row.device == unknown else row for row in rows]
