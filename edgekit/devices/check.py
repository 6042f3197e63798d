"""Check a device: its hardware and system, the runtimes that it can run, and the problems to solve first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct, field

from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.probe_result import InstalledPython, ProbeResult
from edgekit.devices.registry import Device
from edgekit.devices.scripts import PROBE, source
from edgekit.devices.transport import Connection, connect
from edgekit.errors import DeviceMemoryError, DevicePythonError, as_sentences
from edgekit.report.device import DeviceFacts
from edgekit.support.distribution import release

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
"""Newest Python that the runtimes publish wheels for. Each wheel works with one version of Python."""
MACHINES = ("aarch64", "x86_64")
"""Architectures for which the runtimes publish wheels, on Linux with glibc."""
OLDEST_GLIBC = (2, 28)
"""Oldest glibc with which any runtime can be installed; `wheel_problem` knows of runtimes that need a newer one."""
PROBE_S = 120
"""Time limit for the probe, which reads a few small files and starts each Python on the path."""
ROOM_BYTES = 400 << 20
"""Disk space that an environment with one runtime needs, including its packages while pip unpacks them."""
ENGINE_BYTES = 100 << 20
"""Memory of Python, numpy and a runtime before a model is loaded. With a model of 4 MB, ONNX Runtime was measured at
111 MB and OpenVINO at 148 MB."""


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime can be installed on a device."""

    runs: bool
    """Whether it can be installed."""
    reason: str | None
    """Reason why it can't be installed, or None."""


class DeviceCheck(Struct, frozen=True, kw_only=True):
    """The document of `edgekit devices check`."""

    # A Struct instead of a dataclass, because the JSON key `class` is not a valid field name.
    schema_version: Literal[1] = 1
    """Version of this document's format."""
    name: str
    """Name of the device."""
    url: str | None
    """ssh:// address of the device."""
    device_class: str | None = field(name="class")
    """Device class that the user set, or else the matching one."""
    proposed_class: str | None
    """Device class that matches the hardware."""
    facts: ProbeResult
    """Results of the probe."""
    lacks: tuple[str, ...]
    """Problems that prevent or distort a measurement, each with its fix."""
    targets: Mapping[str, Verdict]
    """Verdict for each runtime."""


def probe(connection: Connection) -> ProbeResult:
    """Probe a device without changing anything on it. Raises a DeviceError if the probe can't run."""
    device = connection.device
    done = connection.run(["python3", "-I", "-"], source(PROBE).encode(), "the probe", PROBE_S)
    if done.status in (126, 127):
        raise DevicePythonError(
            f"{device.name}: python3 can't be run there ({done.err.strip()[-200:]})",
            fix="On Debian and Raspberry Pi OS, run `sudo apt install python3 python3-venv` on the device",
        )
    return connection.answer(done, ProbeResult, "the probe")


def python_of(device: str, facts: ProbeResult) -> InstalledPython:
    """The Python to use: the first suitable one on the path. DevicePythonError if there is none."""
    for python in facts.pythons:
        if OLDEST_PYTHON <= release(python.version, parts=2) <= NEWEST_PYTHON:
            return python
    versions = ", ".join(python.version for python in facts.pythons)
    raise DevicePythonError(
        f"{device}: the device has {f'Python {versions}' if versions else 'no Python'}",
        valid=f"Python {_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}",
        fix="Install one there, or use Debian 12, Raspberry Pi OS of 2023 or a later release, which include one",
    )


def class_of_remote(device: Device) -> str | None:
    """The class of a device: the one that the user set, or else the one that matches its hardware."""
    if device.device_class is not None:
        return device.device_class
    with connect(device) as connection:
        return probe(connection).matching_class


def check(device: Device) -> DeviceCheck:
    """Connect to a device and check it."""
    with connect(device) as connection:
        facts = probe(connection)
    proposed = facts.matching_class
    return DeviceCheck(
        name=device.name,
        url=device.url,
        device_class=device.device_class or proposed,
        proposed_class=proposed,
        facts=facts,
        lacks=tuple(lacks(device, facts)),
        targets={runtime: _verdict(device.name, facts, runtime) for runtime in RUNTIMES},
    )


def _verdict(device: str, facts: ProbeResult, runtime: str) -> Verdict:
    reason = reason_against(device, facts) or wheel_problem(runtime, facts)
    return Verdict(reason is None, reason)


def wheel_problem(runtime: str, facts: ProbeResult) -> str | None:
    """Why one runtime can't be installed on a machine where others can, or None."""
    support = RUNTIMES[runtime].wheels_on(facts.machine)
    if support is None or facts.glibc is None or release(facts.glibc, parts=2) >= release(support.glibc, parts=2):
        return None
    wheels = f"the wheels of {RUNTIMES[runtime].distributions[0]} for {facts.machine}"
    return f"{wheels} need glibc {support.glibc} or newer, but it is {facts.glibc}"


def reason_against(device: str, facts: ProbeResult) -> str | None:
    """Why no runtime can be installed there, or None."""
    if facts.machine not in MACHINES:
        return f"no runtime is published for {facts.machine}, only for {' and '.join(MACHINES)}"
    if facts.glibc is None:
        return "no runtime is published for a system without glibc"
    if release(facts.glibc, parts=2) < OLDEST_GLIBC:
        return f"its glibc is {facts.glibc}, but the runtimes need {_dotted(OLDEST_GLIBC)} or newer"
    try:
        python_of(device, facts)
    except DevicePythonError as error:
        problem = error.problem.removeprefix(f"{device}: ")
        return as_sentences(f"{problem}, but edgekit needs {error.valid}", error.fix)
    return None


def lacks(device: Device, facts: ProbeResult) -> list[str]:
    """Problems that prevent or distort a measurement there, each with its fix."""
    problems = []
    reason = reason_against(device.name, facts)
    if reason:
        return [reason]
    python = python_of(device.name, facts)
    if not python.ensurepip:
        problems.append(f"{python.path} has no ensurepip: run `sudo apt install python3-venv` there, or use --offline")
    if not facts.cache_writable:
        problems.append(f"'{facts.cache}' can't be written: make it writable for this user")
    free = facts.disk_free_bytes
    if free is not None and free < ROOM_BYTES:
        room = f"{free / 1e6:.0f} MB of disk space are free, and a set-up may need {ROOM_BYTES / 1e6:.0f} MB"
        problems.append(f"only {room}: free some space")
    for name in facts.throttled.now if facts.throttled else ():
        problems.append(f"the firmware reports {name} now: timings would not be representative")
    if device.device_class is None and facts.matching_class is None:
        problems.append(
            "no device class matches, so there is no nominal rate to compare with: set one with devices add --class"
        )
    return problems


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


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
