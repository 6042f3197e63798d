"""The limits of a report in words."""

from dataclasses import replace

import pytest

from edgekit.measure.gates import judge
from edgekit.measure.settings import Gates
from edgekit.report.sentences import limits, outcomes
from tests.helpers.reports import ROWS, row

STATED = Gates(max_drop=0.5, must_show_drop=True, min_speedup=1.2, needs_steady_timing=True)
WHOLE = "with its whole 95 % interval"


@pytest.mark.parametrize(
    ("gates", "loss", "speedup"),
    [
        (Gates(), "at most 1 point, as measured", f"more than 1x, {WHOLE}"),
        (STATED, f"at most 0.5 points, {WHOLE}", f"more than 1.2x, {WHOLE}"),
    ],
)
def test_limits_are_those_that_the_gates_had(gates: Gates, loss: str, speedup: str) -> None:
    judged = [judge(row(target), gates, random_weights=False) for target in ("onnx", "tflite")]
    assert limits(judged) == f"Limits: a loss of top-1 of {loss}; a speedup over float of {speedup}."


def test_gates_that_do_not_apply_have_no_limits() -> None:
    untimed = judge(row(), Gates(min_speedup=0), random_weights=True)
    assert (limits([untimed]), outcomes(untimed)) == ("", "")
    assert limits([replace(each, gates=()) for each in ROWS]) == ""
