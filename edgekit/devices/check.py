"""What a device is, which runtimes can run there, and what it lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.config.device_classes import class_of
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.registry import Device
from edgekit.devices.scripts import PROBE, source
from edgekit.devices.transport import Connection, connect
from edgekit.errors import DeviceMemoryError, DevicePythonError
from edgekit.report.device_facts import DeviceFacts
from edgekit.support.versions import release

Facts = Mapping[str, Any]

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


def probe(connection: Connection) -> dict[str, Any]:
    """The facts of a device; what it doesn't tell is null. Nothing on it is changed."""
    device = connection.device
    done = connection.run(["python3", "-I", "-"], source(PROBE).encode())
    if done.status in (126, 127):
        raise DevicePythonError(
            f"{device.name}: it has no python3 that can be run ({done.err.strip()[-200:]}). On Debian and Raspberry Pi "
            "OS: sudo apt install python3 python3-venv"
        )
    facts: dict[str, Any] = connection.answer(done, "the probe")
    facts["class"] = device.device_class or class_of(facts["board"], facts["features"] or ())
    return facts


def python_of(device: str, facts: Facts) -> dict[str, Any]:
    """The Python to use: the first on the path that will do; DevicePythonError if there is none."""
    for found in facts["pythons"]:
        if OLDEST_PYTHON <= release(found["version"], parts=2) <= NEWEST_PYTHON:
            return dict(found)
    there = ", ".join(each["version"] for each in facts["pythons"]) or "none"
    raise DevicePythonError(
        f"{device}: it has Python {there}; edgekit needs {_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}. Debian "
        "12 and Raspberry Pi OS of 2023 and later bring one."
    )


def class_of_remote(device: Device) -> str | None:
    """The class of a device: what the user said, or else what it turns out to be."""
    if device.device_class is not None:
        return device.device_class
    with connect(device) as connection:
        return str(found) if (found := probe(connection)["class"]) else None


def check(device: Device) -> dict[str, Any]:
    """The document of `edgekit devices check`: facts, what is lacking, and for each target whether and why not."""
    with connect(device) as connection:
        facts = probe(connection)
    why_not = {name: reason_against(device.name, facts) for name in RUNTIMES}
    return {
        "schema_version": 1,
        "name": device.name,
        "url": device.url,
        "class": facts["class"],
        "proposed_class": class_of(facts["board"], facts["features"] or ()),
        "facts": {key: value for key, value in facts.items() if key not in ("class", "features")},
        "lacks": lacks(device.name, facts),
        "targets": {name: {"runs": reason is None, "reason": reason} for name, reason in why_not.items()},
    }


def reason_against(device: str, facts: Facts) -> str | None:
    """Why no engine can be installed there, or None: they are all published for the same platforms."""
    if facts["machine"] not in MACHINES:
        return f"no runtime is published for {facts['machine']}: valid are {', '.join(MACHINES)}"
    if facts["glibc"] is None:
        return "no runtime is published for a system without glibc"
    if release(facts["glibc"], parts=2) < OLDEST_GLIBC:
        return f"glibc is {facts['glibc']}: the runtimes need {_dotted(OLDEST_GLIBC)} or newer"
    try:
        python_of(device, facts)
    except DevicePythonError as error:
        return str(error).removeprefix(f"{device}: ")
    return None


def lacks(device: str, facts: Facts) -> list[str]:
    """What stands in the way of measuring there, each with what helps."""
    found = []
    reason = reason_against(device, facts)
    if reason:
        return [reason]
    python = python_of(device, facts)
    if not python["ensurepip"]:
        found.append(f"{python['path']} has no ensurepip: sudo apt install python3-venv, or measure with --offline")
    if not facts["cache_writable"]:
        found.append(f"'{facts['cache']}' can't be written")
    free = facts["disk_free_bytes"]
    if free is not None and free < ROOM_BYTES:
        found.append(f"{free / 1e6:.0f} MB of disk are free where {ROOM_BYTES / 1e6:.0f} MB may be needed")
    for name in (facts["throttled"] or {}).get("now", ()):
        found.append(f"the firmware reports {name} now: figures would not be the device's own")
    if facts["class"] is None:
        found.append("no device class fits it: bounds can't be given; name one with devices add --class")
    return found


def check_memory(device: str, facts: Facts, sizes: Mapping[str, int]) -> None:
    """DeviceMemoryError if less memory is free than the engine and all of the bundles take, which are open together.

    Each counts twice: the file's bytes and, at the least, the weights as the engine lays them out.
    """
    free, total = facts["memory_available_bytes"], sum(sizes.values())
    needed = ENGINE_BYTES + 2 * total
    if free is not None and free < needed:
        each = ", ".join(f"'{bundle}' {size / 1e6:.0f} MB" for bundle, size in sizes.items())
        raise DeviceMemoryError(
            f"{device}: {free / 1e6:.0f} MB of memory are free, and about {needed / 1e6:.0f} MB are needed to run "
            f"{each}. Close what else runs there, measure fewer bundles at once, or take a smaller model."
        )


def row_device(device: Device, facts: Facts) -> DeviceFacts:
    """The device as a report shows it, from a probe."""
    return DeviceFacts(
        name=device.name,
        device_class=facts["class"],
        cpu=facts["board"] or facts["cpu"],
        cores=facts["cores"],
        memory_bytes=facts["memory_bytes"],
        system=f"Linux {facts['kernel']} {facts['machine']}",
        python=next((each["version"] for each in facts["pythons"]), None),
        emulated=facts["emulated"],
    )


def unknown_device(device: Device) -> DeviceFacts:
    """A device that couldn't be asked, as a report shows it."""
    return DeviceFacts(name=device.name, device_class=device.device_class, cpu=None, cores=None, memory_bytes=None)


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
