"""Energy of an inference, and throughput of several streams."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one inference, net of the idle machine; figures are null where no sensor could be read."""

    inference_mj: float | None
    source: str
    """Sensor that was read, or the reason why the energy is unknown."""
    idle_w: NotNegative | None = None
    """Mean power before the timing, in watts."""
    load_w: NotNegative | None = None
    """Mean power while only this bundle ran, in watts."""
    seconds: NotNegative | None = None
    """Duration of that load, in seconds."""
    inferences: Positive | None = None
    """Number of inferences during that load."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images per second of several streams side by side, each with its own session of the bundle."""

    streams: Positive
    """Number of streams."""
    threads: Positive
    """Number of threads that each stream's session computes with."""
    images_per_second: NotNegative
    p50_ms: NotNegative
    """Median latency of one inference while all streams run, in milliseconds."""
    p99_ms: NotNegative
    count: Positive
    """Number of timed inferences of all streams."""
