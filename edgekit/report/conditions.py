"""What a machine was like while a row was timed, and what a sustained run showed."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Throttling:
    """What the firmware reports as slowing the processor down."""

    bits: int
    now: tuple[str, ...]
    since_boot: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """Clocks in MHz, heat in degrees Celsius, throttling and load at one moment; None where nothing tells."""

    clock_mhz: float | None
    clock_max_mhz: float | None
    governor: str | None
    celsius: float | None
    throttled: Throttling | None
    throttle_events: int | None
    cooling_state: int | None
    load: float | None


@dataclass(frozen=True)
class Sample:
    """One point of the time series."""

    s: Seconds
    """Seconds since the timing began."""
    clock_mhz: float | None
    celsius: float | None
    throttled: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Clocks, heat, throttling and other load while rows were timed: `thermal` in report.json."""

    before: MachineState
    after: MachineState
    seconds: Seconds
    series: tuple[Sample, ...]
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
    p90: float
    p99: float
    count: int


@dataclass(frozen=True)
class SustainedPoint:
    """One point of a sustained run's latency over time."""

    s: Seconds
    p50: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """Latency over minutes: the first window and the last one, and the course between them."""

    seconds: Seconds
    window_s: Seconds
    first: SustainedLatency
    last: SustainedLatency
    change: float
    """How much longer p50 is in the last window, as a share of the first."""
    series: tuple[SustainedPoint, ...]
