"""Push a bundle to several devices, roll back, and describe what devices have: the documents of these commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what the devices had answered."""

    def __init__(self, pushed: Pushed) -> None:
        super().__init__()
        self.pushed = pushed


def roll_out(
    pushed: Pushed, devices: Sequence[Device], push: Callable[[Device], PushedDevice], canary: int, parallel: int
) -> Pushed:
    """Push to the first `canary` devices, and then to the others, at most `parallel` at a time. Completes the document.

    When one of a push doesn't pass, no other begins. Raises Interrupted.
    """
    results = {device.name: PushedDevice(device=device.name, verdict=None) for device in devices}

    def push_unless_stopped(device: Device) -> None:
        if pushed.sha256 is None or all(result.verdict in ("pass", None) for result in results.values()):
            results[device.name] = replace(results[device.name], reasons=("the command was interrupted",))
            results[device.name] = push(device)

    try:
        for group in (devices[:canary], devices[canary:]):
            in_threads(group, push_unless_stopped, parallel)
    except KeyboardInterrupt:
        raise Interrupted(replace(pushed, results=tuple(results.values()))) from None
    return replace(pushed, results=tuple(results.values()))


def push_bundle(
    bundle: Bundle, bounds: dict[Device, Bound], app: str, reporter: Reporter, canary: int = 1, parallel: int = 4
) -> Pushed:
    """Push a bundle to devices, each with the bound of its latency, as the active bundle of an app."""

    def push(device: Device) -> PushedDevice:
        return push_to(device, bundle, app, bounds[device], reporter)

    return roll_out(Pushed(app=app, sha256=bundle.sha256, results=()), list(bounds), push, canary, parallel)


def roll_back_devices(devices: Sequence[Device], app: str, reporter: Reporter, to: str | None = None) -> Pushed:
    """Make a bundle of an app active again on devices, in parallel. One that fails doesn't stop the others."""

    def back(device: Device) -> PushedDevice:
        return roll_back(device, app, reporter, to)

    return roll_out(Pushed(app=app, sha256=None, results=()), devices, back, 0, len(devices))


def status_of(devices: Sequence[Device], reporter: Reporter) -> Status:
    """Ask devices for their apps, in parallel."""

    def ask(device: Device) -> Sequence[DeviceStatus]:
        try:
            with open_board(device, reporter) as board:
                answer = board.ask_apps(hashes=True)
        except DeviceError as error:
            interrupts.check()  # an interrupt makes the main thread close the connections, which is not an error
            return [DeviceStatus(device=device.name, url=device.url, failure=Failure.of("device", error))]
        free = answer.disk_free_bytes
        return [DeviceStatus(device=device.name, url=device.url, disk_free_bytes=free, apps=answer.apps)]

    return Status(devices=tuple(each_device(devices, ask)))
