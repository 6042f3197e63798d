"""Milliseconds of one inference by kind of operation and by layer, as the runtime's profiler reports them."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Milliseconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class TimedKind:
    """Time of all operations of one kind."""

    kind: str
    """The runtime's name for the kind of operation; "int8" or "float" follows it where it multiplies matrices."""
    ms: Milliseconds
    """Time of one inference, in milliseconds."""


@dataclass(frozen=True)
class TimedLayer:
    """Time of one layer that multiplies and accumulates."""

    name: str
    """Name of the layer."""
    kernel: str
    """The runtime's name for the kernel that ran."""
    int8: bool
    """Whether the kernel multiplies integers of at most 8 bits."""
    ms: Milliseconds
    """Time of one inference, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class TimeProfile:
    """Times of the operations of one inference at batch 1, from a few runs under the runtime's profiler."""

    kinds: tuple[TimedKind, ...] = ()
    """Kinds of operation, the slowest first; together they are the whole inference."""
    layers: tuple[TimedLayer, ...] = ()
    """Layers that multiply and accumulate, the slowest first; empty where the profiler does not tell them apart."""
    sum_ms: Milliseconds | None = None
    """Sum of the times of all kinds, in milliseconds; profiling adds time, so it may exceed the measured latency."""
    missing: str | None = None
    """Reason why the runtime gave no times; null where it did."""
