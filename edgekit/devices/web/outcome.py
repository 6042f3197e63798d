"""The result of a measurement in a browser, in words for the page."""

from collections.abc import Sequence
from pathlib import Path

from edgekit.devices.web.page_messages import Shown
from edgekit.measure.evaluation import EvaluatedBundle
from edgekit.report.measurement import Measurement


def outcome(rows: Sequence[Measurement]) -> Shown:
    """What the page shows when its bundles are measured."""
    failed = [f"{row.name}: {row.failure.message}" for row in rows if row.failure]
    lines = [line for row in rows if (line := _line(row))]
    if failed:
        return Shown(state="failed", title="Not every bundle runs here", text="\n".join([*failed, *lines]))
    return Shown(state="done", title="Measured", text="\n".join([*lines, "The report is on the computer."]))


def evaluated(rows: Sequence[EvaluatedBundle]) -> Shown:
    """What the page shows when all bundles are evaluated."""
    lines = []
    for row in rows:
        if row.accuracy is not None:
            right, count = round(row.accuracy.top1 * row.accuracy.count), row.accuracy.count
            lines.append(f"{Path(row.bundle).name}: {right:,} of {count:,} images classified as labelled.")
        elif row.failure is not None:
            lines.append(f"{Path(row.bundle).name}: {row.failure.message}")
    return Shown(state="done", title="Evaluated", text="\n".join(lines))


def _line(row: Measurement) -> str | None:
    """Time, speed-up and agreement of a bundle."""
    if row.latency_ms is None:
        return None
    speedup = f": {row.speedup.ratio:.1f} times as fast as {Path(row.speedup.baseline).name}" if row.speedup else ""
    words = f"{Path(row.name).name} {row.latency_ms.p50:.1f} ms{speedup}"
    if row.accuracy is None:
        return f"{words}."
    same = round(row.accuracy.agreement * row.accuracy.count)
    return f"{words}; {same:,} of {row.accuracy.count:,} answers as torch's."
