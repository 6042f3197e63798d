"""What a device has, and how edgekit's environment gets there.

A probe, `edgekit.support.probe`, says what a machine has; here is what that means for a set-up, a measurement and a
report. The environment has edgekit, numpy, Pillow, msgspec and the runtime of a bundle.

Everything is in edgekit's folder on the device, by default ~/.cache/edgekit: `files` named by SHA-256, `environments`
named by a hash of their contents. scripts/store and scripts/environment delete old ones. edgekit changes nothing else
there.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from edgekit import __version__
from edgekit.config.runtimes import RUNTIMES, DeviceClass, Runtime, data_folder
from edgekit.devices.registry import Device, find_remote
from edgekit.devices.scripts import ENVIRONMENT, PROBE, STORE, source
from edgekit.devices.transport import Connection, Done, Request, connect, exit_error, full_disk, script_command, watched
from edgekit.errors import (
    ConnectionCutError,
    DeviceError,
    DeviceMemoryError,
    DevicePythonError,
    DeviceSetupError,
    as_sentences,
)
from edgekit.report.figure import DeviceFacts, MachineState
from edgekit.support import libraries
from edgekit.support.child_process import run_python
from edgekit.support.files import digest, file_sha256
from edgekit.support.libraries import pip_install, release

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
"""Newest Python that the runtimes publish wheels for. Each wheel works with one version of Python."""
PYTHONS = "Python {}.{} to {}.{}".format(*OLDEST_PYTHON, *NEWEST_PYTHON)
MACHINES = ("aarch64", "x86_64")
"""Architectures for which the runtimes publish wheels, on Linux with glibc."""
OLDEST_GLIBC = (2, 28)
"""Oldest glibc with which any runtime can be installed; `wheel_problem` knows of runtimes that need a newer one."""
PROBE_S = 120
"""Time limit for the probe, which reads a few small files and starts each Python on the path."""
ENGINE_BYTES = 100 << 20
"""Memory of Python, numpy and a runtime before a model is loaded. With a model of 4 MB, ONNX Runtime was measured at
111 MB and OpenVINO at 148 MB."""


@dataclass(frozen=True)
class InstalledPython:
    """A Python on the path."""

    path: str
    """Path of the interpreter."""
    version: str
    """Version, such as "3.13.5"."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult(MachineState):
    """Result of `edgekit.support.probe` on a machine. None stands for unknown. Sizes are in bytes."""

    board: str | None
    """Model of the board, from the device tree."""
    machine: str
    """Architecture, as uname spells it."""
    kernel: str
    """Release of the Linux kernel."""
    emulated: bool | None
    """Whether QEMU emulates the processor."""
    glibc: str | None
    """Version of glibc, or None for another C library."""
    pythons: tuple[InstalledPython, ...]
    """Pythons on the path, in order of preference."""
    cpu: str | None
    """Name of the processor."""
    features: tuple[str, ...] | None
    """Features of the processor, as /proc/cpuinfo spells them."""
    noted_features: tuple[str, ...] | None
    """Features that decide which kernels a runtime uses."""
    cores: int | None
    """Number of physical cores that a process may use, within the quota of its control groups."""
    memory_bytes: int | None
    """Total memory, within the limit of its control groups."""
    memory_available_bytes: int | None
    """Memory that programs can still use."""
    cache: str
    """Path of edgekit's folder on the machine."""
    disk_free_bytes: int | None
    """Free disk space in that folder."""
    cache_writable: bool
    """Whether that folder can be written."""

    @property
    def matching_class(self) -> str | None:
        """Name of the device class that matches the machine, or None."""
        return DeviceClass.name_for(self.board, self.features or ())


def read_probe(probed: Any) -> ProbeResult:
    """Convert the probe's output; msgspec.ValidationError if it has another shape."""
    return msgspec.convert(probed, ProbeResult)


def probe(connection: Connection) -> ProbeResult:
    """Probe a device without changing anything on it. Raises a DeviceError if the probe can't run."""
    device = connection.device
    done = connection.run(["python3", "-I", "-"], source(PROBE).encode(), "the probe", PROBE_S)
    if done.status in (126, 127):
        raise DevicePythonError(
            f"{device.name}: python3 can't be run there ({done.err.strip()[-200:]})",
            fix="On Debian and Raspberry Pi OS, run `sudo apt install python3` on the device",
        )
    return connection.answer(done, ProbeResult, "the probe")


def supports_python(version: str) -> bool:
    """Whether the runtimes publish wheels for a version of Python."""
    return OLDEST_PYTHON <= release(version, parts=2) <= NEWEST_PYTHON


