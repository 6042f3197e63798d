"""`--junit` and `--summary`: the files are written whatever the exit code, and an unusable path is refused at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from junitparser import JUnitXml

from edgekit.cli.main import main
from edgekit.errors import OutputError
from edgekit.report import write_report
from edgekit.support import files
from edgekit.support.files import append_text, check_file
from tests.helpers import fake_runtime
from tests.helpers.failing_engine import failing_engine
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.reports import BEST, accuracy, report, report_with


@pytest.fixture
def arguments(tmp_path: Path) -> Iterator[list[str]]:
    """Both options, with files that don't exist yet. What is measured meanwhile is measured in this process."""
    with without_fresh_processes():
        yield ["--junit", str(tmp_path / "junit.xml"), "--summary", str(tmp_path / "summary.md")]


def failures(folder: Path) -> int:
    """Failures and errors in the JUnit file."""
    document = JUnitXml.fromfile(str(folder / "junit.xml"))
    return int(document.failures + document.errors)


def test_compare_writes_both_files_if_it_passes_and_if_it_fails(tmp_path: Path, arguments: list[str]) -> None:
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    write_report(report(), tmp_path / "before")
    write_report(report_with(BEST, accuracy=accuracy(0.5, (0.3, 0.7))), tmp_path / "after")
    assert main(["compare", before, before, *arguments]) == 0
    assert failures(tmp_path) == 0
    assert main(["compare", before, after, *arguments]) == 1
    assert failures(tmp_path) == 1
    assert (tmp_path / "summary.md").read_text().count("## edgekit compare\n") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"before", "after", "junit.xml", "summary.md"}


def test_benchmark_and_evaluate_write_both_files(
    finished_run: Path, photos: Path, tmp_path: Path, arguments: list[str]
) -> None:
    bundles = [str(finished_run / name) for name in ("onnx-float", "onnx-int8")]
    few = ["--threads", "1", "--iterations", "4", "--warmup", "0"]
    with failing_engine("onnx", "onnx-int8"):
        assert main(["benchmark", *bundles, *few, *arguments]) == 1
    assert failures(tmp_path) == 1
    assert main(["evaluate", *bundles, "--data", str(photos), "--num-eval-samples", "4", *arguments]) == 0
    assert failures(tmp_path) == 0
    first, second = (tmp_path / "summary.md").read_text().split("## edgekit ")[1:]
    assert first.startswith("benchmark")
    assert "**error**" in first
    assert "| top-1 |" in second


def test_benchmark_and_evaluate_fail_if_a_bound_is_missed(
    finished_run: Path, photos: Path, tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    float_, int8 = (str(finished_run / name) for name in ("onnx-float", "onnx-int8"))
    few = ["--threads", "1", "--iterations", "30", "--warmup", "0"]
    assert main(["benchmark", int8, float_, *few, "--min-speedup", "1000", *arguments]) == 1
    printed = " ".join(capfd.readouterr().out.split())  # without the ends of lines
    assert f"x {float_} (95 % interval " in printed
    assert "but more than 1000 is required" in printed
    assert failures(tmp_path) == 1
    images = ["--data", str(photos), "--num-eval-samples", "20", "--threads", "1"]
    assert main(["evaluate", int8, "--reference", float_, *images, "--max-drop", "0.1", *arguments]) == 1
    assert "at most 0.1 " in " ".join(capfd.readouterr().out.split())
    assert failures(tmp_path) == 1
    assert main(["evaluate", int8, float_, *images, "--max-drop", "90", *arguments]) == 0
    assert failures(tmp_path) == 0


def test_a_bound_needs_a_bundle_to_compare_with(finished_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    int8, other = (str(finished_run / name) for name in ("onnx-int8", "tflite-float"))
    assert main(["benchmark", int8, other, "--min-speedup", "1"]) == 2
    assert f"'{int8}' is the only one for ONNX Runtime" in capfd.readouterr().err
    assert main(["evaluate", int8, "--data", str(finished_run), "--max-drop", "1"]) == 2
    assert "`--reference BUNDLE`" in capfd.readouterr().err


def test_deploy_writes_both_files_if_a_gate_fails(
    vit_arguments: list[str], tmp_path: Path, arguments: list[str]
) -> None:
    job = ["deploy", *vit_arguments, "--target", "fake", "--min-speedup", "1000", "-o", str(tmp_path / "run")]
    with fake_runtime.added():
        assert main([*job, *arguments, "--dry-run"]) == 0
        assert list(tmp_path.iterdir()) == []
        assert main([*job, *arguments, "--quiet"]) == 1
    (suite,) = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    failed = [(case.classname, case.name, case.result[0].message) for case in suite if case.is_failure]
    label, name, message = failed[0]
    assert (label, name) == ("fake-int8 on local", "min-speedup")
    assert "more than 1000 is required" in message
    assert "**fail**" in (tmp_path / "summary.md").read_text()


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError) as caught:
        check_file("--junit", tmp_path / "junit.xml")
    assert "no permission" in caught.value.problem
    assert caught.value.fix


def test_one_file_for_both_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    same = str(tmp_path / "same")
    assert main(["compare", "a", "b", "--junit", same, "--summary", same]) == 2
    assert "two different files" in capfd.readouterr().err


def test_a_full_disk_is_an_error(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_report(report(), tmp_path / "run")
    monkeypatch.setattr(files, "replacing", full)
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "run"), *arguments]) == 2
    out, err = capfd.readouterr()
    assert "nothing got worse" in out
    assert "No space left on device" in err
    assert "--junit" in err


def test_lines_are_appended_on_a_new_line_and_a_link_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"before \xff")
    link.symlink_to(file)
    append_text(link, "after\n")
    append_text(link, "later\n")
    assert file.read_bytes() == b"before \xff\nafter\nlater\n"
    assert link.is_symlink()
