"""report.html: the page is self-contained, and the recommendation comes first."""

import base64
import re
import sys
from dataclasses import replace
from typing import Literal

import pytest

from edgekit.errors import MissingExtraError
from edgekit.report.answer import alerts, decision
from edgekit.report.document import Lookalike, Recommendation, origin, provenance
from edgekit.report.figure import table_figures
from edgekit.report.html import render_html
from edgekit.report.plot import templates
from edgekit.report.row import Bound, Energy, Int8, LowPrecision
from edgekit.support.libraries import install_command
from tests.helpers.page import Page
from tests.helpers.refusals import refuses
from tests.helpers.reports import (
    BEST,
    CHANGES,
    ENERGY,
    FAILED,
    PREPROCESSING,
    RANDOM_MODEL,
    ROWS,
    accuracy,
    by_class,
    device,
    failed_row,
    report,
    report_with,
)
from tests.helpers.sensitivities import sensitivity


def test_the_facts_of_a_device_are_those_of_a_row_that_has_them() -> None:
    """The first row may have failed before anything was known about the device."""
    unknown = device(cpu=None, cores=None, memory_bytes=None, device_class=None)
    rows = (failed_row(device=unknown), ROWS[BEST], failed_row("tflite", device=unknown))
    whole = report(results=rows)
    assert whole.facts_of("local") == device()
    assert origin(whole).startswith("Measured on AMD EPYC; ")
    assert provenance(whole)["Device local"].startswith("AMD EPYC, class x86-64-v4, cores: 2, memory: 8.00 GiB")
    assert "nknown processor" not in render_html(whole)
    assert whole.facts_of("local") == report(results=rows[::-1]).facts_of("local")
    nothing = report(results=(failed_row(device=unknown),))
    assert origin(nothing).startswith("Measured on an unknown processor; ")


JPEG = b"\xff\xd8 the bytes of a small image"


def tables_of(page: Page) -> tuple[list[str], list[str]]:
    """Names of the bundles in the two tables of results."""
    names = [attributes.get("data-value") for tag, attributes in page.elements if tag == "th"]
    bundles = [name for name in names if name]
    int8 = [name for name in bundles if name.endswith("int8")]
    assert bundles[: len(int8)] == int8
    return int8, bundles[len(int8) :]


def details_of(html: str) -> list[bool]:
    """Whether each fold of the page is open."""
    return ["open" in attributes for tag, attributes in Page(html).elements if tag == "details"]


def test_page_is_self_contained() -> None:
    whole = report_with(BEST, accuracy=accuracy(changes=CHANGES))
    html = render_html(replace(whole, sensitivity=sensitivity()), {"cat/0007.jpg": JPEG})
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert all(value.startswith("#") for key, value in attributes.items() if value and key.endswith("href"))
    assert {tag for tag, _ in page.elements} >= {"main", "h1", "table", "svg", "figure", "script"}
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in heads)
    assert "aria-sort" in html


def test_the_recommendation_comes_first() -> None:
    text = Page(render_html(report())).words
    places = [
        text.index(heading) for heading in ("Ship openvino-int8: 7.70 ms", "Results", "Accuracy against", "Provenance")
    ]
    assert places == sorted(places)
    for piece in (
        "10,000 images",
        "200 timed runs",
        "n = 200 runs, threads: 1",
        "0.09-0.11 to 0.29",
        "1 unreadable",
        "48 to 53 °C, 2400 MHz, not throttled, other processes used 0.1 of 4 CPUs",
        "57 right to wrong, 48 wrong to right of 10,000 images, McNemar p = 0.43",
        "onnx-int8 has an error: compile: onnxruntime refused node",
        "tflite-int8 failed: drop of 1.31 points",
    ):
        assert piece in text


def test_page_shows_the_sensitivity() -> None:
    without, text = (Page(render_html(whole)).words for whole in (report(), report(sensitivity=sensitivity())))
    assert "Sensitivity of the layers" in text
    assert "Sensitivity of the layers" not in without


def test_page_describes_problems_of_the_images() -> None:
    whole = report()
    calibration = replace(whole.calibration, doubts=("12 calibration images are few",))
    evaluation = replace(whole.evaluation, copies_left_out=("a", "b"), lookalikes=(Lookalike("c", "d"),))
    text = Page(render_html(replace(whole, calibration=calibration, evaluation=evaluation))).words
    assert "recipe convnextv2, seed 0; 12 calibration images are few" in text
    assert "2 copies of calibration images left out, 1 similar" in text


def test_page_shortens_long_lists_of_layers() -> None:
    names = tuple(f"stages.{index}" for index in range(20))
    int8 = Int8(share_of_macs=0.5, method="executed graph", float_layers=names, simulated=False)
    text = Page(render_html(report_with(BEST, int8=int8))).words
    assert "stages.6, stages.7 and 12 more" in text
    assert "stages.8" not in text


