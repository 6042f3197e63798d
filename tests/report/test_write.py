"""The files of a report in its run folder, and the thumbnails beside them."""

import base64
import csv
import io
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.errors import InputError, OutputError
from edgekit.report import load_report, render_files, write_report
from edgekit.report.document import Report
from edgekit.report.html import THUMBNAILS as FILE
from edgekit.report.html import csv_columns, read_thumbnails, render_csv, write_thumbnails
from edgekit.report.row import Bound
from tests.helpers.reports import BEST, CHANGES, FAILED, RANDOM_MODEL, ROWS, accuracy, device, report, report_with


def cells(whole: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_csv(whole))))


def test_csv() -> None:
    bound = Bound(max_drop_points=1.0, shown=True, images_needed=1_200)
    lines = cells(report_with(BEST, accuracy=accuracy(bound=bound), remarks=("a", "b")))
    assert list(lines[0]) == csv_columns()
    assert [line["bundle"] for line in lines] == [row.name for row in ROWS]
    best = lines[BEST]
    assert best | {
        "model": "convnextv2_atto", "img_size": "224", "param_count_million": "3.7084", "macs_giga": "0.55",
        "accuracy_meaningful": "true", "target": "openvino", "precision": "int8", "device": "local",
        "device_class": "x86-64-v4", "device_emulated": "false", "verdict": "pass", "reasons": "", "remarks": "a; b",
        "size_bytes": "4310000", "top1_percent": "76.55", "top5_percent": "93.04", "eval_images": "10000",
        "drop_top1_points": "0.09", "drop_top1_points_ci95_low": "-0.11", "drop_top1_points_ci95_high": "0.29",
        "right_to_wrong_images": "57", "wrong_to_right_images": "48", "max_drop_points": "1.0",
        "max_drop_shown": "true", "max_drop_images_needed": "1200", "agreement_percent": "98.5",
        "latency_p50_ms": "7.7", "timed_runs": "200", "threads": "1", "load_ms": "210.0",
        "speedup_versus": "openvino-float", "speedup_versus_precision": "", "speedup_ratio": "1.88",
        "speedup_ratio_ci95_low": "1.86", "speedup_ratio_ci95_high": "1.9", "int8_share_of_macs": "0.957",
        "bound_percent": "30.12987", "peak_rss_bytes": "121000000", "throttled": "", "other_cpus": "0.05",
    } == best  # fmt: skip


def test_csv_of_a_row_without_figures() -> None:
    failed = cells(report())[FAILED]
    filled = {key for key, cell in failed.items() if cell}
    assert filled == {
        "model", "weights", "img_size", "param_count_million", "macs_giga", "accuracy_meaningful", "bundle", "target",
        "precision", "device", "device_class", "device_emulated", "verdict", "reasons",
    }  # fmt: skip
    assert failed["reasons"].startswith("compile: ")


def test_csv_with_random_weights_has_no_accuracy() -> None:
    accuracies = {
        "top1_percent", "top5_percent", "drop_top1_points", "drop_top1_points_ci95_low", "drop_top1_points_ci95_high",
        "agreement_percent", "eval_images", "right_to_wrong_images", "wrong_to_right_images", "mcnemar_p",
    }  # fmt: skip
    assert accuracies <= {key for key, cell in cells(report())[BEST].items() if cell}
    for line in cells(report(model=RANDOM_MODEL)):
        assert line["accuracy_meaningful"] == "false"
        assert not {key for key in accuracies if line[key]}
    assert cells(report(model=RANDOM_MODEL))[BEST]["latency_p50_ms"] == "7.7"


def test_csv_marks_emulated_devices() -> None:
    lines = cells(report_with(2, device=device("pi", emulated=True)))
    assert [line["device_emulated"] for line in lines] == ["false", "false", "true", "false", "false", "false"]
    assert lines[2]["device"] == "pi"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        write_report(report(), tmp_path / "file")
    assert str(tmp_path / "file") in caught.value.problem
    assert "--output" in caught.value.fix


THUMBNAILS = {"cat/0007.jpg": b"\xff\xd8 one", "cat/0009.jpg": b"\xff\xd8 other"}


def test_thumbnails_survive_their_file_and_are_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    write_thumbnails(tmp_path, THUMBNAILS)
    assert read_thumbnails(tmp_path) == THUMBNAILS
    write_thumbnails(tmp_path, {})
    assert not (tmp_path / FILE).exists()
    assert read_thumbnails(tmp_path) == {}


def test_only_the_page_has_them_and_only_if_wanted(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    write_thumbnails(tmp_path, THUMBNAILS)
    whole = report_with(BEST, accuracy=accuracy(changes=CHANGES))
    encoded = [base64.b64encode(jpeg).decode() for jpeg in THUMBNAILS.values()]
    write_report(whole, tmp_path)
    for wanted in (True, False):
        render_files(whole, tmp_path, wanted)
        html = (tmp_path / "report.html").read_text("utf-8")
        assert [image in html for image in encoded] == [wanted, wanted]
        assert not any(
            image in (tmp_path / name).read_text() for name in ("report.json", "report.csv") for image in encoded
        )
    assert load_report(tmp_path) == whole
    assert read_thumbnails(tmp_path) == THUMBNAILS


def test_the_page_of_a_finished_run_can_be_written_without_them(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    write_thumbnails(tmp_path, THUMBNAILS)
    write_report(report_with(BEST, accuracy=accuracy(changes=CHANGES)), tmp_path)
    for options in (["--no-thumbnails"], []):
        assert main(["report", str(tmp_path), *options]) == 0
        assert ("<img" in (tmp_path / "report.html").read_text("utf-8")) is not bool(options)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text('{"a.png": "no base64"}')
    with pytest.raises(InputError) as caught:
        read_thumbnails(tmp_path)
    assert str(tmp_path / FILE) in caught.value.problem
