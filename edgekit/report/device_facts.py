"""The machine that a row was measured on."""

from typing import Annotated

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0)]


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """The machine that a row was measured on. What could not be found out is None."""

    # A Struct and not a dataclass, because the JSON key `class` is no valid name for a field.
    name: str
    device_class: str | None = field(name="class")
    cpu: str | None
    cores: Count | None
    memory_bytes: Count | None
    system: str | None = None
    python: str | None = None
    emulated: bool | None = None
    """QEMU stood in for the device: its times are not a device's, and no gate judges them."""

    @property
    def label(self) -> str:
        """The name as outputs show it, which always says when the device is emulated."""
        return f"{self.name} (emulated)" if self.emulated else self.name