@pytest.mark.parametrize(("verdict", "is_over"), [("pass", False), ("fail", True), (None, False)])
def test_page_shows_the_drop_in_low_precision(verdict: Literal["pass", "fail"] | None, is_over: bool) -> None:
    low = LowPrecision(computes_in="bf16", accuracy=accuracy(0.4), p50_ms=6.0)
    html = render_html(report_with(0, low_precision=replace(low, verdict=verdict)))
    assert "bf16: p50 6.00 ms, drop 0.40 points, agreement 98.5%" in html
    assert ("exceeds the limit" in html) is is_over


def test_page_shows_the_energy_and_its_source() -> None:
    text = Page(render_html(report_with(BEST, energy=ENERGY))).words
    assert "41.25 mJ per inference (6.50 W under load, 2.75 W idle, from vcgencmd pmic_read_adc)" in text
    text = Page(render_html(report_with(BEST, energy=Energy(inference_mj=None, source="unknown: no sensor")))).words
    assert "unknown: no sensor" in text
    assert "mJ" not in text


def test_page_shows_what_int8_changed_class_by_class() -> None:
    whole = report_with(BEST, accuracy=accuracy(changes=CHANGES))
    text = Page(render_html(whole)).words
    cat = "cat 42 of 1,000 flipped; right in float: 800, in int8: 780 cat → dogcat/0007.jpg fox → catcat/0009.jpg"
    assert cat in text
    assert text.index(cat) < text.index("dog 11 of ")
    assert "more classes" not in text
    many = tuple(replace(CHANGES[1], label=f"class {index}") for index in range(13))
    text = Page(render_html(report_with(BEST, accuracy=accuracy(changes=many)))).words
    assert "3 more classes are in report.json." in text
    assert "class 10" not in text
    for other in (report(), replace(whole, model=RANDOM_MODEL)):
        assert "Predictions that INT8 changed" not in Page(render_html(other)).words


def test_the_first_box_is_the_answer_of_the_terminal() -> None:
    for whole in (report(), report(results=(ROWS[FAILED],), recommendation=Recommendation("local", None, "none"))):
        text = Page(render_html(whole)).words
        assert " ".join(decision(whole, whole.recommendation)) in text
        assert all(alert in text for alert in alerts(whole))


def test_float_rows_are_folded() -> None:
    tables, folded = tables_of(Page(render_html(report())))
    assert tables == ["openvino-int8", "onnx-int8", "tflite-int8"]
    assert folded == ["openvino-float", "onnx-float", "tflite-float"]
    shipped = report(recommendation=Recommendation("local", "onnx-float", "fastest"))
    opened, folded_floats = (details_of(render_html(whole)) for whole in (shipped, report()))
    assert (sum(opened), sum(folded_floats)) == (1, 0)


def test_the_meaning_of_each_figure_is_on_the_page_and_not_in_a_tooltip() -> None:
    page = Page(render_html(report()))
    assert all(figure.meaning in page.words for figure in table_figures(ROWS))
    assert not any("title" in attributes for _, attributes in page.elements)


def test_a_row_has_six_columns_and_a_fold_with_the_other_figures() -> None:
    page = Page(render_html(report()))
    heads = [attributes for tag, attributes in page.elements if tag == "th" and attributes.get("scope") == "col"]
    assert len(heads) == 2 * 7, "the bundle's name, the verdict, p50, speedup, loss, size and int8, also of float"
    fold = page.words.partition("More on openvino-int8")[2].partition("More on")[0]
    for piece in ("top-176.55 %", "agreement98.5 %", "p999.24 ms", "end to end", "Gatesmax-drop: pass"):
        assert piece in fold
    assert "images" not in [figure.title for figure in table_figures(ROWS)], "one number for all rows is in the caption"


def test_the_line_of_a_loss_has_zero_the_limit_the_interval_and_the_value() -> None:
    confirmed, straddling, lost = (
        report_with(BEST, accuracy=replace(accuracy(drop, ends), bound=Bound(1.0, ends[1] <= 1, None)))
        for drop, ends in ((0.1, (-0.2, 0.4)), (0.9, (0.4, 1.4)), (1.6, (1.2, 2.0)))
    )
    for whole, colour in ((confirmed, "pass"), (straddling, "series-1"), (lost, "fail")):
        line = re.search(
            r'<svg class="interval".*?aria-label="([^"]*, limit 1)".*?</svg>', render_html(whole), re.DOTALL
        )
        assert line is not None
        value = whole.results[BEST].accuracy
        assert value is not None
        low, high = value.drop_ci95_points
        assert line[1] == f"{value.drop_points:.2f} points, 95 % interval {low:.2f} to {high:.2f}, limit 1"
        zero, limit = (float(x) for x in re.findall(r'<path d="M([0-9.]+) [01]v', line[0]))
        start, end = (float(x) for x in re.findall(r"M([0-9.]+) 8H([0-9.]+)", line[0])[0])
        (middle,) = (float(x) for x in re.findall(r'cx="([0-9.]+)"', line[0]))
        place = [zero + (limit - zero) * points for points in (low, value.drop_points, high)]
        assert [start, middle, end] == pytest.approx(place, abs=0.2)
        assert line[0].count(f"var(--{colour})") >= 2
    assert 'class="interval"' not in render_html(report(model=RANDOM_MODEL))


