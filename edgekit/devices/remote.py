"""Measuring on a device: send what is missing, let the agent there work, give its rows or why there are none."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from edgekit.devices.check import check_memory, probe, row_device, unknown_device
from edgekit.devices.protocol import run_agent
from edgekit.devices.registry import THIS, Device
from edgekit.devices.setup import ensure_environment, send_files
from edgekit.devices.transport import Connection, connect
from edgekit.errors import DeviceError, InputError, StageError
from edgekit.measure.bundle_rows import Images, group_key
from edgekit.measure.inspect_bundle import inspect_bundle, inspect_model
from edgekit.measure.rows import Row, failed_row
from edgekit.measure.settings import Settings
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.profiling import target_of
from edgekit.support import interrupts
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.support.versions import release

STAGE = "device"
"""What a row names that was lost with its device."""


class Board:
    """A connected device, ready to measure. Make one with `open_board`."""

    def __init__(self, connection: Connection, offline: bool, reporter: Reporter) -> None:
        self._connection, self._offline, self._reporter = connection, offline, reporter
        self.device = connection.device
        self.facts = probe(connection)

    def measure(self, bundles: Mapping[str, Bundle], settings: Settings, images: Images | None = None) -> list[Row]:
        """Rows of bundles of one target, in their order; with images as in report.json, else as `benchmark` has them.

        Raises a DeviceError that says what failed, or which memory or disk is too small.
        """
        oldest = max((bundle.manifest.engine["minimum"] for bundle in bundles.values()), key=release)
        sizes = {name: bundle.size_bytes for name, bundle in bundles.items()}
        python = self._ready(next(iter(bundles.values())).manifest.target, oldest, sizes)
        with self._reporter.stage(f"{self.device.name}: copy"):
            job = self._job({name: files_of(bundle) for name, bundle in bundles.items()}, settings)
            job["images"] = None if images is None else self._send_images(images)
        return run_agent(self._connection, python, job, self._reporter)

    def inspect(self, path: Path, threads: int | None) -> Row:
        """What `edgekit inspect` says of a bundle or model file there, with the `device`; raises as `measure` does."""
        if path.is_dir():
            bundle = read_bundle(path)
            target, oldest, files = bundle.manifest.target, bundle.manifest.engine["minimum"], files_of(bundle)
        else:
            target, oldest = target_of(path), None
            files = [path, *(each for each in (path.with_suffix(".bin"),) if target == "openvino" and each.is_file())]
        python = self._ready(target, oldest, {path.name: sum(each.stat().st_size for each in files)})
        with self._reporter.stage(f"{self.device.name}: copy"):
            job = self._job({str(path): files}, Settings(threads=threads)) | {"inspect": True}
        (found,) = run_agent(self._connection, python, job, self._reporter)
        return found

    def _ready(self, target: str, oldest: str | None, sizes: Mapping[str, int]) -> str:
        """The Python of the environment for a target, once it's sure that what is to run fits into the memory."""
        check_memory(self.device.name, self.facts, sizes)
        with self._reporter.stage(f"{self.device.name}: set up {target}"):
            return ensure_environment(self._connection, self.facts, target, oldest, self._offline)

    def _job(self, groups: Mapping[str, Sequence[Path]], settings: Settings) -> dict[str, Any]:
        files = [(name, path) for name, paths in groups.items() for path in paths]
        sent: dict[str, dict[str, str]] = {name: {} for name in groups}
        hashes = send_files(self._connection, self.facts, [path for _, path in files])
        for (name, path), digest in zip(files, hashes, strict=True):
            sent[name][path.name] = digest
        return {
            "name": self.device.name,
            "class": self.facts["class"],
            "cache": self.facts["cache"],
            "bundles": sent,
            "settings": asdict(settings),
            "images": None,
            "inspect": False,
        }

    def _send_images(self, images: Images) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            pixels = getattr(images.pixels, "filename", None)
            if pixels is None:
                pixels = Path(folder) / "pixels.npy"
                np.save(pixels, images.pixels)
            files = [Path(folder) / str(index) for index in range(len(images.files))]
            for path, content in zip(files, images.files, strict=True):
                path.write_bytes(content)
            first, *others = send_files(self._connection, self.facts, [Path(pixels), *files])
        reference = {key: value.tolist() for key, value in vars(images.reference).items()}
        return {"pixels": first, "labels": images.labels.tolist(), "reference": reference, "files": others}


