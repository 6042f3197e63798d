"""Errors of a process that builds bundles reach its parent, and so does its end."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import CompileError, OutputError
from edgekit.job import Job
from edgekit.measure.task import OwnMetric
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.builder import BuildProcess, Wanted, graphs_of, write_spec
from edgekit.pipeline.loading import load_job
from edgekit.report.row import Failure
from edgekit.support.progress import BugElsewhere, Reporter
from tests.helpers.refusals import refuses
from tests.helpers.tiny import TINY_VIT, VIT_ARGS


@pytest.fixture(scope="module")
def parked(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a job."""
    model = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=4, num_eval_samples=4), Reporter(quiet=True))
    return write_spec(spec, tmp_path_factory.mktemp("job"))


@pytest.fixture
def process(parked: Path) -> Iterator[BuildProcess]:
    with closing(BuildProcess(parked)) as started:
        yield started


def test_a_metric_stays_in_this_process(parked: Path, tmp_path: Path) -> None:
    spec = graphs_of(parked, Reporter(quiet=True)).spec
    own = replace(spec.task, metric=OwnMetric(lambda outputs, targets: 1.0))
    written = write_spec(replace(spec, task=own), tmp_path)
    assert graphs_of(written, Reporter(quiet=True)).spec.task == spec.task


def build(process: BuildProcess, target: str, path: Path) -> None:
    """Build a float bundle."""
    process.build(Wanted(target, "float", path), Reporter(quiet=True))


def test_an_error_reaches_the_parent(process: BuildProcess, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with refuses(OutputError, "taken") as caught:
        build(process, "openvino", tmp_path / "taken/bundle")
    (note,) = caught.value.__notes__
    assert "In the other process: Traceback" in note
    assert "NotADirectoryError" in note or "FileExistsError" in note


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_bug_in_edgekit_is_reported_as_one(parked: Path, tmp_path: Path) -> None:
    with (
        closing(BuildProcess(parked)) as process,
        pytest.raises(BugElsewhere, match=r"^KeyError: 'fake' \(edgekit/\w+/\w+\.py:\d+\)\n") as caught,
    ):
        build(process, "fake", tmp_path / "bundle")
    (note,) = caught.value.__notes__
    assert "In the other process: Traceback" in note
    failure = Failure.of("compile", caught.value)
    assert (failure.stage, failure.error) == ("bug in edgekit", "KeyError")


def test_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with closing(BuildProcess(tmp_path / "job")) as process, refuses(CompileError, "SIGKILL"):
        build(process, "openvino", tmp_path / "bundle")


def test_a_build_ends_when_another_thread_kills_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    process = BuildProcess(tmp_path / "job")
    with closing(process), ThreadPoolExecutor(1) as pool:
        building = pool.submit(process.build, Wanted("onnx", "float", tmp_path / "bundle"), Reporter(quiet=True))
        while not building.running():
            pass
        process.kill()
        with pytest.raises(CompileError, match="ended by SIGKILL"):
            building.result(timeout=60)
