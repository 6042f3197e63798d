"""The document of `edgekit devices list`."""

from typing import Literal

from msgspec import Struct, field

from edgekit.devices.registry import read_devices


class ListedDevice(Struct, frozen=True):
    """A device in the user's file. Keys that the file doesn't set are None."""

    # A Struct instead of a dataclass, because the JSON key `class` is not a valid field name.
    name: str
    """Name for `--device`."""
    url: str | None
    """ssh:// address."""
    device_class: str | None = field(name="class")
    """Name of the device class."""
    ssh_config: str | None
    """Path of the ssh configuration to use instead of the user's own."""
    trust: str | None
    """PEM text of the public key with which bundles for the device are signed."""


class DeviceListing(Struct, frozen=True, kw_only=True):
    """The document of `edgekit devices list`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    devices: tuple[ListedDevice, ...]
    """Devices in the order of the file."""


def list_devices() -> DeviceListing:
    """List the devices that the user added; UsageError if the file is damaged."""
    devices = read_devices().values()
    return DeviceListing(
        devices=tuple(ListedDevice(d.name, d.url, d.device_class, d.ssh_config, d.trust) for d in devices)
    )