def files_of(bundle: Bundle) -> list[Path]:
    """Every file of a bundle."""
    return [bundle.path / each for each in (MANIFEST, *bundle.manifest.files)]


@contextmanager
def open_board(device: Device, offline: bool, reporter: Reporter) -> Iterator[Board]:
    """Connect to a device and find out what it is; raises a DeviceError if that can't be done."""
    with connect(device) as connection:
        yield Board(connection, offline, reporter)


def inspect_on(device: Device, path: Path, threads: int | None, reporter: Reporter, offline: bool) -> Row:
    """The document of `edgekit inspect`, here or on a device."""
    if device == THIS:
        return inspect_model(path, threads) if path.is_file() else inspect_bundle(path, threads)
    if not path.exists():
        raise InputError(f"'{path}' is not there: name a model file, or the folder of a bundle")
    with open_board(device, offline, reporter) as board:
        return board.inspect(path, check_threads(threads) if threads is not None else None)


def measure_on(
    device: Device,
    built: Mapping[str, Bundle | StageError],
    images: Images,
    settings: Settings,
    run: RunFolder,
    reporter: Reporter,
    offline: bool = False,
) -> list[Row]:
    """One row of report.json for each bundle, as `measure_rows` gives them here. What fails is a row that says so."""
    groups: dict[str, dict[str, Bundle]] = {}
    rows = {
        name: failed_row(name, unknown_device(device), "compile", made)
        for name, made in built.items()
        if not isinstance(made, Bundle)
    }
    for name, made in built.items():
        if isinstance(made, Bundle):
            groups.setdefault(made.manifest.target, {})[name] = made
    for target, group in list(groups.items()):
        kept = run.recall(_place(target, device), group_key(group, images, settings))
        if kept is not None:
            reporter.say(f"{device.name}: {target}: measurements kept from the interrupted run")
            rows |= kept
            del groups[target]
    if groups:
        rows |= _measure_groups(device, groups, images, settings, run, reporter, offline)
    return [rows[name] for name in built]


def _measure_groups(
    device: Device, groups: Mapping[str, Mapping[str, Bundle]], images: Images, settings: Settings, run: RunFolder,
    reporter: Reporter, offline: bool,
) -> dict[str, Row]:  # fmt: skip
    rows: dict[str, Row] = {}
    for target, found, facts in each_target(device, groups, settings, images, reporter, offline):
        group = groups[target]
        if isinstance(found, DeviceError):
            rows |= {name: failed_row(name, facts, STAGE, found) for name in group}
        else:
            rows |= (done := dict(zip(group, found, strict=True)))
            run.remember(_place(target, device), group_key(group, images, settings), done)
    return rows


def each_target(
    device: Device, groups: Mapping[str, Mapping[str, Bundle]], settings: Settings, images: Images | None,
    reporter: Reporter, offline: bool,
) -> Iterator[tuple[str, Sequence[Row] | DeviceError, Row]]:  # fmt: skip
    """Each target's rows, or why there are none, and the `device` object as far as it is known.

    A lost connection is made anew for the next target.
    """
    facts = unknown_device(device)
    for target, group in groups.items():
        try:
            with open_board(device, offline, reporter) as board:
                facts = row_device(device, board.facts)
                found: Sequence[Row] | DeviceError = board.measure(group, settings, images)
        except DeviceError as error:
            interrupts.check()  # after Ctrl-C connections are closed from the main thread: that is no error
            reporter.warn(str(error), error)
            found = error
        yield target, found, facts


def failed_on_device(row: Row) -> bool:
    """Whether a row was lost because of its device: the same command may find it well again."""
    return row["verdict"] == "error" and str(row["reasons"][0]).startswith(f"{STAGE}: ")


def _place(target: str, device: Device) -> str:
    """Where a run keeps the rows; an ssh:// address as a name has characters that no file name may have."""
    return f"row-{target}-on-{quote(device.name, safe='')}"
