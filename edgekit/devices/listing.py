"""The document of `edgekit devices list`."""

from typing import Literal

from msgspec import Struct, field

from edgekit.devices.registry import read_devices


class ListedDevice(Struct, frozen=True):
    """A device in the user's file; what the file does not say is None."""

    # A Struct and not a dataclass, because the JSON key `class` is no valid name for a field.
    name: str
    url: str | None
    device_class: str | None = field(name="class")
    ssh_config: str | None


class DeviceListing(Struct, frozen=True, kw_only=True):
    """The document of `edgekit devices list`."""

    schema_version: Literal[1] = 1
    devices: tuple[ListedDevice, ...]


def list_devices() -> DeviceListing:
    """The devices that the user added; UsageError for a file that is damaged."""
    known = read_devices().values()
    return DeviceListing(
        devices=tuple(ListedDevice(each.name, each.url, each.device_class, each.ssh_config) for each in known)
    )
