"""One report as JSON, CSV, a page and a table: the same figures everywhere, and none where they mean nothing."""

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgekit.errors import InputError, MissingExtraError, OutputError
from edgekit.report import load_report, render_table, validate, write_report
from edgekit.report.html import render_html
from edgekit.report.sentences import conditions
from edgekit.report.write import CSV_COLUMNS, render_csv

DEVICE = {"name": "local", "class": "x86-64-v4", "cpu": "AMD EPYC", "cores": 2, "memory_bytes": 8 * 2**30}


def row(target: str, precision: str, p50: float, drop: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A row that passed, of a drop between low and high."""
    int8 = precision == "int8"
    bound = 2.32 if int8 else 9.29
    ratio = {"versus": f"{target}-float", "ratio": 1.88, "ci95": [1.86, 1.90]}
    layers = {"share_of_macs": 0.957, "method": "executed graph", "float_layers": ["stem.0"]}
    return {
        "target": target,
        "precision": precision,
        "scheme": "static w8a8, per-channel weights, dense layers" if int8 else "float32",
        "device": dict(DEVICE),
        "bundle": f"{target}-{precision}",
        "size_bytes": 4_310_000 if int8 else 14_900_000,
        "accuracy": {"top1": 0.7664 - drop / 100, "top5": 0.9304, "count": 10_000, "drop_top1_points": drop}
        | {"drop_ci95_points": [low, high], "agreement": 0.985 if int8 else 1.0, "versus": "reference"},
        "latency_ms": {
            "p5": p50 * 0.97,
            "p25": p50 * 0.99,
            "p50": p50,
            "p75": p50 * 1.02,
            "p90": p50 * 1.05,
            "p95": p50 * 1.1,
        }
        | {
            "p99": p50 * 1.2,
            "mean": p50 * 1.01,
            "std": 0.2,
            "count": 200,
            "threads": 1,
            "load": 210.0,
            "first": p50 * 3,
        },
        "end_to_end_ms": {"p50": p50 + 3.1},
        "speedup": ratio if int8 else None,
        "int8": layers if int8 else {"share_of_macs": 0.0, "method": "executed graph", "float_layers": []},
        "limit": {"bound_ms": bound, "fraction": bound / p50},
        "peak_rss_bytes": 121_000_000,
        "thermal": THERMAL,
        "verdict": "pass",
        "reasons": [],
    } | more


THERMAL = {
    "before": {"celsius": 48.2, "clock_mhz": 2400.0},
    "after": {"celsius": 61.0, "clock_mhz": 2400.0},
    "seconds": 3.1,
    "series": [{"s": s, "clock_mhz": 2400.0, "celsius": 50.0 + s, "throttled": []} for s in (1.0, 2.0, 3.0)],
    "throttled": [],
    "cpus": 4,
    "other_cpus": 0.05,
}


def rows() -> list[dict[str, Any]]:
    """Six rows: one that failed a gate, one that a compiler refused."""
    why = ["compile: onnxruntime refused node 'MatMul_3' [opset 21]"]
    error = dict.fromkeys(row("onnx", "int8", 1, 0, 0, 0)) | {"target": "onnx", "precision": "int8"}
    failed = {"verdict": "fail", "reasons": ["drop of 1.31 points is more than --max-drop 1.0"]}
    return [
        row("openvino", "float", 14.5, 0.0, 0.0, 0.0),
        row("openvino", "int8", 7.7, 0.09, -0.11, 0.29),
        row("onnx", "float", 16.7, 0.0, 0.0, 0.0),
        error | {"device": dict(DEVICE), "verdict": "error", "reasons": why},
        row("tflite", "float", 14.1, 0.0, 0.0, 0.0),
        row("tflite", "int8", 7.52, 1.31, 0.92, 1.70, **failed),
    ]


def example() -> dict[str, Any]:
    """A whole report, a new one each time."""
    unreadable = [{"name": "a/b.jpg", "reason": "truncated"}]
    model = {"name": "convnextv2_atto", "source": "timm", "weights": "fcmae_ft_in1k", "weights_sha256": "ab" * 32}
    size = {"params": 3_708_400, "macs": 550_000_000, "input_shape": [1, 3, 224, 224], "classes": 1000}
    why = "the fastest of those that passed every gate"
    return {
        "schema_version": 1,
        "edgekit": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "command": ["deploy", "convnextv2_atto", "--data", "images.zip"],
        "model": model | size,
        "calibration": {"count": 128, "sha256": "cd" * 32, "seed": 0, "recipe": "convnextv2"},
        "evaluation": {"count": 10_000, "sha256": "ef" * 32, "overlap_with_calibration": 0, "unreadable": unreadable},
        "reference": {"engine": "torch", "top1": 0.7664, "top5": 0.9304},
        "results": rows(),
        "recommendation": {"device": "local", "bundle": "openvino-int8", "why": why},
    }


def random_weights() -> dict[str, Any]:
    report = example()
    report["model"] |= {"weights": "random", "accuracy_meaningful": False}
    return report


def table(report: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    render_table(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Page(HTMLParser):
    """Checks that every element is closed in order, and keeps text, attributes and elements."""

    VOID = ("meta", "br", "path", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text += data


def test_schema_accepts_the_contract_and_more() -> None:
    report = example()
    report["remarks"] = [1, 2]
    report["results"][0]["extra"] = True
    report["results"][0]["accuracy"] = None
    report["recommendation"] = None
    validate(report)


@pytest.mark.parametrize("key", example())
def test_schema_wants_every_key(key: str) -> None:
    report = example()
    del report[key]
    with pytest.raises(InputError, match=f"'{key}' is a required property"):
        validate(report)


@pytest.mark.parametrize("key", [key for key, value in example()["results"][1].items() if value])
def test_schema_wants_every_key_of_a_row(key: str) -> None:
    report = example()
    report["results"][1][f"{key}_"] = report["results"][1].pop(key)
    with pytest.raises(InputError, match=rf"\$\.results\[1\]: '{key}' is a required property"):
        validate(report)


@pytest.mark.parametrize("group", ["device", "accuracy", "latency_ms", "end_to_end_ms", "speedup", "int8", "limit"])
def test_schema_wants_every_figure(group: str) -> None:
    optional = {"p5", "p25", "p75", "p95"}
    for key in set(example()["results"][1][group]) - optional:
        report = example()
        del report["results"][1][group][key]
        with pytest.raises(InputError, match=rf"\$\.results\[1\]\.{group}: '{key}' is a required property"):
            validate(report)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("accuracy", "top1", 76.64),
        ("accuracy", "drop_ci95_points", [0.1]),
        ("latency_ms", "p50", None),
        ("latency_ms", "p50", "7 ms"),
        ("int8", "share_of_macs", 95.7),
    ],
)
def test_schema_refuses_values(place: str, key: str, value: object) -> None:
    report = example()
    report["results"][1][place][key] = value
    with pytest.raises(InputError, match=rf"\$\.results\[1\]\.{place}\.{key}: "):
        validate(report)


def test_a_failed_row_has_no_figures() -> None:
    report = example()
    report["results"][3]["latency_ms"] = report["results"][1]["latency_ms"]
    with pytest.raises(InputError, match=r"results\[3\]\.latency_ms\."):
        validate(report)
    report["results"][3]["latency_ms"] = dict.fromkeys(report["results"][1]["latency_ms"])
    validate(report)
    assert "onnx-int8 error" in " ".join(Page(render_html(report)).text.split())
    report["results"][3]["reasons"] = []
    with pytest.raises(InputError, match=r"results\[3\]\.reasons"):
        validate(report)


def test_a_report_has_no_nan() -> None:
    report = example()
    report["results"][1]["latency_ms"]["p50"] = float("nan")
    with pytest.raises(InputError, match="not JSON compliant"):
        validate(report)


def test_many_mistakes_are_counted() -> None:
    with pytest.raises(InputError, match="and 5 more"):
        validate({})


def test_write_and_load(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    write_report(example(), run)
    assert sorted(path.name for path in run.iterdir()) == ["report.csv", "report.html", "report.json"]
    assert load_report(run) == load_report(run / "report.json") == example()
    write_report(random_weights(), run)
    assert load_report(run)["model"]["weights"] == "random"


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no report in .*give a run folder"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(example() | {"schema_version": 2}))
    with pytest.raises(
        InputError, match=r"report\.json': not a report of schema_version 1:\n  \$\.schema_version: 1 was"
    ):
        load_report(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"can't be written: .* --output"):
        write_report(example(), tmp_path / "file")


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(
        MissingExtraError, match=r"'jsonschema' is not installed. *Run: pip install \"edgekit-deploy\[build\]\""
    ):
        validate(example())


def test_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(render_csv(example()))))
    assert list(lines[0]) == list(CSV_COLUMNS)
    assert [line["bundle"] for line in lines][2:4] == ["onnx-float", "onnx-int8"]
    best = lines[1]
    assert (best["top1_percent"], best["drop_ci95_low_points"], best["eval_images"]) == ("76.55", "-0.11", "10000")
    assert (best["latency_p50_ms"], best["timed_runs"], best["speedup_versus"]) == ("7.7", "200", "openvino-float")
    assert (best["param_count_million"], best["img_size"], best["int8_percent_of_macs"]) == ("3.7084", "224", "95.7")
    assert lines[3]["latency_p50_ms"] == lines[3]["top1_percent"] == ""
    assert lines[3]["reasons"].startswith("compile: ")


def test_csv_with_random_weights() -> None:
    for line in csv.DictReader(io.StringIO(render_csv(random_weights()))):
        assert line["accuracy_meaningful"] == "false"
        assert line["top1_percent"] == line["drop_ci95_high_points"] == line["eval_images"] == ""


def test_table_at_160_columns() -> None:
    lines = table(example(), 160).splitlines()
    assert max(map(len, lines)) <= 160
    assert lines[0].startswith("convnextv2_atto (timm, weights fcmae_ft_in1k): 3.71 M parameters, 0.55 GMAC")
    best = next(line for line in lines if line.startswith("openvino-int8"))
    assert re.split(r"\s{2,}", best.strip()) == [
        "openvino-int8", "4.3", "76.55", "0.09 [-0.11, 0.29]", "98.5", "7.70", "8.09", "9.24", "1.88 [1.86, 1.90]",
        "96", "30", "121", "pass",
    ]  # fmt: skip
    assert "onnx-int8: error: compile: onnxruntime refused node 'MatMul_3' [opset 21]" in lines
    assert "tflite-int8: fail: drop of 1.31 points is more than --max-drop 1.0" in lines
    assert lines[-1] == "Ship openvino-int8 on local: the fastest of those that passed every gate"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_narrow_tables_leave_columns_out(width: int) -> None:
    text = table(example(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    assert "Not shown at this width:" in text or width >= 120
    for column in ("bundle", "p50", "verdict"):
        assert column in text
    if width >= 80:
        assert all(column in text for column in ("top-1", "drop", "speedup", "[-0.11, 0.29]", "[1.86, 1.90]"))


def test_table_with_random_weights() -> None:
    text = table(random_weights(), 160)
    assert "Accuracy is meaningless: the weights are random." in text
    assert "76.55" not in text
    assert re.search(r"openvino-int8 +4.3 +n/a +n/a +n/a +7.70", text)


def test_table_of_several_devices() -> None:
    report = example()
    report["results"][3]["device"] = DEVICE | {"name": "pi"}
    text = table(report, 160)
    assert "device" in text
    assert "onnx-int8 on pi: error" in text


def test_an_emulated_device_is_called_that_wherever_it_is_named() -> None:
    report = example()
    for row in report["results"][2:]:
        row["device"] = DEVICE | {"name": "pi", "emulated": True}
    said = "Emulated by QEMU: pi. Times there are not a device's, and no gate judges them."
    text = table(report, 200)
    assert said in text
    assert "onnx-int8 on pi (emulated): error" in text
    assert len(re.findall(r"onnx-float +pi \(emulated\) ", text)) == 1
    page = " ".join(Page(render_html(report)).text.split())
    for piece in (said, "Device: pi (emulated).", "onnx-int8 on pi (emulated)", ", emulated by QEMU"):
        assert piece in page
    assert [line["device_emulated"] for line in csv.DictReader(render_csv(report).splitlines())] == [
        "false", "false", "true", "true", "true", "true",
    ]  # fmt: skip
    validate(report)
    assert said not in table(example(), 200)


def test_table_with_nothing_to_ship() -> None:
    report = example()
    report["recommendation"] = {"device": "local", "bundle": None, "why": "no row passed"}
    assert table(report, 80).splitlines()[-1] == "Ship nothing on local: no row passed"


def test_page_is_whole_and_alone() -> None:
    html = render_html(example())
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert "src" not in attributes
        assert all(value.startswith("#") for key, value in attributes.items() if value and key.endswith("href"))
    assert {tag for tag, _ in page.elements} >= {"main", "h1", "table", "svg", "figure", "script"}
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in heads)
    assert "aria-sort" in html


def test_page_says_what_matters_first() -> None:
    text = " ".join(Page(render_html(example())).text.split())
    places = [text.index(each) for each in ("Ship openvino-int8 on local", "Results", "Accuracy against", "Provenance")]
    assert places == sorted(places)
    for piece in (
        "10,000 images",
        "timed runs: 200",
        "n = 200 runs, threads: 1",
        "over openvino-float",
        "95 %: -0.11 to 0.29, n = 10,000 images",
        "1 unreadable",
        "48 to 53 °C, 2400 MHz, not throttled, other processes on 0.1 of 4 CPUs",
    ):
        assert piece in text


def test_page_says_what_is_wrong_with_the_images() -> None:
    report = example()
    report["calibration"]["doubts"] = ["12 calibration images are few"]
    report["evaluation"] |= {"copies_left_out": ["a", "b"], "lookalikes": [{"name": "c", "like": "d"}]}
    validate(report)
    text = Page(render_html(report)).text
    assert "recipe convnextv2, seed 0; 12 calibration images are few" in text
    assert "2 copies of calibration images left out, 1 look-alikes of them" in text


def test_page_shortens_long_lists_of_layers() -> None:
    report = example()
    report["results"][1]["int8"]["float_layers"] = [f"stages.{i}" for i in range(20)]
    text = Page(render_html(report)).text
    assert "stages.6, stages.7 and 12 more (report.json has all)" in text
    assert "stages.8" not in text


def test_page_with_random_weights_shows_latency_only() -> None:
    html = render_html(random_weights())
    page = Page(html)
    assert "Accuracy is meaningless" in page.text
    assert "76.55" not in html
    assert "top-1, %" not in html
    label = next(a["aria-label"] for _, a in page.elements if a.get("role") == "img")
    assert label == (
        "Latency on local: openvino-float p50 14.50 ms, p5 to p95 14.06 to 15.95, p99 17.40; "
        "openvino-int8 p50 7.70 ms, p5 to p95 7.47 to 8.47, p99 9.24; "
        "onnx-float p50 16.70 ms, p5 to p95 16.20 to 18.37, p99 20.04; "
        "tflite-float p50 14.10 ms, p5 to p95 13.68 to 15.51, p99 16.92; "
        "tflite-int8 p50 7.52 ms, p5 to p95 7.29 to 8.27, p99 9.02."
    )


def test_names_are_text_not_markup() -> None:
    report = example()
    evil = "<script>alert('$x$')</script>\"><b>"
    report["model"]["name"] = report["results"][3]["reasons"][0] = report["recommendation"]["why"] = evil
    for each in report["results"]:
        each["device"] = DEVICE | {"name": evil}
        each["bundle"] = each["bundle"] and f"{each['bundle']}{evil}"
    page = Page(render_html(report))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1
    assert "b" not in tags
    assert evil in page.text
    assert evil in "".join(table(report, 400))


def test_page_without_any_figure() -> None:
    report = example()
    report["results"] = [report["results"][3]]
    report["calibration"] = report["evaluation"] = report["reference"] = report["recommendation"] = None
    validate(report)
    page = Page(render_html(report))
    assert "svg" not in {tag for tag, _ in page.elements}
    assert "Accuracy was not measured." in page.text
    assert "No recommendation." in page.text
    assert "No recommendation." in table(report, 80)


def test_what_float_was_fastest_in_is_said() -> None:
    given = example()
    for each in given["results"]:
        if each["speedup"]:
            each["speedup"]["versus_precision"] = "bf16" if each["target"] == "openvino" else "f32"
    assert "over the target's fastest float (openvino-float in bf16)." in conditions(given)[1]
