"""The result of `edgekit.support.probe` on a machine, and what it means for a set-up, a measurement and a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.config.device_classes import class_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.registry import Device
from edgekit.devices.scripts import PROBE, source
from edgekit.devices.transport import Connection, connect
from edgekit.errors import DeviceMemoryError, DevicePythonError, as_sentences
from edgekit.report.device import DeviceFacts, MachineState
from edgekit.support.distribution import release

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
        return class_of(self.board, self.features or ())


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
