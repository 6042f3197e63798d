"""The estimates of a Raspberry Pi 5's times, and the reports that owners of boards send."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from benchmarks.pilib.published import PUBLISHED
from docs.generate import estimates
from docs.generate.estimates import Bracket, bracket, checks, rates, sent_table
from docs.generate.figures import NOTHING
from edgekit.report.document import load_report, to_json
from tests.helpers.tiny import ROOT


def test_a_bracket_is_a_count_by_the_highest_and_lowest_rate() -> None:
    found = bracket(100.0, [10.0, 40.0])
    assert found == Bracket(2.5, 10.0)
    assert found.middle == pytest.approx(5.0)
    assert str(found) == "2.5 to 10"


def test_a_network_is_not_among_the_rates_of_its_own_estimate() -> None:
    known = {"resnet50": 1.0, "resnet18": 2.0, "googlenet": 4.0}
    (check,) = (check for check in checks(known) if check.network == "googlenet")
    ms = PUBLISHED["googlenet"].ms
    assert (check.estimate.low, check.estimate.high) == pytest.approx((2 * ms, 4 * ms))
    assert not check.holds
    assert check.error == pytest.approx(100 * (8**0.5 - 1))


def test_each_published_network_was_counted() -> None:
    assert rates().keys() == PUBLISHED.keys()


def test_the_fewest_instructions_are_bold() -> None:
    start = {"runtime": "tflite", "maker": "edgekit", "precision": "int8", "instructions": 90e6}
    row = estimates.pi_row(
        "net", "cortex-a72", [start, start | {"runtime": "executorch", "maker": "stock", "instructions": 80e6}]
    )
    assert row[2] == "90.0"
    assert row[6] == "**80.0**"
    assert row[-1] == NOTHING


def sent(folder: Path, threads: int = 4, emulated: bool = False) -> None:
    """Write a made-up report of the demo on a Raspberry Pi 5."""
    report = load_report(ROOT / "benchmarks/demo.json")
    (row,) = (row for row in report.results if row.bundle == "tflite-int8")
    assert row.latency_ms is not None
    device = msgspec.structs.replace(
        row.device, name="pi5", device_class="raspberry-pi-5", cpu="Raspberry Pi 5 Model B", emulated=emulated
    )
    latency = dataclasses.replace(row.latency_ms, p50=0.75, threads=threads)
    made = dataclasses.replace(row, device=device, latency_ms=latency)
    folder.joinpath("mine.json").write_text(to_json(dataclasses.replace(report, results=(made,))))


def test_a_report_of_a_board_stands_beside_its_estimate(tmp_path: Path) -> None:
    assert "Nobody" in sent_table(tmp_path)
    sent(tmp_path)
    count = estimates.instructions_of("demo", "tflite", "edgekit int8")
    assert count is not None
    assert f"| `demo` | tflite-int8 | 4 | 0.75 | {bracket(count, rates().values())} |" in sent_table(tmp_path)
    sent(tmp_path, threads=1)
    assert "| 1 | 0.75 | – | – |" in sent_table(tmp_path)  # noqa: RUF001
    sent(tmp_path, emulated=True)
    assert "Nobody" in sent_table(tmp_path)
