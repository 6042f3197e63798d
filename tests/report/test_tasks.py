"""What the outputs of a report say about networks that tell several labels, or give vectors."""

import base64
import re

import pytest

from edgekit.report.formats import render_card, summary_of_report
from edgekit.report.html import render_html, shown_images
from edgekit.report.sentences import steps_in_report
from tests.helpers.page import Page
from tests.helpers.reports import answered, report
from tests.helpers.task_reports import F1, TASK_REPORTS, embedding, multi_label

METRICS = {"multi-label": "mAP", "embedding": "nearest-neighbour top-1", "without labels": "nearest-neighbour top-1"}


@pytest.mark.parametrize("task", TASK_REPORTS)
def test_every_output_names_the_metric_of_the_task(task: str) -> None:
    whole, metric = TASK_REPORTS[task], METRICS[task]
    for text in (answered(whole), summary_of_report(whole), render_card(whole)):
        words = " ".join(text.split())
        assert re.search(f"{metric} is 76.55 % instead of 76.64 %", words, re.IGNORECASE)
        assert "top-5" not in words
        assert "score" not in words
    page = Page(render_html(whole)).words
    assert f"a loss of {metric} of at most 1 point" in page
    assert "top-5" not in page


@pytest.mark.parametrize("task", TASK_REPORTS)
def test_the_answer_fits_80_columns(task: str) -> None:
    lines = answered(TASK_REPORTS[task]).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("76.55" in line and "0.09 (-0.11 to 0.29)" in line for line in lines) == 1, "no column is left out"


def test_the_other_figures_of_a_task_are_in_the_answer_and_on_the_page() -> None:
    for text in (answered(multi_label()), render_html(multi_label())):
        assert "F1: 0.8123, in float 0.8150" in " ".join(text.split())
    for text in (answered(embedding()), render_html(embedding())):
        assert "5th percentile of the cosine: 0.9921; overlap of the 10 nearest: 0.8710" in " ".join(text.split())


def test_the_page_shows_f1_of_each_label() -> None:
    assert "F1, %" in render_html(multi_label())
    in_float, in_int8 = (f"{100 * value:.1f}" for value in F1)
    assert f"class 0100 images{in_float}{in_int8}" in Page(render_html(multi_label())).words


def test_the_page_shows_the_neighbours_of_float_and_int8_side_by_side() -> None:
    names = [name for n in range(3) for name in (f"cat/{n}.png", f"cat/{n + 100}.png", f"dog/{n + 50}.png")]
    assert list(shown_images(embedding())) == names
    page = Page(render_html(embedding(), {name: name.encode() for name in (*names, "other.png")}))
    sources = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert [base64.b64decode(source.partition(",")[2]).decode() for source in sources] == names
    assert "imagecat/0.pngnearest in floatcat/100.pngnearest in int8dog/50.png" in page.words.replace(" image", "image")
    assert "21 of 500 flipped; right in float: 450, in int8: 447" in page.words
    assert "Without labels" not in page.words
    without = Page(render_html(embedding(""))).words
    assert "Without labels, float's neighbour is the right one." in without
    assert "all images 21 of 500 flipped" in without


def test_an_embedding_is_tried_on_a_folder() -> None:
    commands = [step.command for step in steps_in_report(embedding())]
    assert commands[0][1:] == ("classify", "RUN/openvino-int8", "IMAGE", "--data", "FOLDER")
    assert "--data" not in steps_in_report(multi_label())[0].command


def test_model_hubs_know_the_task() -> None:
    for whole, task in ((embedding(), "image-feature-extraction"), (multi_label(), "image-classification")):
        assert f"pipeline_tag: {task}" in render_card(whole)
    assert "pipeline_tag: image-classification" in render_card(report())
