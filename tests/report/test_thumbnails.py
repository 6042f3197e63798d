"""Thumbnails in a run folder: outside of the documents that are shared, and on the page."""

import base64
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.errors import InputError
from edgekit.report import load_report, render_files, write_report
from edgekit.report.write import THUMBNAILS as FILE
from edgekit.report.write import read_thumbnails, write_thumbnails
from tests.helpers.reports import BEST, CHANGES, accuracy, report_with

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
