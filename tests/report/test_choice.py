"""What to ship of several runs: the most accurate within a limit, a table of all, and a chart."""

from dataclasses import replace
from pathlib import Path

from edgekit.report.answer import Choice, choose, draw_choice
from edgekit.report.document import Recommendation, Report
from edgekit.report.page import lines_of, page_of
from edgekit.report.plot import render_svg
from tests.helpers.reports import RANDOM_MODEL, accuracy, latency, report, row

SMALL, LARGE = Path("runs/small"), Path("runs/large")


def run(p50: float, drop: float, **changes: object) -> Report:
    """A run that ships one bundle, `drop` points below 76.64 % on 10,000 images."""
    shipped = replace(row("onnx", "int8"), latency_ms=latency(p50), accuracy=accuracy(drop))
    return report(results=(shipped,), recommendation=Recommendation("local", shipped.bundle, "fastest."), **changes)


def text(choice: Choice) -> str:
    return "\n".join(map(str, lines_of(page_of(choice), 100)))


def test_the_most_accurate_run_within_the_limit_is_shipped() -> None:
    runs = {SMALL: run(3.0, 9.0), LARGE: run(8.0, 0.1)}
    assert choose(runs).ships == {"local": "large/onnx-int8"}
    assert choose(runs, 5.0).ships == {"local": "small/onnx-int8"}
    assert "Ship small/onnx-int8 (3.00 ms, top-1 67.64 %)" in text(choose(runs, 5.0))
    assert "--max-p50 MS chooses" in text(choose(runs))


def test_nothing_is_shipped_if_no_run_keeps_the_limit() -> None:
    choice = choose({SMALL: run(3.0, 9.0), LARGE: run(8.0, 0.1)}, 2.0)
    assert choice.ships == {"local": None}
    assert "2 ms is allowed" in text(choice)


def test_a_slower_run_whose_gain_is_noise_is_named() -> None:
    noise = text(choose({SMALL: run(3.0, 0.2), LARGE: run(8.0, 0.1)}))
    assert "large is slower than small, and on 10,000 images no more accurate beyond noise." in noise
    assert "beyond noise" not in text(choose({SMALL: run(3.0, 9.0), LARGE: run(8.0, 0.1)}))


def test_accuracies_of_random_weights_choose_nothing() -> None:
    choice = choose({SMALL: run(3.0, 9.0), LARGE: run(8.0, 0.1, model=RANDOM_MODEL)})
    assert choice.ships == {"local": None}
    assert "Nothing tells which model to ship" in text(choice)


def test_a_run_that_ships_nothing_keeps_its_row() -> None:
    failed = replace(run(3.0, 9.0), recommendation=Recommendation("local", None, "none passed."))
    choice = choose({SMALL: failed, LARGE: run(8.0, 0.1)})
    assert choice.ships == {"local": "large/onnx-int8"}
    assert "small/onnx-int8" in text(choice)
    assert [each.label for each in choice.results] == ["small/onnx-int8 on local", "large/onnx-int8 on local"]


def test_runs_of_one_name_have_their_paths() -> None:
    assert [*choose({Path("a/x"): run(3.0, 0.1), Path("b/x"): run(8.0, 0.1)}).reports] == ["a/x", "b/x"]


def test_the_chart_names_each_run_and_the_limit() -> None:
    picture = draw_choice(choose({SMALL: run(3.0, 9.0), LARGE: run(8.0, 0.1)}, 5.0))
    svg = render_svg(picture)
    assert ">small<" in svg
    assert ">large<" in svg
    assert picture.rows[0][0].marks[-1].places == [(5.0, 0), (5.0, 2)]
