"""Heat, clocks and what else went on while a row was timed, in words: a row's `thermal` and `sustain`."""

from collections.abc import Iterator, Mapping
from typing import Any

LINES = 10
"""Of a time series in the terminal."""


def heat_words(thermal: Mapping[str, Any] | None) -> str:
    """One line; only what was found out."""
    if not thermal:
        return ""
    series = thermal.get("series", ())
    throttled, other = thermal.get("throttled"), thermal.get("other_cpus")
    parts = [
        _range([each["celsius"] for each in (thermal.get("before") or {}, *series) if "celsius" in each], "°C"),
        _range([each["clock_mhz"] for each in series], "MHz"),
        None if throttled is None else f"throttled: {', '.join(throttled)}" if throttled else "not throttled",
        None if other is None else f"other processes on {other:.1f} of {thermal['cpus']} CPUs",
    ]
    return ", ".join(filter(None, parts))


def sustain_lines(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """The first and the last minute of a sustained run, then its course."""
    found, thermal = row["sustain"], row.get("thermal") or {}
    minute = "minute" if found["window_s"] >= 60 else f"{found['window_s']:.0f} s"
    first, last = found["first"], found["last"]
    yield (
        f"{name}: sustained for {found['seconds']:.0f} s: first {minute} p50 {first['p50']:.2f} ms "
        f"(n = {first['count']:,}), last {minute} p50 {last['p50']:.2f} ms (n = {last['count']:,}), "
        f"{found['change']:+.1%}"
    )
    if words := heat_words(thermal):
        yield f"  {words}"
    points = found["series"]
    chosen = points[:: -(-len(points) // LINES)]
    for point in chosen:
        near: Mapping[str, Any] = min(
            thermal.get("series", ()), key=lambda each: abs(each["s"] - point["s"]), default={}
        )
        more = [
            None if near.get("clock_mhz") is None else f"{near['clock_mhz']:.0f} MHz",
            None if near.get("celsius") is None else f"{near['celsius']:.0f} °C",
            ", ".join(near.get("throttled") or ()),
        ]
        yield "  ".join(filter(None, (f"  {point['s']:7.0f} s", f"p50 {point['p50']:.2f} ms", *more)))


def _range(values: list[float | None], unit: str) -> str | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = f"{min(known):.0f}", f"{max(known):.0f}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
