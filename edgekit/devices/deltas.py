"""Deltas: what `edgekit push` sends of a file in place of all of it, if the device has an older version.

Another calibration or a fine-tune changes the weights of a bundle where they are, by a few steps of their scale, and
moves tensors by a few bytes. `scripts.deltas` has the format, and applies it on the device.
"""

import bz2
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgekit.devices.check import python_of
from edgekit.devices.probe_result import ProbeResult
from edgekit.devices.pushed_files import PushedFiles
from edgekit.devices.requests import AppsAnswer, Delta, DeltasAnswer, DeltasRequest
from edgekit.devices.scripts import DELTAS
from edgekit.devices.scripts.apps import SLOTS
from edgekit.devices.scripts.deltas import BLOCK, DISTANCE
from edgekit.devices.setup import ask_store, send_files
from edgekit.devices.transport import Connection
from edgekit.errors import DeviceCrashError
from edgekit.support import interrupts
from edgekit.support.files import replacing
from edgekit.support.hashes import file_sha256
from edgekit.support.progress import Reporter

REACH = 256
"""Largest number of bytes by which a block may have moved against the block before it."""
COMPARED = 1024
"""Number of bytes at the beginning of a block with which its place in the older file is found."""
_making = threading.Lock()


@dataclass(frozen=True)
class Base:
    """An older version of a file, which the device has."""

    sha256: str
    """SHA-256 of the file."""
    path: str
    """Path on the device."""


def older_files(files: Sequence[Path], known: AppsAnswer) -> dict[Path, list[Base]]:
    """The intact files with the same names in the slots of apps."""
    bases: dict[Path, list[Base]] = {path: [] for path in files}
    for app in known.apps:
        for slot in (app.active, app.previous):
            if slot is not None and slot.record is not None and slot.problem is None:
                folder, names = f"{known.folder}/{app.name}/{SLOTS}/{slot.slot}", slot.record.files
                for path in (path for path in files if path.name in names):
                    bases[path].append(Base(names[path.name], f"{folder}/{path.name}"))
    return bases


def send_deltas(
    connection: Connection, facts: ProbeResult, bases: Mapping[Path, Sequence[Base]], reporter: Reporter
) -> None:
    """Let the device make files that it lacks from older versions of them, where that sends fewer bytes.

    A file that can't be made is still missing afterwards, and a warning says why. Raises the errors of `send_files`.
    """
    name = connection.device.name
    deltas: dict[Path, Delta] = {}
    with _warning(name, reporter):
        deltas = _deltas(connection, facts, bases)
    if not deltas:
        return
    send_files(connection, facts, list(deltas))
    python, request = python_of(name, facts).path, DeltasRequest(facts.cache, tuple(deltas.values()))
    try:
        failed = connection.ask(python, DELTAS, request, DeltasAnswer, "a delta").failed
    except DeviceCrashError as error:
        failed = {delta.sha256: error.problem for delta in deltas.values()}
    for delta in deltas.values():
        if reason := failed.get(delta.sha256):
            file = PurePosixPath(delta.base).name
            reporter.warn(f"{name}: the delta of '{file}' failed ({reason}), so the whole file is sent")


def keep_pushed(device: str, files: Sequence[Path], reporter: Reporter) -> None:
    """Keep files that are in a device's slot now, for the deltas of the next push."""
    with _warning(device, reporter):
        PushedFiles().keep(files)


@contextmanager
def _warning(device: str, reporter: Reporter) -> Iterator[None]:
    """Warn if this machine's disk fails, which costs deltas only."""
    try:
        yield
    except OSError as error:
        reporter.warn(f"{device}: no delta, because of '{error.filename}': {error.strerror or error}")


def _deltas(connection: Connection, facts: ProbeResult, bases: Mapping[Path, Sequence[Base]]) -> dict[Path, Delta]:
    """The smallest delta of each missing file for which less is to be sent then, by the path of the delta here."""
    hashes = {path: file_sha256(path) for path in bases}
    sizes = {digest: path.stat().st_size for path, digest in hashes.items()}
    store = ask_store(connection, facts, sizes)
    chosen: dict[Path, Delta] = {}
    for path, digest in hashes.items():
        if digest in store.missing and (made := _made_deltas(path, digest, bases[path])):
            size, delta, base = min((delta.stat().st_size, delta, base) for delta, base in made.items())
            if size < sizes[digest] - store.partial.get(digest, 0):
                chosen[delta] = Delta(digest, sizes[digest], base, file_sha256(delta))
    return chosen


def _made_deltas(path: Path, digest: str, bases: Sequence[Base]) -> dict[Path, str]:
    """The deltas of a file from the older ones that are on this machine too, and the paths of these on the device.

    Each is made once for all devices.
    """
    pushed, made = PushedFiles(), {}
    for base in bases:
        if (old := pushed.find(base.sha256)) is not None:
            delta = pushed.folder / f"{base.sha256}-{digest}"
            with _making:
                if pushed.find(delta.name) is None:
                    with replacing(delta) as draft:
                        write_delta(old, path, draft)
            made[delta] = base.path
    return made


def write_delta(base: Path, path: Path, delta: Path) -> None:
    """Write the delta between two files. Raises OSError."""
    old, new = _bytes(base), _bytes(path)
    with bz2.open(delta, "wb") as records:
        for place, start in _alike(old, new):
            interrupts.check()
            block = new[place : place + BLOCK]
            before = np.zeros_like(block)
            found = old[start : start + len(block)]
            before[: len(found)] = found
            records.write((start - place).to_bytes(DISTANCE, "little", signed=True) + (block - before).tobytes())


def _bytes(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped into memory, which an empty file can't be."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


def _alike(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """The place of each block of the new file, and the start of the block of the old file that it is like."""
    distance = 0
    for place in range(0, len(new), BLOCK):
        beginning = new[place : place + COMPARED]
        last = max(0, len(old) - len(beginning))
        expected = min(max(0, place + distance), last)
        first = max(0, expected - REACH)
        near = old[first : expected + REACH + len(beginning)]
        if len(near) >= len(beginning):
            equal = np.count_nonzero(sliding_window_view(near, len(beginning)) == beginning, axis=1)
            best = int(equal.argmax())
            if equal[best] > equal[expected - first]:
                expected = first + best
        distance = expected - place
        yield place, expected