def python_of(device: str, facts: ProbeResult) -> InstalledPython:
    """The Python to use: the first suitable one on the path. DevicePythonError if there is none."""
    for python in facts.pythons:
        if supports_python(python.version):
            return python
    versions = ", ".join(python.version for python in facts.pythons)
    raise DevicePythonError(
        f"{device}: the device has {f'Python {versions}' if versions else 'no Python'}",
        valid=PYTHONS,
        fix="Install one there, or use Debian 12, Raspberry Pi OS of 2023 or a later release, which include one",
    )


def class_of_remote(device: Device) -> str | None:
    """The class of a device: the one that the user set, or else the one that matches its hardware."""
    if device.device_class is not None:
        return device.device_class
    with connect(device) as connection:
        return probe(connection).matching_class


def wheel_problem(runtime: str, facts: ProbeResult) -> str | None:
    """Why one runtime can't be installed on a machine where others can, or None."""
    support = RUNTIMES[runtime].wheels_on(facts.machine)
    if support is None or facts.glibc is None or release(facts.glibc, parts=2) >= release(support.glibc, parts=2):
        return None
    wheels = f"the wheels of {RUNTIMES[runtime].distributions[0]} for {facts.machine}"
    return f"{wheels} need glibc {support.glibc} or newer, but it is {facts.glibc}"


def platform_problems(facts: ProbeResult) -> dict[str, str]:
    """Why no runtime can be installed on a machine: problems of its processor and of its glibc, by that name."""
    problems = {}
    if facts.machine not in MACHINES:
        problems["processor"] = f"no runtime is published for {facts.machine}, only for {' and '.join(MACHINES)}"
    if facts.glibc is None:
        problems["glibc"] = "no runtime is published for a system without glibc"
    elif release(facts.glibc, parts=2) < OLDEST_GLIBC:
        problems["glibc"] = (
            f"its glibc is {facts.glibc}, but the runtimes need {'.'.join(map(str, OLDEST_GLIBC))} or newer"
        )
    return problems


def reason_against(device: str, facts: ProbeResult) -> str | None:
    """Why no runtime can be installed on a device, or None."""
    for problem in platform_problems(facts).values():
        return problem
    try:
        python_of(device, facts)
    except DevicePythonError as error:
        problem = error.problem.removeprefix(f"{device}: ")
        return as_sentences(f"{problem}, but edgekit needs {error.valid}", error.fix)
    return None


def check_memory(device: str, facts: ProbeResult, sizes: Mapping[str, int], streams: int = 0) -> None:
    """Raise DeviceMemoryError if too little memory is free for the runtime and all bundles, which are open together.

    Each bundle counts twice, for the bytes of its file and at least as much for the weights in the runtime's layout.
    The streams open one bundle after the other, so the largest one counts for each of them.
    """
    free, total = facts.memory_available_bytes, sum(sizes.values()) + streams * max(sizes.values())
    needed = ENGINE_BYTES + 2 * total
    if free is not None and free < needed:
        bundles = ", ".join(f"'{bundle}' ({size / 1e6:.0f} MB)" for bundle, size in sizes.items())
        more = f" and {streams} streams" if streams else ""
        demand = f"about {needed / 1e6:.0f} MB are needed for {bundles}{more}"
        raise DeviceMemoryError(
            f"{device}: {free / 1e6:.0f} MB of memory are free, but {demand}",
            fix="Close other programs there, measure fewer bundles at once, or choose a smaller model",
        )


def row_device(device: Device, facts: ProbeResult) -> DeviceFacts:
    """A probed device, as reports describe it. Its Python is the one that environments there are made with."""
    try:
        python = python_of(device.name, facts).version
    except DevicePythonError:
        python = None
    return DeviceFacts(
        name=device.name,
        device_class=device.device_class or facts.matching_class,
        cpu=facts.board or facts.cpu,
        cores=facts.cores,
        memory_bytes=facts.memory_bytes,
        system=f"Linux {facts.kernel} {facts.machine}",
        python=python,
        emulated=facts.emulated,
    )


def unknown_device(device: Device) -> DeviceFacts:
    """A device that couldn't be probed, as reports describe it."""
    return DeviceFacts(name=device.name, device_class=device.device_class, cpu=None, cores=None, memory_bytes=None)


CHUNK = 1 << 20
COPY_S = 600
"""Time limit for the next mebibyte of a copy, before which the device may have to hash or sync gigabytes."""
SET_UP_S = 3600
"""Time limit for unpacking the packages of an environment, which are some 100 MB, to an SD card."""


