"""What a device is, which runtimes can run there, and what it lacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct, field

from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.probed_facts import ProbedFacts, PythonFacts
from edgekit.devices.registry import Device
from edgekit.devices.scripts import PROBE, source
from edgekit.devices.transport import Connection, connect
from edgekit.errors import DeviceMemoryError, DevicePythonError
from edgekit.report.device_facts import DeviceFacts
from edgekit.support.versions import release

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
"""Engines come compiled for one Python each; for later ones there are none yet."""
MACHINES = ("aarch64", "x86_64")
"""Processors that the engines are published for, on Linux with glibc."""
OLDEST_GLIBC = (2, 28)
"""What the engines' packages are built against at the least."""
ROOM_BYTES = 400 << 20
"""Disk that an environment with one engine takes, with its packages while they are unpacked."""
ENGINE_BYTES = 100 << 20
"""Memory of Python, numpy and an engine before a model is loaded: with a model of 4 MB, ONNX Runtime was measured at
111 MB and OpenVINO at 148."""


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime can be installed on a device, and why not."""

    runs: bool
    reason: str | None


class DeviceCheck(Struct, frozen=True, kw_only=True):
    """The document of `edgekit devices check`."""

    # A Struct and not a dataclass, because the JSON key `class` is no valid name for a field.
    schema_version: Literal[1] = 1
    name: str
    url: str | None
    device_class: str | None = field(name="class")
    """The class that the user named, or the one that fits."""
    proposed_class: str | None
    """The class that fits."""
    facts: ProbedFacts
    lacks: tuple[str, ...]
    """What stands in the way of measuring there, each with its remedy."""
    targets: Mapping[str, Verdict]


def probe(connection: Connection) -> ProbedFacts:
    """The facts of a device. Nothing on it is changed; raises a DeviceError if it can't be asked."""
    device = connection.device
    done = connection.run(["python3", "-I", "-"], source(PROBE).encode())
    if done.status in (126, 127):
        raise DevicePythonError(
            f"{device.name}: it has no python3 that can be run ({done.err.strip()[-200:]}). On Debian and Raspberry Pi "
            "OS: sudo apt install python3 python3-venv"
        )
    return connection.answer(done, ProbedFacts, "the probe")


def python_of(device: str, facts: ProbedFacts) -> PythonFacts:
    """The Python to use: the first on the path that will do; DevicePythonError if there is none."""
    for python in facts.pythons:
        if OLDEST_PYTHON <= release(python.version, parts=2) <= NEWEST_PYTHON:
            return python
    there = ", ".join(each.version for each in facts.pythons) or "none"
    raise DevicePythonError(
        f"{device}: it has Python {there}; edgekit needs {_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}. Debian "
        "12 and Raspberry Pi OS of 2023 and later bring one."
    )


def class_of_remote(device: Device) -> str | None:
    """The class of a device: the one that the user named, or else the one that fits what it is."""
    if device.device_class is not None:
        return device.device_class
    with connect(device) as connection:
        return probe(connection).matching_class


def check(device: Device) -> DeviceCheck:
    """What a device is, what it lacks, and which runtimes can be installed there."""
    with connect(device) as connection:
        facts = probe(connection)
    proposed, reason = facts.matching_class, reason_against(device.name, facts)
    return DeviceCheck(
        name=device.name,
        url=device.url,
        device_class=device.device_class or proposed,
        proposed_class=proposed,
        facts=facts,
        lacks=tuple(lacks(device, facts)),
        targets=dict.fromkeys(RUNTIMES, Verdict(reason is None, reason)),
    )


def reason_against(device: str, facts: ProbedFacts) -> str | None:
    """Why no runtime can be installed there, or None: they are all published for the same platforms."""
    if facts.machine not in MACHINES:
        return f"no runtime is published for {facts.machine}: valid are {', '.join(MACHINES)}"
    if facts.glibc is None:
        return "no runtime is published for a system without glibc"
    if release(facts.glibc, parts=2) < OLDEST_GLIBC:
        return f"glibc is {facts.glibc}: the runtimes need {_dotted(OLDEST_GLIBC)} or newer"
    try:
        python_of(device, facts)
    except DevicePythonError as error:
        return str(error).removeprefix(f"{device}: ")
    return None


def lacks(device: Device, facts: ProbedFacts) -> list[str]:
    """What stands in the way of measuring there, each with its remedy."""
    found = []
    reason = reason_against(device.name, facts)
    if reason:
        return [reason]
    python = python_of(device.name, facts)
    if not python.ensurepip:
        found.append(f"{python.path} has no ensurepip: sudo apt install python3-venv, or measure with --offline")
    if not facts.cache_writable:
        found.append(f"'{facts.cache}' can't be written")
    free = facts.disk_free_bytes
    if free is not None and free < ROOM_BYTES:
        found.append(f"{free / 1e6:.0f} MB of disk are free where {ROOM_BYTES / 1e6:.0f} MB may be needed")
    for name in facts.throttled.now if facts.throttled else ():
        found.append(f"the firmware reports {name} now: figures would not be the device's own")
    if device.device_class is None and facts.matching_class is None:
        found.append("no device class fits it: bounds can't be given; name one with devices add --class")
    return found


def check_memory(device: str, facts: ProbedFacts, sizes: Mapping[str, int]) -> None:
    """DeviceMemoryError if less memory is free than the engine and all of the bundles take, which are open together.

    Each counts twice: the file's bytes and, at the least, the weights as the engine lays them out.
    """
    free, total = facts.memory_available_bytes, sum(sizes.values())
    needed = ENGINE_BYTES + 2 * total
    if free is not None and free < needed:
        each = ", ".join(f"'{bundle}' {size / 1e6:.0f} MB" for bundle, size in sizes.items())
        raise DeviceMemoryError(
            f"{device}: {free / 1e6:.0f} MB of memory are free, and about {needed / 1e6:.0f} MB are needed to run "
            f"{each}. Close what else runs there, measure fewer bundles at once, or take a smaller model."
        )


def row_device(device: Device, facts: ProbedFacts) -> DeviceFacts:
    """The device as a report shows it, from a probe."""
    return DeviceFacts(
        name=device.name,
        device_class=device.device_class or facts.matching_class,
        cpu=facts.board or facts.cpu,
        cores=facts.cores,
        memory_bytes=facts.memory_bytes,
        system=f"Linux {facts.kernel} {facts.machine}",
        python=next((each.version for each in facts.pythons), None),
        emulated=facts.emulated,
    )


def unknown_device(device: Device) -> DeviceFacts:
    """A device that couldn't be asked, as a report shows it."""
    return DeviceFacts(name=device.name, device_class=device.device_class, cpu=None, cores=None, memory_bytes=None)


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
