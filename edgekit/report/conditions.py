"""What a machine was like while a row was timed, and what a sustained run showed."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Throttling:
    """What the firmware reports as slowing the processor down."""

    bits: int
    """Bit mask of `vcgencmd get_throttled`."""
    now: tuple[str, ...]
    """Causes that slow the processor down at this moment."""
    since_boot: tuple[str, ...]
    """Causes that slowed it down at any time since the last boot."""


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """Clocks in MHz, heat in degrees Celsius, throttling and load at one moment; None where nothing tells."""

    clock_mhz: float | None
    """Clock of the fastest core."""
    clock_max_mhz: float | None
    """Highest clock that the cores may take."""
    governor: str | None
    """Name of the frequency governor, such as "ondemand"."""
    celsius: float | None
    """Temperature of the hottest thermal zone."""
    throttled: Throttling | None
    """Throttling flags of a Raspberry Pi's firmware."""
    throttle_events: int | None
    """Thermal throttle events that the processor has counted since boot."""
    cooling_state: int | None
    """Step at which the kernel's thermal governor caps the clock; 0 for no cap."""
    load: float | None
    """Load average of the last minute."""


@dataclass(frozen=True)
class Sample:
    """One point of the time series."""

    s: Seconds
    """Seconds since the timing began."""
    clock_mhz: float | None
    """Clock of the fastest core."""
    celsius: float | None
    """Temperature of the hottest thermal zone."""
    throttled: tuple[str, ...] | None
    """Causes that slow the processor down at this moment."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Clocks, heat, throttling and other load while rows were timed: `thermal` in report.json."""

    before: MachineState
    """State of the machine before the first timed round."""
    after: MachineState
    """State of the machine after the last timed round."""
    seconds: Seconds
    """Duration of the timing."""
    series: tuple[Sample, ...]
    """Samples of clock and temperature between the timed rounds."""
    throttled: tuple[str, ...] | None
    """What slowed the processor down meanwhile; None where nothing could tell."""
    cpus: Annotated[int, Meta(ge=1)]
    """CPUs that the process may use."""
    other_cpus: Annotated[float, Meta(ge=0)] | None
    """How many of them other processes kept busy, on average."""


@dataclass(frozen=True)
class SustainedLatency:
    """Milliseconds within one window of a sustained run."""

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
    """Latency over minutes: the first window and the last one, and the course between them."""

    seconds: Seconds
    """Duration of the sustained run."""
    window_s: Seconds
    """Length of the first and of the last window."""
    first: SustainedLatency
    """Latency within the first window."""
    last: SustainedLatency
    """Latency within the last window."""
    change: float
    """How much longer p50 is in the last window, as a share of the first."""
    series: tuple[SustainedPoint, ...]
    """Median latency over the whole run."""
