"""Errors of a process that builds bundles reach its parent, and so does its end."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import CompileError, OutputError
from edgekit.job import Job
from edgekit.measure.task import OwnMetric
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.builder import build_apart, graphs_of, write_spec
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


def test_a_metric_stays_in_this_process(parked: Path, tmp_path: Path) -> None:
    spec = graphs_of(parked, Reporter(quiet=True)).spec
    own = replace(spec.task, metric=OwnMetric(lambda outputs, targets: 1.0))
    written = write_spec(replace(spec, task=own), tmp_path)
    assert graphs_of(written, Reporter(quiet=True)).spec.task == spec.task


def build(job: Path, target: str, path: Path) -> None:
    """Build a float bundle."""
    build_apart(job, target, "float", path, Reporter(quiet=True))


def test_an_error_reaches_the_parent(parked: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with refuses(OutputError, "taken") as caught:
        build(parked, "openvino", tmp_path / "taken/bundle")
    (note,) = caught.value.__notes__
    assert "In the other process: Traceback" in note
    assert "NotADirectoryError" in note or "FileExistsError" in note


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_bug_in_edgekit_is_reported_as_one(parked: Path, tmp_path: Path) -> None:
    with pytest.raises(BugElsewhere, match=r"^KeyError: 'fake' \(edgekit/\w+/\w+\.py:\d+\)\n") as caught:
        build(parked, "fake", tmp_path / "bundle")
    (note,) = caught.value.__notes__
    assert "In the other process: Traceback" in note
    failure = Failure.of("compile", caught.value)
    assert (failure.stage, failure.error) == ("bug in edgekit", "KeyError")


def test_a_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with refuses(CompileError, "SIGKILL"):
        build(tmp_path / "job", "openvino", tmp_path / "bundle")
