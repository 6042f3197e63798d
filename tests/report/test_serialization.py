"""report.json: its schema, and the files that are refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.report import load_report, report_schema, write_report
from edgekit.report.document import Choosing, Lookalike, Recommendation, Report, to_json
from edgekit.report.row import Bound, LowPrecision, Repair, RepairAttempt, Sustained, SustainedLatency, SustainedPoint
from tests.helpers.reports import (
    BEST,
    CHANGES,
    ENERGY,
    FAILED,
    INT8_TIMES,
    PREPROCESSING,
    RANDOM_MODEL,
    ROWS,
    THROUGHPUT,
    accuracy,
    answered,
    by_class,
    device,
    latency,
    report,
    report_with,
)
from tests.helpers.sensitivities import sensitivity

Document = dict[str, Any]
MISSED = RepairAttempt(
    drop_top1_points=2.0, drop_ci95_points=(1.5, 2.5), p50_ms=5.0, speedup=1.8, speedup_ci95=(1.7, 1.9)
)
KEPT = replace(MISSED, float_layers=("stem",), drop_top1_points=0.5)
REFUSED = RepairAttempt(float_layers=("stem", "head"), error="compile: refused")


def full_report() -> Report:
    """A report with every optional part."""
    minute = SustainedLatency(p50=7.7, p90=8.0, p99=9.0, count=7_000)
    sustained = Sustained(
        seconds=600.0, window_s=60.0, first=minute, last=minute, change=0.1, series=(SustainedPoint(30.0, 7.7, 7_000),)
    )
    bound = Bound(max_drop_points=1.0, shown=True, images_needed=1_200)
    rows = (
        replace(
            ROWS[0], low_precision=LowPrecision(computes_in="bf16", accuracy=accuracy(), p50_ms=6.0, verdict="pass")
        ),
        replace(
            ROWS[BEST],
            engine="openvino 2026.4.1",
            gates=(replace(ROWS[BEST].gates[0], whole_interval=True),),
            accuracy=accuracy(bound=bound, changes=CHANGES),
            profile=INT8_TIMES,
            sustain=sustained,
            energy=ENERGY,
            throughput=THROUGHPUT,
            remarks=("slower when hot",),
            repair=Repair(
                device="local", max_drop_points=1.0, ranking_images=32, attempts=(MISSED, KEPT, REFUSED), chosen=1
            ),
        ),
        replace(ROWS[FAILED], device=device("pi", emulated=True, system="Linux", python="3.12.1")),
    )
    model = replace(report().model, preprocessing=PREPROCESSING)
    whole = report(name="vehicles", model=model, results=rows, sensitivity=sensitivity())
    whole = by_class(whole, [90, 80], openvino_int8=[89, 80])
    return replace(
        whole,
        calibration=replace(whole.calibration, doubts=("few images",)),
        evaluation=replace(
            whole.evaluation, copies_left_out=("a",), repeated_left_out=("d",), lookalikes=(Lookalike("b", "c"),)
        ),
        choosing=Choosing(thresholds=300, temperature=64),
        recommendation=replace(whole.recommendation, others=(Recommendation("pi", None, "emulated"),)),
    )


def document(whole: Report) -> Document:
    """A report as other programs read its JSON."""
    parsed: Document = json.loads(to_json(whole))
    return parsed


@cache
def validator() -> Any:
    """Imported when a test needs it: to load jsonschema's formats takes two seconds."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(report_schema())


def test_the_schema_is_valid() -> None:
    schema = report_schema()
    validator().check_schema(schema)
    assert schema["$schema"] == validator().META_SCHEMA["$id"]


def test_the_schema_describes_every_field() -> None:
    definitions = report_schema()["$defs"]
    fields = {f"{name}.{key}": field for name, each in definitions.items() for key, field in each["properties"].items()}
    assert len(fields) > 300
    assert not [name for name, field in fields.items() if not field.get("description")]