@dataclass(frozen=True)
class StoreAnswer:
    """The state of the store."""

    missing: tuple[str, ...]
    """SHA-256 of the files that are not in the store or, after receiving, arrived damaged."""
    removable: int
    """Size in bytes of the other files that may be removed."""
    partial: Mapping[str, int]
    """Number of bytes of a missing file that an interrupted copy left, by its SHA-256."""


def environment_key(package: bytes, requirements: Sequence[str], python_version: str) -> str:
    """Name of an environment: a hash of everything that it contains."""
    return digest(hashlib.sha256(package).hexdigest(), sorted(requirements), python_version)[:24]


def requirements_of(target: str, minimum: str | None, signed: bool = False) -> list[str]:
    """Requirements in addition to edgekit itself, with what verifies signatures if bundles are `signed`.

    `minimum` is the oldest version of the runtime for the bundle.
    """
    engine = Runtime.find(target).requirement
    return [*REQUIREMENTS, *(TRUST_REQUIREMENTS if signed else ()), f"{engine},>={minimum}" if minimum else engine]


def ensure_environment(connection: Connection, facts: ProbeResult, target: str, minimum: str | None = None) -> str:
    """Create the environment for a target unless it exists, and return the path of its Python.

    Raises DeviceFullError, DeviceSetupError, or the error of a lost connection.
    """
    device = connection.device.name
    reason = reason_against(device, facts) or wheel_problem(target, facts)
    if reason:
        raise DeviceSetupError(f"{device}: {target} can't run on this device: {reason}")
    python = python_of(device, facts)
    package, requirements = own_package(), requirements_of(target, minimum, connection.device.trust is not None)
    key = environment_key(package, requirements, python.version)
    ready = f"{facts.cache}/environments/{key}"
    used = ["sh", "-c", 'touch -c "$1" && test -e "$1"', "sh", f"{ready}/edgekit-complete"]
    if connection.run(used, work="the search for an environment").status == 0:
        return f"{ready}/bin/python"
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        (Path(folder) / "edgekit.zip").write_bytes(package)
        fetch_wheels(device, facts, requirements, Path(folder), connection.device.wheels)
        archives = send_files(connection, facts, list(Path(folder).iterdir()))
    request = {"cache": facts.cache, "key": key, "archives": archives, "unused": Runtime.find(target).unused_files}
    done = connection.run(script_command(python.path, ENVIRONMENT, request), work="the set-up", limit_s=SET_UP_S)
    if done.status != 0:
        raise exit_error(device, "the set-up", done.status, done.err)
    return f"{ready}/bin/python"


def send_files(connection: Connection, facts: ProbeResult, paths: Sequence[Path]) -> list[str]:
    """Copy the files that the device lacks, and verify them there. Returns their SHA-256, which are their names there.

    A file whose copy was interrupted is resumed.

    Raises DeviceFullError, before sending anything, if they don't fit.
    """
    device = connection.device.name
    python = python_of(device, facts).path
    try:
        hashes = [file_sha256(path) for path in paths]
        sizes = {digest: path.stat().st_size for digest, path in zip(hashes, paths, strict=True)}
    except OSError as error:
        raise DeviceError(f"{device}: can't read '{error.filename}' to copy it there: {error.strerror}") from error
    question = {"cache": facts.cache, "files": sizes}
    store = connection.ask(python, STORE, question, StoreAnswer, "the list of files")
    missing, free = store.missing, facts.disk_free_bytes
    offsets = {digest: min(store.partial.get(digest, 0), sizes[digest]) for digest in missing}
    total = sum(sizes[digest] - offsets[digest] for digest in missing)
    if free is not None and total > free + store.removable:
        raise full_disk(device, "a copy", f"it needs {total / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free")
    if not missing:
        return hashes
    files = {digest: sizes[digest] for digest in missing}
    request = {"cache": facts.cache, "files": files, "receive": True, "offsets": offsets}
    by_hash = dict(zip(hashes, paths, strict=True))
    damaged = _stream(connection, python, request, {by_hash[digest]: offsets[digest] for digest in missing})
    if damaged:
        raise ConnectionCutError(
            f"{device}: {len(damaged)} of {len(missing)} files arrived damaged and were discarded",
            fix="Run the same command again",
        )
    connection.copied_bytes += total
    return hashes


