"""The machine that a row was measured on."""

from typing import Annotated

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0)]


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """The machine that a row was measured on. What could not be found out is None."""

    # A Struct and not a dataclass, because the JSON key `class` is no valid name for a field.
    name: str
    """Name under which the device was given: "local", a registered name or an SSH address."""
    device_class: str | None = field(name="class")
    """Name of the device class that the machine belongs to."""
    cpu: str | None
    """Processor model as the system reports it."""
    cores: Count | None
    """Number of logical CPUs."""
    memory_bytes: Count | None
    """Total memory of the machine."""
    system: str | None = None
    """Operating system, kernel release and architecture."""
    python: str | None = None
    """Version of the Python that ran the bundle."""
    emulated: bool | None = None
    """QEMU stood in for the device: its times are not a device's, and no gate judges them."""

    @property
    def label(self) -> str:
        """The name as outputs show it, which always says when the device is emulated."""
        return f"{self.name} (emulated)" if self.emulated else self.name
