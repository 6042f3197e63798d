"""The table for a terminal: columns that fit, and a sentence for each row that did not pass."""

import re
import sys

import pytest

from edgekit.errors import MissingExtraError
from edgekit.report.answer import decision
from edgekit.report.document import Recommendation
from edgekit.report.figure import table_figures
from edgekit.report.times import Energy
from edgekit.support.distribution import install_command
from tests.helpers.refusals import refuses
from tests.helpers.reports import BEST, ENERGY, FAILED, RANDOM_MODEL, device, printed, report, report_with


def cells(text: str, bundle: str) -> list[str]:
    """The cells of one row of a table without line breaks."""
    (line,) = (line for line in text.splitlines() if re.match(rf"{bundle} {{2,}}", line))
    return re.split(r"\s{2,}", line.strip())


def test_table_at_160_columns() -> None:
    text = printed(report(), 160)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 160
    assert lines[0].startswith("convnextv2_atto (timm, weights fcmae_ft_in1k): 3.71 M parameters, 0.55 GMAC")
    assert cells(text, "openvino-int8") == [
        "openvino-int8", "4.3", "76.55", "0.09 [-0.11, 0.29]", "98.5", "7.70", "8.09", "9.24", "1.88 [1.86, 1.90]",
        "96", "30", "121", "10.80", "33.4", "93.04", "pass",
    ]  # fmt: skip
    assert "onnx-int8: error: compile: onnxruntime refused node 'MatMul_3' [opset 21]." in lines
    assert "tflite-int8: fail: drop of 1.31 points is more than --max-drop 1.0." in lines
    headline, *details = decision(report(), report().recommendation)
    assert lines[-2:] == [headline, " ".join(details)]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 200])
def test_columns_that_do_not_fit_are_dropped_and_named(width: int) -> None:
    text = printed(report(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    hidden = re.search(r"Hidden at this width: (.*) \(report\.html and", " ".join(text.split()))
    dropped = hidden[1].split(", ") if hidden else []
    ranks = {figure.title: figure.rank or 0 for figure in table_figures(report().results)}
    shown = ranks.keys() - set(dropped)
    assert "p50" in shown
    assert [ranks[title] for title in dropped] == sorted((ranks[title] for title in dropped), reverse=True)
    assert max(ranks[title] for title in shown) <= min((ranks[title] for title in dropped), default=99)
    assert bool(dropped) == (width < 200)
    head = " ".join(text.split("───")[0].splitlines()[-4:]).split()
    assert {"bundle", "verdict", *(word for title in shown for word in title.split())} <= set(head)
    if width >= 80:
        assert {"top-1", "drop", "speedup"} <= shown
        assert "[-0.11, 0.29]" in text
        assert "[1.86, 1.90]" in text


def test_table_with_random_weights_has_no_accuracy() -> None:
    text = printed(report(model=RANDOM_MODEL), 160)
    assert "Accuracy is meaningless: the weights are random." in text
    assert "76.55" not in text
    assert cells(text, "openvino-int8")[:6] == ["openvino-int8", "4.3", "n/a", "n/a", "n/a", "7.70"]
    assert cells(text, "onnx-int8")[1:4] == ["–", "–", "–"], "nothing was measured"  # noqa: RUF001


def test_energy_has_a_column_where_a_row_has_it() -> None:
    assert "energy" not in printed(report(), 200)
    assert "energy" not in printed(report_with(BEST, energy=Energy(inference_mj=None, source="no sensor")), 200)
    text = printed(report_with(BEST, energy=ENERGY), 200)
    assert "energy" in text
    assert "41.25" in cells(text, "openvino-int8")
    assert "–" in cells(text, "onnx-float")  # noqa: RUF001


def test_table_of_several_devices() -> None:
    text = printed(report_with(FAILED, device=device("pi")), 160)
    assert cells(text, "onnx-int8")[:2] == ["onnx-int8", "pi"]
    assert "onnx-int8 on pi: error" in text


def test_an_emulated_device_is_marked() -> None:
    text = printed(report_with(2, device=device("pi", emulated=True)), 200)
    assert "Emulated by QEMU: pi." in text
    assert cells(text, "onnx-float")[:2] == ["onnx-float", "pi (emulated)"]
    assert "Emulated by QEMU" not in printed(report(), 200)


def test_remarks_on_rows_that_passed_are_shown() -> None:
    text = printed(report_with(BEST, remarks=("slower when hot",)), 160)
    assert "openvino-int8: pass: slower when hot." in text.splitlines()


def test_table_with_nothing_to_ship() -> None:
    nothing = Recommendation("local", None, "no row passed", (Recommendation("pi", "onnx-int8", "fastest"),))
    lines = printed(report(recommendation=nothing), 80).splitlines()
    assert lines[-2:] == ["Ship nothing: no row passed.", "Ship onnx-int8 on pi: fastest."]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with refuses(MissingExtraError, install_command("cli")):
        printed(report(), 80)
