"""JUnit XML: the test cases and their outcomes, read back with the library that pipelines' tools are tested with."""

from dataclasses import replace

from junitparser import JUnitXml, TestCase

from edgekit.measure.evaluation import EvaluatedBundle
from edgekit.report.answer import decision
from edgekit.report.compare import compare_runs
from edgekit.report.document import Recommendation
from edgekit.report.formats import DECISION, MEASURED, junit_of_comparison, junit_of_report, junit_of_rows
from edgekit.report.row import Failure
from edgekit.report.sentences import limits
from tests.helpers.reports import (
    BEST,
    FAILED,
    ROWS,
    accuracy,
    device,
    failed_row,
    gates,
    latency,
    report,
    report_with,
    row,
)

LOST = 5
"""Index in ROWS of tflite-int8, whose drop fails."""


def cases(text: str) -> dict[tuple[str, str], TestCase]:
    """The test cases by the row and the name."""
    (suite,) = JUnitXml.fromstring(text.encode())
    found = {(case.classname, case.name): case for case in suite}
    assert len(found) == len(list(suite)), "two test cases have the same name"
    assert suite.tests == len(found)
    return found


def outcome(case: TestCase) -> tuple[str, str]:
    """The kind of the result and its message, which its text repeats; nothing for a pass."""
    if not case.result:
        return "pass", ""
    (result,) = case.result
    assert result.text == result.message
    return type(result).__name__, result.message


def test_each_row_and_gate_is_a_test_case() -> None:
    found = cases(junit_of_rows("convnextv2_atto", ROWS))
    of_best = {name: outcome(case)[0] for (label, name), case in found.items() if label == ROWS[BEST].label}
    assert of_best == {"measured": "pass", "max-drop": "pass", "min-speedup": "pass"}
    assert "steady-timing does not apply: " in found[ROWS[BEST].label, MEASURED].system_out
    drop = found[ROWS[BEST].label, "max-drop"]
    assert drop.system_out == "loss: 0.09 [-0.11, 0.29] points; limit: 1"
    assert "p50: 7.70 ms\n" in found[ROWS[BEST].label, MEASURED].system_out
    assert outcome(found[ROWS[FAILED].label, MEASURED]) == ("Error", ROWS[FAILED].reasons[0])
    assert outcome(found[ROWS[LOST].label, "max-drop"]) == ("Failure", ROWS[LOST].reasons[0])
    assert found[ROWS[FAILED].label, MEASURED].system_out is None
    assert ROWS[LOST].reasons[0] not in found[ROWS[LOST].label, MEASURED].system_out
    assert sum(label == ROWS[FAILED].label for label, _ in found) == 1


def test_a_report_begins_with_the_decision_for_each_device() -> None:
    pi = [replace(each, device=device("pi")) for each in ROWS[:2]]
    both = Recommendation("local", "openvino-int8", "fastest", (Recommendation("pi", None, "no bundle passed."),))
    whole = report(results=(*ROWS, *pi), recommendation=both)
    (suite,) = JUnitXml.fromstring(junit_of_report(whole).encode())
    assert suite.name == whole.title
    found = list(suite)
    local, other = found[:2]
    assert [(case.classname, case.name) for case in (local, other)] == [(DECISION, "local"), (DECISION, "pi")]
    assert local.system_out.splitlines() == [*decision(whole, both), limits(whole.results)]
    assert outcome(local) == ("pass", "")
    assert outcome(other) == ("Skipped", decision(whole, both.others[0])[0])
    rest = list(cases(junit_of_rows("x", whole.results)))
    assert [(case.classname, case.name) for case in found[2:]] == rest


def test_a_gate_that_could_not_be_confirmed_fails_only_where_the_row_does() -> None:
    unconfirmed = ("cannot confirm a drop of at most 1 point",)
    stated, remark = (row(gates=gates(verdict, unconfirmed)) for verdict in ("inconclusive", "pass"))
    (result,) = cases(junit_of_rows("x", [stated]))[stated.label, "max-drop"].result
    assert (result.type, result.message) == ("inconclusive", unconfirmed[0])
    passed = cases(junit_of_rows("x", [remark]))[stated.label, "max-drop"]
    assert outcome(passed)[0] == "pass"
    assert passed.system_out.endswith(unconfirmed[0])


def test_random_weights_have_no_accuracy() -> None:
    found = cases(junit_of_rows("x", [ROWS[BEST]], meaningful=False))
    assert "top-1" not in found[ROWS[BEST].label, MEASURED].system_out


def test_messages_may_have_what_xml_can_not_represent() -> None:
    failure = Failure("compile", "CompileError", "\x1b[31m<refused> & \x00 \ud800 ü \U0001f4a5\x1b[0m")
    found = cases(junit_of_rows("a <b> & \x01", [failed_row(failure=failure)]))
    (case,) = found.values()
    assert outcome(case)[1] == "compile: �[31m<refused> & � � ü \U0001f4a5�[0m"


def test_evaluations_have_no_gates() -> None:
    failure = Failure("evaluate", "EngineError", "gone")
    rows = [
        EvaluatedBundle(bundle="runs/a", accuracy=accuracy(), verdict="pass"),
        EvaluatedBundle(bundle="runs/b", verdict="error", reasons=(str(failure),), failure=failure),
    ]
    found = cases(junit_of_rows("edgekit evaluate", rows))
    assert {key: outcome(case)[0] for key, case in found.items()} == {
        ("runs/a", MEASURED): "pass",
        ("runs/b", MEASURED): "Error",
    }
    assert "top-1: 76.55 %" in found["runs/a", MEASURED].system_out


def test_a_comparison_has_a_test_case_for_each_figure() -> None:
    worse = report_with(BEST, accuracy=accuracy(0.5, (0.3, 0.7)), verdict="fail", reasons=("lost",))
    comparison = compare_runs(report(), worse)
    found = cases(junit_of_comparison(comparison))
    failures = {key: outcome(case)[1] for key, case in found.items() if outcome(case)[0] == "Failure"}
    label = ROWS[BEST].label
    assert failures.keys() == {(label, "verdict"), (label, "loss")}
    assert sorted(f"{label}: {message}" for message in failures.values()) == sorted(comparison.regressions)
    assert outcome(found[label, "size"])[0] == "pass"
    assert outcome(found[label, "p50"])[0] == "pass"
    assert (label, "peak") not in found, "without an interval it is never a regression"
    slow = compare_runs(report(), report_with(BEST, latency_ms=latency(8.4)), max_slowdown=5)
    assert outcome(cases(junit_of_comparison(slow))[label, "p50"])[0] == "Failure"


def test_a_row_that_is_missing_fails() -> None:
    found = cases(junit_of_comparison(compare_runs(report(), report(results=ROWS[:FAILED]))))
    assert outcome(found[ROWS[LOST].label, "verdict"]) == ("Failure", "missing in the second run")
    same = cases(junit_of_comparison(compare_runs(report(), report())))
    assert {outcome(case)[0] for case in same.values()} == {"pass"}


def test_rows_of_several_devices_have_their_own_test_cases() -> None:
    pi = [replace(each, device=device("pi")) for each in ROWS[:2]]
    assert {label for label, _ in cases(junit_of_rows("x", [*ROWS[:2], *pi]))} == {
        "openvino-float on local",
        "openvino-int8 on local",
        "openvino-float on pi",
        "openvino-int8 on pi",
    }
