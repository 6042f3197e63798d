"""The machine that a row was measured on, and its state meanwhile."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from edgekit.report.figure import Count, Seconds

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


@dataclass(frozen=True)
class Throttling:
    """Causes of throttling that a Raspberry Pi's firmware reports."""

    bits: int
    """Bit mask of `vcgencmd get_throttled`."""
    now: tuple[str, ...]
    """Causes that slowed the processor down at that moment."""
    since_boot: tuple[str, ...]
    """Causes that slowed the processor down at any time since the last boot."""


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """Clocks, temperature, throttling and load at one moment; values that the system does not report are null."""

    clock_mhz: float | None
    """Clock of the fastest core, in MHz."""
    clock_max_mhz: float | None
    """Highest clock that the cores may use, in MHz."""
    governor: str | None
    """Name of the frequency governor, such as "ondemand"."""
    celsius: float | None
    """Temperature of the hottest thermal zone, in degrees Celsius."""
    throttled: Throttling | None
    """Throttling flags of a Raspberry Pi's firmware; null on other machines."""
    throttle_events: int | None
    """Number of thermal throttling events that the processor has counted since boot."""
    cooling_state: int | None
    """Step at which the kernel's thermal governor caps the clock; 0 means no cap."""
    load: float | None
    """Load average of the last minute."""


@dataclass(frozen=True)
class Sample:
    """One point of the time series of clock and temperature."""

    s: Seconds
    """Seconds since the timing began."""
    clock_mhz: float | None
    """Clock of the fastest core, in MHz."""
    celsius: float | None
    """Temperature of the hottest thermal zone, in degrees Celsius."""
    throttled: tuple[str, ...] | None
    """Causes that slowed the processor down at that moment; null if the system does not report them."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Clocks, temperature, throttling and other load while rows were timed."""

    before: MachineState
    """State of the machine before the first timed round."""
    after: MachineState
    """State of the machine after the last timed round."""
    seconds: Seconds
    """Duration of the timing, in seconds."""
    series: tuple[Sample, ...]
    """Clock and temperature over time, sampled between the timed rounds."""
    throttled: tuple[str, ...] | None
    """Causes that slowed the processor down during the timing; null if the system does not report them."""
    cpus: Annotated[int, Meta(ge=1)]
    """Number of CPUs that the timed process may use; two that share a core count as two."""
    other_cpus: Annotated[float, Meta(ge=0)] | None
    """Number of CPUs that other processes kept busy during the timing, on average."""
    cores: Annotated[int, Meta(ge=1)] | None = None
    """Number of physical cores of these CPUs; null in browsers, and in reports of an edgekit without it."""
    hidden: bool | None = None
    """Whether a browser hid the page at any time during the timing; null outside of browsers."""
