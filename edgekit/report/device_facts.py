"""The machine that a row was measured on."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0)]


DotProduct = Literal["signed", "unsigned", "emulated", "absent"]


class BrowserFacts(Struct, frozen=True, kw_only=True):
    """The browser that a row was measured in, as far as a page can know."""

    user_agent: str
    """The browser's own description of itself."""
    build: Literal["relaxed", "compat", "threaded"]
    """Build of LiteRT.js that ran: with relaxed SIMD, without it, or with relaxed SIMD and threads."""
    dot_product: DotProduct
    """The integer dot product of relaxed SIMD: an instruction of the processor for signed numbers (Arm SDOT) or for
    unsigned by signed ones (AVX-VNNI), several other instructions, or not in this browser."""
    clock_ms: float
    """Step of the page's clock, in milliseconds."""
    secure: bool
    """Whether the page came over HTTPS or from the same machine, without which it has no threads and no wake lock."""
    license: str
    """License of LiteRT.js, which edgekit served to the browser."""


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """The machine that a row was measured on. Facts that could not be determined are null."""

    # A Struct instead of a dataclass, because the JSON key `class` is not a valid field name in Python.
    name: str
    """Name of the device on the command line: "local", a registered name or an SSH address."""
    device_class: str | None = field(name="class")
    """Device class that the machine belongs to, such as "raspberry-pi-5"."""
    cpu: str | None
    """Model of the board, or of the processor where no board is known, as the system reports it."""
    cores: Count | None
    """Number of physical cores that the measuring process may use, which is the default number of threads."""
    memory_bytes: Count | None
    """Total memory of the machine, in bytes."""
    system: str | None = None
    """Operating system, kernel release and architecture."""
    python: str | None = None
    """Version of the Python that ran the bundle."""
    emulated: bool | None = None
    """Whether QEMU emulates the device: its timings are not comparable, so no gate judges them."""
    browser: BrowserFacts | None = None
    """The browser that ran the bundle; null for a machine that runs Python."""

    @property
    def label(self) -> str:
        """Name as outputs show it, which marks an emulated device."""
        return f"{self.name} (emulated)" if self.emulated else self.name
