"""Which bundle to ship to each device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from edgekit.measure.gates import float_of
from edgekit.report.document import Recommendation
from edgekit.report.row import Row


def recommend(rows: Sequence[Row]) -> Recommendation:
    """Recommend a bundle for the first device, for which the bundles were made; `others` has one per other device."""
    names = list(dict.fromkeys(row.device.name for row in rows)) or ["local"]
    first, *others = [recommend_for(name, [row for row in rows if row.device.name == name]) for name in names]
    return replace(first, others=tuple(others))


def recommend_for(device: str, rows: Sequence[Row]) -> Recommendation:
    """Recommend the fastest bundle on one device, INT8 or float, among those that passed every gate."""
    if any(row.device.emulated for row in rows):
        return Recommendation(device, None, "emulated under QEMU, where timings are not comparable.")
    passed = [(*_fastest(row), row) for row in rows if row.verdict == "pass"]
    if not passed:
        return Recommendation(device, None, "no bundle passed its gates: see the rows' reasons.")
    p50, computed_in, best = min(passed, key=lambda candidate: (candidate[0], candidate[2].size_bytes))
    why = f"fastest of the {len(passed)} that passed: p50 {p50:.2f} ms"
    if best.speedup:
        why += f", {best.speedup.ratio:.2f}x its {float_of(best.speedup)}"
    why += f", {(best.size_bytes or 0) / 1e6:.2f} MB"
    if best.precision == "float":
        why += "; ship float: no int8 bundle that passed is faster"
    if computed_in:
        why += f" than float in {computed_in}, which edgekit.load(…, low_precision=True) chooses"
    others = [f"{row.target}-{row.precision}" for row in rows if row.verdict != "pass"]
    if others:
        why += f"; not passed: {', '.join(others)}"
    return Recommendation(device, best.bundle, why + ".")


def _fastest(row: Row) -> tuple[float, Literal["bf16", "f16"] | None]:
    """Shortest p50 in ms, and the number format that a float bundle needs for it if that isn't f32."""
    low, p50 = row.low_precision, row.latency_ms.p50 if row.latency_ms else float("inf")
    if low and low.verdict == "pass" and low.p50_ms < p50:
        return low.p50_ms, low.computes_in
    return p50, None
