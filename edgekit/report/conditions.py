"""The state of a machine while a row was timed, and the latency of a sustained run."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]


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


@dataclass(frozen=True)
class SustainedLatency:
    """Latency within one window of a sustained run, in milliseconds."""

    p50: float
    """Median latency within the window, in milliseconds."""
    p90: float
    """90th percentile of the latency within the window, in milliseconds."""
    p99: float
    """99th percentile of the latency within the window, in milliseconds."""
    count: int
    """Number of inferences within the window."""


@dataclass(frozen=True)
class SustainedPoint:
    """One point of a sustained run's latency over time."""

    s: Seconds
    """Seconds since the timed rounds began."""
    p50: float
    """Median latency from this moment until the next point, in milliseconds."""
    count: int
    """Number of inferences from this moment until the next point."""


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """Latency over minutes: in the first window, in the last window, and as a time series."""

    seconds: Seconds
    """Duration of the sustained run, in seconds."""
    window_s: Seconds
    """Length of the first and the last window, in seconds."""
    first: SustainedLatency
    """Latency within the first window."""
    last: SustainedLatency
    """Latency within the last window."""
    change: float
    """Change of p50 from the first to the last window, as a share of the first; above 0 is slower."""
    series: tuple[SustainedPoint, ...]
    """Median latency over time."""
