"""A search as a picture and as sentences."""

from dataclasses import replace

from edgekit.report.recipe_search import draw_tuning, lines
from tests.helpers.searches import search, trial, unmeasured_trial


def test_a_sentence_for_each_target() -> None:
    (line,) = lines(search())
    assert line.startswith("onnx: 2 recipes tried on 500 tuning images")
    for piece in (
        "a drop of at most 1 point and",
        "more than 1x",
        "histogram, SmoothQuant, fast bias correction",
        "2.00x",
    ):
        assert piece in line
    assert "No trial" not in line


def test_a_search_in_which_no_trial_met_the_bounds() -> None:
    whole = search()
    target = replace(whole.targets[0], trials=(trial(0, met=False),), best=0)
    (line,) = lines(replace(whole, targets=(target,), min_speedup=0.0))
    assert "No trial met these bounds" in line
    assert "more than 0x" not in line


def test_a_search_in_which_no_trial_is_complete() -> None:
    whole = search()
    failed = unmeasured_trial(0, state="fail", reason="no such operation")
    nothing = replace(whole, targets=(replace(whole.targets[0], trials=(failed,), front=(), best=None),))
    (line,) = lines(nothing)
    assert line.startswith("onnx: no trial")
    svg, words = draw_tuning(nothing)
    assert "chosen" not in svg
    assert words == line


def test_picture() -> None:
    svg, words = draw_tuning(search())
    for label in ("trial", "Pareto front", "chosen", "bound", "onnx"):
        assert f">{label}<" in svg
    assert words == lines(search())[0]
    whole_file, _ = draw_tuning(search(), standalone=True)
    assert whole_file.startswith("<?xml")