def fetch_wheels(
    device: str, facts: ProbeResult, requirements: Sequence[str], folder: Path, wheels: str | None = None
) -> None:
    """Let this machine's pip download wheels for the device's processor, glibc and Python, or take them from `wheels`.

    Raises DeviceSetupError.
    """
    python = release(python_of(device, facts).version, parts=2)
    libc = release(facts.glibc or "", parts=2)[1]
    platforms = [f"manylinux_2_{minor}_{facts.machine}" for minor in range(libc, 16, -1)]
    arguments = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    arguments += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "{}.{}".format(*python)]
    arguments += [word for abi in (f"cp{python[0]}{python[1]}", "abi3", "none") for word in ("--abi", abi)]
    for platform in (*platforms, f"manylinux2014_{facts.machine}"):
        arguments += ["--platform", platform]
    arguments += ["--no-index", "--find-links", wheels] if wheels else []
    done = run_python([*arguments, "--dest", str(folder), *requirements])
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DeviceSetupError(
            f"{device}: this machine's pip can't {f'take from {wheels}' if wheels else 'download'} the packages for "
            f"{facts.machine}, Python {python[0]}.{python[1]} and glibc {facts.glibc}: "
            f"{lines[-1] if lines else 'no message'}",
            valid=f"wheels of {', '.join(requirements)} and of their dependencies",
            fix=f"Run: {pip_install('pip')}"
            if "No module named pip" in done.stderr
            else "Check this machine's network and pip configuration, or name a folder of such wheels with --wheels",
        )


def clean(name: str) -> str:
    """Delete edgekit's folder on the device with this name. Returns what was done, in words."""
    with connect(find_remote(name)) as connection:
        facts = probe(connection)
        request = {"cache": facts.cache, "clean": True}
        answer = connection.ask(python_of(name, facts).path, ENVIRONMENT, request, dict[str, bool], "cleaning")
    return f"{name}: {'removed' if answer['removed'] else 'nothing to remove at'} {facts.cache}"


def _stream(connection: Connection, python: str, request: Request, paths: Mapping[Path, int]) -> Sequence[str]:
    """Send files from these offsets to the store. Returns the hashes of those that arrived damaged."""
    with tempfile.TemporaryFile(dir=connection.folder) as stderr:
        process = connection.start(script_command(python, STORE, request), stderr)
        with watched(process, connection.device.name, "the device took nothing of a copy", COPY_S) as moved:
            assert process.stdin
            assert process.stdout
            complete = _feed(process.stdin, paths, moved)
            out = process.stdout.read()
            process.stdout.close()
            status = process.wait()
        stderr.seek(0)
        errors = stderr.read().decode(errors="replace")
    connection.check(status)
    work = "a copy" if complete else "an interrupted copy"
    return connection.answer(Done(status, out, errors), StoreAnswer, work).missing


def _feed(pipe: IO[bytes], paths: Mapping[Path, int], moved: Callable[[], None]) -> bool:
    """Write files, each from its offset, into a pipe, and call `moved` for each chunk.

    Returns whether the other side read all of them.
    """
    try:
        with pipe:
            for path, offset in paths.items():
                with path.open("rb") as file:
                    file.seek(offset)
                    while chunk := file.read(CHUNK):
                        pipe.write(chunk)
                        moved()
    except BrokenPipeError:
        return False
    return True


REQUIREMENTS = ("numpy>=1.26", "pillow>=10.3", "msgspec>=0.20,<1")
"""Requirements of the agent in addition to a runtime: the package's own dependencies, and msgspec for messages."""
TRUST_REQUIREMENTS = ("cryptography>=43",)
"""What a device that takes only signed bundles needs in addition: the extra `trust`."""
_LEFT_OUT = frozenset(("__pycache__", "_data", "cli", "compiler", "demo", "job", "models", "pipeline", "tuning", "web"))
"""Folders that a device doesn't need, because it makes no bundles, serves no page and has no command line, and those
with another place."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
"""Mode of a regular file that its owner may write. Without it, some programs unpack files that nobody may read."""


def own_package() -> bytes:
    """The running package as a ZIP archive for devices, which unpack it into their environments.

    A device needs only a part of the package: Python and text files, device classes and recipes in the place where an
    installed package has them, and neither the demo nor the rooms that only make bundles. The same content gives the
    same bytes, so the archive's hash identifies it.
    """
    content = dict(_content())
    metadata = f"Metadata-Version: 2.1\nName: {libraries.NAME}\nVersion: {__version__}\n"
    stem = f"{libraries.NAME.replace('-', '_')}-{__version__}"
    content[f"{stem}.dist-info/METADATA"] = metadata.encode()
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = _MODE << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _content() -> Iterator[tuple[str, bytes]]:
    yield from _below("edgekit", files("edgekit"))
    kinds: tuple[Literal["targets", "calibration"], ...] = ("targets", "calibration")
    for kind in kinds:
        yield from _below(f"edgekit/_data/{kind}", data_folder(kind))


def _below(name: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{name}/{item.name}"
        if item.is_dir() and item.name not in _LEFT_OUT:
            yield from _below(path, item)
        elif item.is_file():
            yield path, item.read_bytes()
