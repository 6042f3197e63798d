"""The limits that decided about the verdicts of a report, in words."""

from collections.abc import Iterable

from edgekit.report.figure import points
from edgekit.report.gate import Gate
from edgekit.report.row import Row


def limits(rows: Iterable[Row]) -> str:
    """The limits that gates held the rows against, in a sentence; empty where none applied."""
    applied = (gate for row in rows for gate in row.gates if gate.verdict != "skipped" and gate.limit is not None)
    words = list(dict.fromkeys(map(_words, applied)))
    return f"Limits: {'; '.join(words)}." if words else ""


def outcomes(row: Row) -> str:
    """The outcome of each gate that applied to a row; empty where none did."""
    return ", ".join(f"{gate.name}: {gate.verdict}" for gate in row.gates if gate.verdict != "skipped")


def _words(gate: Gate) -> str:
    limit = gate.limit or 0.0
    judged = {True: ", with its whole 95 % interval", False: ", as measured", None: ""}[gate.whole_interval]
    if gate.name == "max-drop":
        return f"a loss of top-1 of at most {points(limit)}{judged}"
    return f"a speedup over float of more than {limit:g}x{judged}"
