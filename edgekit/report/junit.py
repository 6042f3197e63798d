"""JUnit XML: a test case for each row and gate, or for each row and compared figure."""

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from edgekit.report.answer import decision
from edgekit.report.compare import Comparison, RowComparison, compared_figures, describe_change, regression
from edgekit.report.document import Report
from edgekit.report.figure import all_figures, main_figures
from edgekit.report.row import Gate, Judged
from edgekit.report.sentences import limits, warnings

Result = tuple[str, str, str]
"""The element that says why a test case did not pass ("failure", "error" or "skipped"), its message and its type."""

DECISION = "ship"
"""Name of the class of the test cases that say what to ship to each device."""
MEASURED = "measured"
"""Name of the test case of a row's measurement, which passes if the row has figures."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_of_report(report: Report) -> str:
    """JUnit XML of a report: doubts about the reference, the decision for each device, and the rows' test cases."""
    meaningful = report.model.accuracy_meaningful
    cases = [
        *_doubt_cases(warnings(report) if meaningful else ()),
        *_decision_cases(report),
        *(case for row in report.results for case in _row_cases(row, meaningful)),
    ]
    return _document(report.title, cases)


def junit_of_rows(title: str, rows: Sequence[Judged], meaningful: bool = True, doubts: Sequence[str] = ()) -> str:
    """JUnit XML of rows: whether each was measured, and the outcome of its gates.

    Doubts about the reference come first, each as a failure. A gate that failed or could not be confirmed is a failure,
    a row with an error is an error, and a gate that does not apply is skipped. `meaningful` is false for random
    weights.
    """
    of_rows = [case for row in rows for case in _row_cases(row, meaningful)]
    return _document(title, [*_doubt_cases(doubts), *of_rows])


def junit_of_comparison(comparison: Comparison) -> str:
    """JUnit XML of a comparison: a test case for each row's verdict, and for each figure that can be a regression."""
    slowdown = comparison.max_slowdown_percent
    other = ("failure", "; ".join(comparison.reasons), "inconclusive") if comparison.reasons else None
    cases = [case for row in comparison.results for case in _compared_cases(row, slowdown)]
    return _document("edgekit compare", [_case("runs", "comparable", other, []), *cases])


def _doubt_cases(doubts: Sequence[str]) -> Iterator[ElementTree.Element]:
    for doubt in doubts:
        yield _case("reference", "above-chance", ("failure", doubt, "inconclusive"), [])


def _decision_cases(report: Report) -> Iterator[ElementTree.Element]:
    """What to ship to each device, and what that gains and costs; skipped for nothing, since rows fail themselves."""
    for advice in report.recommendations:
        headline, *details = decision(report, advice)
        result = None if advice.bundle else ("skipped", headline, "nothing to ship")
        lines = [*(() if result else (headline,)), *details, limits(report.results)]
        yield _case(DECISION, str(advice.device), result, [line for line in lines if line])


def _row_cases(row: Judged, meaningful: bool) -> Iterator[ElementTree.Element]:
    lines = [f"{figure.title}: {figure.words(row, meaningful)}" for figure in main_figures([row], meaningful)]
    error = ("error", str(row.failure), row.failure.error) if row.failure else None
    of_gates = {reason for gate in row.gates for reason in gate.reasons}
    yield _case(row.label, MEASURED, error, lines + [note for note in row.notes if not error and note not in of_gates])
    for gate in row.gates:
        yield _case(row.label, gate.name, _outcome(gate), _measured(gate, row))


def _outcome(gate: Gate) -> Result | None:
    """The result of a gate that did not pass."""
    kind = "skipped" if gate.verdict == "skipped" else "failure"
    return None if gate.verdict == "pass" else (kind, "; ".join(gate.reasons), gate.verdict)


def _measured(gate: Gate, row: Judged) -> list[str]:
    """The measured figure and the limit, for a gate that applies; and the remarks on one that passed."""
    if gate.verdict == "skipped":
        return []
    remarks = gate.reasons if gate.verdict == "pass" else ()
    figures = [figure for figure in all_figures() if figure.path == gate.figure]
    return [*(f"{figure.title}: {figure.words(row)}; limit: {gate.limit:g}" for figure in figures), *remarks]


def _compared_cases(row: RowComparison, max_slowdown: float) -> Iterator[ElementTree.Element]:
    of_figures = {figure.title: regression(figure, row, max_slowdown) for figure in compared_figures()}
    others = [text for text in row.regressions if text not in of_figures.values()]
    verdicts = " -> ".join(verdict or "missing" for verdict in row.verdicts)
    yield _case(row.label, "verdict", ("failure", "; ".join(others), "fail") if others else None, [verdicts])
    for figure in compared_figures():
        change = row.changes.get(figure.csv_column)
        if change and (change.ci95 or figure.tolerance is not None):
            worse = of_figures[figure.title]
            result = ("failure", worse, "fail") if worse else None
            yield _case(row.label, figure.title, result, [describe_change(figure, change)])


def _case(row: str, name: str, result: Result | None, output: Sequence[str]) -> ElementTree.Element:
    """A test case of a row, which passes if it has no result. Its message is in both places where pipelines look."""
    case = ElementTree.Element("testcase", name=_clean(name), classname=_clean(row))
    if result:
        kind, message, type_ = result
        ElementTree.SubElement(case, kind, message=_clean(message), type=_clean(type_)).text = _clean(message)
    if output:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(output))
    return case


def _document(title: str, cases: Sequence[ElementTree.Element]) -> str:
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    counts = {name: sum(case.find(kind) is not None for case in cases) for name, kind in kinds.items()}
    totals = {name: str(count) for name, count in {"tests": len(cases), **counts, "time": 0}.items()}
    document = ElementTree.Element("testsuites", {"name": "edgekit", **totals})
    ElementTree.SubElement(document, "testsuite", {"name": _clean(title), **totals}).extend(cases)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(document, encoding="unicode")}\n'


def _clean(text: str) -> str:
    """Text without the control characters that XML can't represent, such as colours in a compiler's message."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
