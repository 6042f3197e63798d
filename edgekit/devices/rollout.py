"""Push a bundle to several devices, roll back, and describe what devices have: the documents of these commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.devices.app_state import AppState
from edgekit.devices.parallel import each_device, in_threads
from edgekit.devices.push import Bound, PushedDevice, push_to, roll_back
from edgekit.devices.registry import Device
from edgekit.devices.remote import open_board
from edgekit.errors import DeviceError
from edgekit.report.measurement import Failure
from edgekit.runtime.bundle import Bundle
from edgekit.support import interrupts
from edgekit.support.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The document of `edgekit push` and `edgekit rollback`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    app: str
    """Name of the app."""
    sha256: str | None
    """Hash of the manifest of the bundle that was pushed; null for a rollback."""
    results: tuple[PushedDevice, ...]
    """Outcome on each device."""


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """The apps on one device."""

    device: str
    """Name of the device."""
    url: str | None
    """ssh:// address."""
    failure: Failure | None = None
    """Reason why the device can't be asked, or null."""
    disk_free_bytes: int | None = None
    """Free disk space where the bundles are, in bytes."""
    apps: tuple[AppState, ...] = ()
    """The apps."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The document of `edgekit devices status`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    devices: tuple[DeviceStatus, ...]
    """The devices."""


def roll_out(
    devices: Sequence[Device], push: Callable[[Device], PushedDevice], canary: int, parallel: int
) -> tuple[PushedDevice, ...]:
    """Push to the first `canary` devices, and then to the others, at most `parallel` at a time.

    When one doesn't pass, no other push begins.
    """
    pushed: list[PushedDevice] = []

    def push_unless_stopped(device: Device) -> PushedDevice:
        if any(result.verdict != "pass" for result in pushed):
            return PushedDevice(device=device.name, verdict=None)
        pushed.append(result := push(device))
        return result

    groups = (devices[:canary], devices[canary:])
    return tuple(result for group in groups for result in in_threads(group, push_unless_stopped, parallel))


def push_bundle(
    bundle: Bundle, bounds: dict[Device, Bound], app: str, reporter: Reporter, canary: int = 1, parallel: int = 4
) -> Pushed:
    """Push a bundle to devices, each with the bound of its latency, as the active bundle of an app."""

    def push(device: Device) -> PushedDevice:
        return push_to(device, bundle, app, bounds[device], reporter)

    return Pushed(app=app, sha256=bundle.sha256, results=roll_out(list(bounds), push, canary, parallel))


def roll_back_devices(devices: Sequence[Device], app: str, reporter: Reporter, to: str | None = None) -> Pushed:
    """Make a bundle of an app active again on devices, in parallel. One that fails doesn't stop the others."""
    results = each_device(devices, lambda device: [roll_back(device, app, reporter, to)])
    return Pushed(app=app, sha256=None, results=tuple(results))


def status_of(devices: Sequence[Device], reporter: Reporter) -> Status:
    """Ask devices for their apps, in parallel."""

    def ask(device: Device) -> Sequence[DeviceStatus]:
        try:
            with open_board(device, reporter) as board:
                answer = board.ask_apps()
        except DeviceError as error:
            interrupts.check()  # an interrupt makes the main thread close the connections, which is not an error
            return [DeviceStatus(device=device.name, url=device.url, failure=Failure.of("device", error))]
        free = answer.disk_free_bytes
        return [DeviceStatus(device=device.name, url=device.url, disk_free_bytes=free, apps=answer.apps)]

    return Status(devices=tuple(each_device(devices, ask)))