def test_the_contents_lead_to_the_sections_that_are_there() -> None:
    for whole in (report(), report(sensitivity=sensitivity()), report(results=(ROWS[FAILED],))):
        page = Page(render_html(whole))
        links = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
        assert links == [f"#{attributes['id']}" for tag, attributes in page.elements if tag == "h2"]
        assert links[0] == "#results"


def test_page_says_what_the_run_was() -> None:
    model = replace(report().model, preprocessing=PREPROCESSING)
    rows = tuple(replace(row, engine=None if row.failure else f"{row.target} 1.2") for row in ROWS)
    own = device(system="Linux 6.12 aarch64", python="3.13.5")
    whole = report(name="vehicles", model=model, results=tuple(replace(row, device=own) for row in rows))
    text = Page(render_html(whole)).words
    for piece in (
        "vehicles (convnextv2_atto)",
        "Measured on AMD EPYC; 2026-01-01, edgekit 0.1.0.",
        "Limits: a loss of top-1 of at most 1 point; a speedup over float of more than 1x.",
        "scale to cover 256x256 (bicubic), then crop the centre to 224x224; mean 0.485, 0.456, 0.406",
        "Linux 6.12 aarch64, Python 3.13.5, openvino 1.2, onnx 1.2, tflite 1.2",
        "Runtimeonnx 1.2",
        "Gatesmax-drop: fail, min-speedup: pass",
    ):
        assert piece in text


def test_page_shows_the_accuracy_of_each_class() -> None:
    whole = by_class(report(), [90, 80], openvino_int8=[90, 78], tflite_int8=[91, 80])
    text = Page(render_html(whole)).words
    assert "class 1100 images80.078.0-2.080.0 class 0100 images90.090.091.0+1.0" in text
    assert "more classes" not in text
    many = by_class(report(), [90] * 12, openvino_int8=[89] * 12)
    assert "2 more classes" in Page(render_html(many)).words


def test_thumbnails_are_those_of_flipped_images() -> None:
    whole = report_with(BEST, accuracy=accuracy(changes=CHANGES))
    thumbnails = {"cat/0009.jpg": JPEG, "not/flipped.jpg": JPEG}
    sources = [attributes["src"] for tag, attributes in Page(render_html(whole, thumbnails)).elements if tag == "img"]
    assert sources == [f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"]
    assert "<img" not in render_html(whole)


def test_page_with_random_weights_shows_latency_only() -> None:
    html = render_html(by_class(report(model=RANDOM_MODEL), [90], openvino_int8=[89]))
    page = Page(html)
    assert "Accuracy is meaningless" in page.text
    assert "76.55" not in html
    assert "top-1, %" not in html
    assert "Accuracy of each class" not in html
    label = next(a["aria-label"] for _, a in page.elements if a.get("role") == "img")
    assert label == (
        "Latency on local: openvino-float p50 14.50 ms, p5 to p95 14.06 to 15.95, p99 17.40; "
        "openvino-int8 p50 7.70 ms, p5 to p95 7.47 to 8.47, p99 9.24; "
        "onnx-float p50 16.70 ms, p5 to p95 16.20 to 18.37, p99 20.04; "
        "tflite-float p50 14.10 ms, p5 to p95 13.68 to 15.51, p99 16.92; "
        "tflite-int8 p50 7.52 ms, p5 to p95 7.29 to 8.27, p99 9.02."
    )


def test_page_distinguishes_devices() -> None:
    pi = device("pi", emulated=True)
    whole = report(results=(*ROWS[:2], *(replace(row, device=pi) for row in ROWS[2:])))
    text = Page(render_html(whole)).words
    for piece in (
        "Emulated by QEMU: pi.",
        "Device: pi (emulated).",
        "Device: local.",
        "onnx-int8 on pi (emulated)",
        ", emulated by QEMU",
    ):
        assert piece in text


def test_names_are_text_not_markup() -> None:
    evil = "<script>alert('$x$')</script>\"><b>"
    rows = [replace(row, device=device(evil), bundle=row.bundle and f"{row.bundle}{evil}") for row in ROWS]
    rows[FAILED] = replace(rows[FAILED], reasons=(evil,))
    whole = report(results=tuple(rows), recommendation=Recommendation("local", "openvino-int8", evil))
    whole = replace(whole, model=replace(whole.model, name=evil))
    page = Page(render_html(whole))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1
    assert "b" not in tags
    assert evil in page.text


def test_page_without_any_figure() -> None:
    nothing = Recommendation("local", None, "no bundle passed its gates")
    page = Page(render_html(report(results=(ROWS[FAILED],), recommendation=nothing)))
    assert "svg" not in {tag for tag, _ in page.elements}
    assert "Ship nothing: no bundle passed its gates." in page.words
    assert "CompileError: Leave the runtime out" in page.words
    assert "onnx-int8 error" in page.words


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    templates.cache_clear()
    with refuses(MissingExtraError, "jinja2") as caught:
        render_html(report())
    assert install_command("build") in caught.value.fix
