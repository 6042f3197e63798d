"""Which bundle to ship to each device."""

from collections.abc import Sequence
from dataclasses import replace

from edgekit.measure.baselines import F32
from edgekit.measure.finals import Candidate, Finals, candidate
from edgekit.measure.gates import float_of, unsteady
from edgekit.report.document import Recommendation
from edgekit.report.row import Row

APART = 1.05
"""Ratio up to which bundles tie that were not timed in turns. The place of a session in memory alone makes as much."""
AS_SMALL = 1.05
"""Ratio of sizes up to which the more accurate of two bundles is shipped, and not the smaller one."""


def recommend(rows: Sequence[Row], finals: Finals | None = None) -> Recommendation:
    """Recommend a bundle for the first device, for which the bundles were made; `others` has one per other device.

    `finals` has the times in turns of the finalists on this machine.
    """
    names = list(dict.fromkeys(row.device.name for row in rows)) or ["local"]
    first, *others = [
        recommend_for(name, [row for row in rows if row.device.name == name], finals if name == "local" else None)
        for name in names
    ]
    return replace(first, others=tuple(others))


def recommend_for(device: str, rows: Sequence[Row], finals: Finals | None = None) -> Recommendation:
    """Recommend the fastest bundle on one device, INT8 or float, among those that passed every gate.

    Of several that can't be told apart, it is the smallest or, if they are as small, the most accurate.
    """
    if any(row.device.emulated for row in rows):
        return Recommendation(device, None, "emulated under QEMU, where timings are not comparable.")
    passed = [candidate(row) for row in rows if row.verdict == "pass"]
    if not passed:
        return Recommendation(device, None, "no bundle passed its gates: see the rows' reasons.")
    tied = _fastest(passed, finals)
    best = shipped_of(tied)
    why = f"fastest of the {len(passed)} that passed: {_words(best, finals)}"
    if len(tied) > 1:
        others = ", ".join(f"{each.name} ({_words(each, finals)})" for each in tied if each is not best)
        turns = "timed in turns" if finals and best.name in finals.results else "not timed in turns"
        smaller = best.row.size_bytes == min(each.row.size_bytes or 0 for each in tied)
        quality = "smallest" if smaller else "most accurate of the small ones"
        why = f"{_words(best, finals)}; {turns}, it can't be told from {others} in speed, and is the {quality}"
    if best.row.precision == "float":
        why += "; ship float: no int8 bundle that passed is faster"
        if best.computes_in != F32:
            why += f" than float in {best.computes_in}, which edgekit.load(…, low_precision=True) chooses"
    doubts = finals.unreliable if finals and best.name in finals.results else unsteady(best.row)
    why += "".join(f"; {doubt}" for doubt in doubts)
    others_missed = [f"{row.target}-{row.precision}" for row in rows if row.verdict != "pass"]
    if others_missed:
        why += f"; not passed: {', '.join(others_missed)}"
    return Recommendation(device, best.row.bundle, why + ".")


def _fastest(passed: Sequence[Candidate], finals: Finals | None) -> list[Candidate]:
    """The fastest bundle, and those of other runtimes that tie with it."""
    if finals and len(finals.results) > 1:
        return [each for each in passed if each.name in finals.results and finals.results[each.name].ties]
    best = min(passed, key=lambda each: (each.p50_ms, each.row.size_bytes))
    near = [each for each in passed if each.row.target != best.row.target and each.p50_ms <= APART * best.p50_ms]
    return [best, *near]


def shipped_of(tied: Sequence[Candidate]) -> Candidate:
    """The smallest of bundles that are equally fast or, among those as small, the most accurate."""
    least = AS_SMALL * min(each.row.size_bytes or 0 for each in tied)
    small = [each for each in tied if (each.row.size_bytes or 0) <= least]

    def rank(each: Candidate) -> tuple[float, float, int]:
        accuracy = each.row.accuracy
        return (-accuracy.top1, -accuracy.agreement, each.row.size_bytes or 0) if accuracy else (0, 0, 0)

    return min(small, key=rank)


def _words(each: Candidate, finals: Finals | None) -> str:
    """The figures of a bundle: its median, in turns with the other finalists if there was a final."""
    final = finals.results.get(each.name) if finals else None
    p50, speedup = final.p50_ms if final else each.p50_ms, each.row.speedup
    faster = f", {speedup.ratio:.2f}x its {float_of(speedup)}" if speedup else ""
    return f"p50 {p50:.2f} ms{faster}, {(each.row.size_bytes or 0) / 1e6:.2f} MB"