def test_descriptions_are_the_docstrings_of_the_fields() -> None:
    definitions = report_schema()["$defs"]
    row, device = definitions["Row"]["properties"], definitions["DeviceFacts"]["properties"]
    assert row["reasons"]["description"] == "Reasons why the row did not pass; empty where it did."
    assert row["bundle"]["description"].startswith("Name of the bundle, which"), "a field of the base class"
    assert device["class"]["description"].startswith("Device class that"), "a key that is no name in Python"


@pytest.mark.parametrize("whole", [report(), report(model=RANDOM_MODEL), full_report()])
def test_a_written_report_fits_the_schema(whole: Report, tmp_path: Path) -> None:
    write_report(whole, tmp_path)
    validator().validate(json.loads((tmp_path / "report.json").read_text("utf-8")))


@pytest.mark.parametrize("whole", [report(), report(model=RANDOM_MODEL), full_report()])
def test_a_report_survives_its_file(whole: Report, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    write_report(whole, run)
    assert sorted(path.name for path in run.iterdir()) == ["report.csv", "report.html", "report.json"]
    assert load_report(run) == load_report(run / "report.json") == whole


def test_every_key_of_the_contract_is_written() -> None:
    """Other tools read these keys, so they must not be renamed or removed."""
    written = document(full_report())
    assert set(written) >= {"schema_version", "model", "calibration", "evaluation", "reference", "results"}
    assert set(written) >= {"recommendation"}
    assert "overlap_with_calibration" in written["evaluation"]
    assert "top1" in written["reference"]
    row = written["results"][BEST]
    assert set(row) >= {"target", "precision", "scheme", "device", "bundle", "size_bytes", "accuracy", "latency_ms"}
    assert set(row) >= {
        "speedup",
        "int8",
        "peak_rss_bytes",
        "verdict",
        "reasons",
        "low_precision",
        "sustain",
        "remarks",
    }
    assert set(row["accuracy"]) >= {"top1", "drop_top1_points", "drop_ci95_points", "agreement", "count"}
    assert set(row["latency_ms"]) >= {"p50", "p90", "p99"}
    assert set(row["speedup"]) >= {"ratio", "ci95", "versus", "versus_precision"}
    assert "share_of_macs" in row["int8"]
    assert row["device"]["class"] == "x86-64-v4"
    failed = written["results"][2]
    assert set(failed) == set(row)
    assert failed["verdict"] == "error"
    assert set(failed["failure"]) == {"stage", "error", "message"}
    assert failed["accuracy"] is failed["latency_ms"] is failed["size_bytes"] is None


def removed(*path: str | int) -> Callable[[Document], None]:
    """A function that removes a key from a document."""

    def damage(whole: Any) -> None:
        for key in path[:-1]:
            whole = whole[key]
        del whole[path[-1]]

    return damage


def changed(value: object, *path: str | int) -> Callable[[Document], None]:
    """A function that changes a value of a document."""

    def damage(whole: Any) -> None:
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = value

    return damage


DAMAGE = [
    (removed("model"), "model"),
    (removed("results"), "results"),
    (removed("results", BEST, "device"), "$.results[1]"),
    (removed("results", BEST, "verdict"), "$.results[1]"),
    (removed("results", BEST, "latency_ms", "p50"), "$.results[1].latency_ms"),
    (removed("results", BEST, "device", "name"), "$.results[1].device"),
    (removed("calibration", "sha256"), "$.calibration"),
    (changed(2, "schema_version"), "$.schema_version"),
    (changed("yesterday", "created"), "$.created"),
    (changed("maybe", "results", BEST, "verdict"), "$.results[1].verdict"),
    (changed(76.64, "results", BEST, "accuracy", "top1"), "$.results[1].accuracy.top1"),
    (changed([0.1], "results", BEST, "accuracy", "drop_ci95_points"), "$.results[1].accuracy.drop_ci95_points"),
    (changed(None, "results", BEST, "latency_ms", "p50"), "$.results[1].latency_ms.p50"),
    (changed("7 ms", "results", BEST, "latency_ms", "p50"), "$.results[1].latency_ms.p50"),
    (changed(-1.0, "results", BEST, "latency_ms", "p50"), "$.results[1].latency_ms.p50"),
    (changed(95.7, "results", BEST, "int8", "share_of_macs"), "$.results[1].int8.share_of_macs"),
    (changed(4.31, "results", BEST, "size_bytes"), "$.results[1].size_bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "place"), DAMAGE)
def test_damage_is_refused_with_its_place(damage: Callable[[Document], None], place: str, tmp_path: Path) -> None:
    damaged = document(report())
    damage(damaged)
    assert not validator().is_valid(damaged), "the schema must refuse what the loader refuses"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(damaged), "utf-8")
    for path in (file, tmp_path):
        with pytest.raises(InputError) as caught:
            load_report(path)
        assert str(file) in caught.value.problem
        assert f"`{place}`" in caught.value.problem
        assert caught.value.exit_code == 2


CONTRADICTIONS = [
    (changed(document(report())["results"][BEST]["latency_ms"], "results", FAILED, "latency_ms"), FAILED),
    (changed(1_000, "results", FAILED, "size_bytes"), FAILED),
    (changed("pass", "results", FAILED, "verdict"), FAILED),
    (changed(None, "results", FAILED, "failure"), FAILED),
    (changed("error", "results", BEST, "verdict"), BEST),
    (changed(None, "results", BEST, "latency_ms"), BEST),
    (changed(None, "results", BEST, "size_bytes"), BEST),
    (changed(None, "results", BEST, "bundle"), BEST),
]


@pytest.mark.parametrize(("damage", "index"), CONTRADICTIONS)
def test_a_row_that_contradicts_itself_is_refused(
    damage: Callable[[Document], None], index: int, tmp_path: Path
) -> None:
    damaged = document(report())
    damage(damaged)
    (tmp_path / "report.json").write_text(json.dumps(damaged), "utf-8")
    with pytest.raises(InputError) as caught:
        load_report(tmp_path)
    assert str(tmp_path / "report.json") in caught.value.problem
    assert f"`$.results[{index}]`" in caught.value.problem


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", to_json(report()).replace("7.7,", "NaN,", 1).encode()]
)
def test_a_file_that_is_no_report_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_report(tmp_path)
    assert str(tmp_path / "report.json") in caught.value.problem


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_report(tmp_path)
    assert str(tmp_path) in caught.value.problem
    assert "`edgekit deploy`" in caught.value.fix


def test_keys_that_an_earlier_edgekit_did_not_write_are_null(tmp_path: Path) -> None:
    earlier = document(report())
    del earlier["name"], earlier["model"]["preprocessing"]
    del earlier["evaluation"]["classes"], earlier["reference"]["right_by_class"]
    for row in earlier["results"]:
        del row["energy"], row["throughput"], row["profile"], row["engine"]
        for gate in row["gates"]:
            del gate["whole_interval"]
        if row["accuracy"]:
            del row["accuracy"]["changes"], row["accuracy"]["right_by_class"]
    validator().validate(earlier)
    (tmp_path / "report.json").write_text(json.dumps(earlier), "utf-8")
    assert load_report(tmp_path) == report()


def test_keys_that_a_later_edgekit_adds_are_ignored(tmp_path: Path) -> None:
    newer = document(report())
    newer["weather"] = newer["results"][BEST]["moon"] = {"phase": 0.5}
    validator().validate(newer)
    (tmp_path / "report.json").write_text(json.dumps(newer), "utf-8")
    assert load_report(tmp_path) == report()


def test_a_report_controls_no_terminal(tmp_path: Path) -> None:
    evil, mark = "\x1b]0;title\x07\x1b[2J\x9b8m", "\N{REPLACEMENT CHARACTER}"
    whole = report_with(BEST, remarks=(evil,), device=device(cpu=evil))
    write_report(replace(whole, model=replace(whole.model, name=evil)), tmp_path)
    loaded = load_report(tmp_path)
    assert not set("\x1b\x07\x9b") & set(answered(loaded))
    assert loaded.model.name == f"{mark}]0;title{mark}{mark}8m"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_not_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report(report_with(BEST, latency_ms=latency(value)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
