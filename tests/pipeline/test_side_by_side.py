"""Bundles that processes build side by side: the same files from one calibration, and the cost of a killed process."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Timer

import psutil
import pytest

from edgekit.compiler.execution.threads import threads
from edgekit.config import sizes
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import CompileError, ParityError
from edgekit.job import Job
from edgekit.models import parse_model_args
from edgekit.models.options import ModelOptions
from edgekit.pipeline import builder as builders
from edgekit.pipeline.build_process import BuildProcess, Wanted
from edgekit.pipeline.builder import Builder, build_all, builder_of
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.side_by_side import SideBySideBuilder, SingleProcessBuilder
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from tests.helpers.tiny import TINY_ARGS


@pytest.fixture
def builder(photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    """A builder of `finished_run`'s bundles that uses one other process."""
    monkeypatch.setattr(sizes, "BUILT_SIDE_BY_SIDE_FROM", 0)
    model = ModelOptions("convnextv2_atto", str(tiny_weights), parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=10), Reporter(quiet=True))
    with threads(2), open_run(tmp_path / "job") as run, builder_of(spec, run, peak_bytes=1) as made:
        assert isinstance(made, SideBySideBuilder)
        yield made


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_same_bundles_from_one_calibration(
    builder: Builder, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    built = build_all(builder, tuple(RUNTIMES), tmp_path, Reporter())
    for name, bundle in built.items():
        assert isinstance(bundle, Bundle)
        assert bundle.manifest.files == read_bundle(finished_run / name).manifest.files
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if re.match("calibrate: 10 in", line)]) == 1
    assert len([line for line in lines if re.match("simplify: ", line)]) == 2  # once in each process
    assert len([line for line in lines if re.match("compare the graph with torch: ", line)]) == 1


def test_a_killed_process_costs_the_bundle_that_it_built(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nread -r request\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    built = build_all(builder, ("onnx",), tmp_path, Reporter(quiet=True))
    assert isinstance(built["onnx-float"], CompileError)
    monkeypatch.undo()
    again = build_all(SingleProcessBuilder(builder.spec), ("onnx",), tmp_path, Reporter(quiet=True))
    assert all(isinstance(bundle, Bundle) for bundle in again.values())


def test_a_build_ends_when_another_thread_kills_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    process = BuildProcess(tmp_path / "job")
    with closing(process), ThreadPoolExecutor(1) as pool:
        process.start()
        building = pool.submit(process.build, Wanted("onnx", "float", tmp_path / "bundle"), Reporter(quiet=True))
        while not building.running():
            pass
        process.kill()
        with pytest.raises(CompileError, match="ended by SIGKILL"):
            building.result(timeout=60)


def test_an_interrupt_while_others_build_leaves_no_process(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has nothing left to build by then, and waits for another one, which would go on writing."""
    before = {child.pid for child in psutil.Process().children()}
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def interrupt_soon() -> None:
        Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    started: list[psutil.Process] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            build_all(builder, ("onnx",), tmp_path, Reporter(quiet=True), meanwhile=interrupt_soon)
        started = [child for child in psutil.Process().children() if child.pid not in before]
        assert started == []
    finally:
        for child in started:
            child.kill()


def test_an_error_in_other_work_costs_no_bundle(builder: Builder, tmp_path: Path) -> None:
    calls: list[str] = []

    def broken() -> None:
        calls.append("called")
        raise ValueError("broken")

    built = build_all(builder, ("onnx",), tmp_path, Reporter(quiet=True), meanwhile=broken)
    assert calls == ["called"]
    assert all(isinstance(bundle, Bundle) for bundle in built.values())


def test_a_graph_that_differs_from_torch_costs_every_bundle_and_leaves_no_process(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(graphs: JobGraphs) -> None:
        raise ParityError("it differs")

    before = {child.pid for child in psutil.Process().children()}  # of other tests, such as servers
    monkeypatch.setattr(JobGraphs, "exported", differs)
    built = build_all(builder, ("onnx",), tmp_path, Reporter(quiet=True))
    assert {name: type(error) for name, error in built.items()} == {
        "onnx-float": ParityError,
        "onnx-int8": ParityError,
    }
    assert not {child.pid for child in psutil.Process().children()} - before


def test_memory_and_cores_limit_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "available_memory", lambda: 3000)
    with threads(4):
        assert [builders.other_processes(peak) for peak in (None, 500, 1000, 1500, 2000, 4000)] == [0, 3, 2, 1, 0, 0]
