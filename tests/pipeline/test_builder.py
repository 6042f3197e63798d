"""Bundles that are built in other processes: the same files, from one calibration, in little memory."""

import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from edgekit.cli.main import main
from edgekit.compiler import graph
from edgekit.compiler.execution import threads
from edgekit.compiler.graph import MappedFiles
from edgekit.config import runtimes
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import CompileError, ParityError
from edgekit.job import Job
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline import builder as builders
from edgekit.pipeline import graphs as graphs_module
from edgekit.pipeline.build import build_one
from edgekit.pipeline.builder import Builder, builder_of
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.tiny import TINY_ARGS, TINY_MODEL, TINY_VIT, VIT_ARGS
from tests.helpers.waiting import wait_until


@pytest.fixture(scope="module")
def small(photos: Path) -> BuildSpec:
    model = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=4, num_eval_samples=4), Reporter(quiet=True))
    return spec


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_bundles_equal_those_of_a_single_process(
    job_arguments: list[str], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 0)
    one = ["--target", "openvino", "--precision", "int8", "-o", str(tmp_path / "run"), "--quiet", "--json"]
    with without_fresh_processes():
        assert main(["deploy", *job_arguments, *one]) == 0
    mine, other = (read_bundle(folder / "openvino-int8").manifest for folder in (tmp_path / "run", finished_run))
    assert mine.files == other.files
    assert not list((tmp_path / "run/.edgekit").glob("build-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_steps_alone_make_the_same_bundles(
    photos: Path, tiny_weights: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 0)
    job = [*TINY_MODEL, "--weights", str(tiny_weights), "--data", str(photos), "--target", "openvino", "--quiet"]
    for step, output in (("quantize", "graphs"), ("compile", "float")):
        count = ["--num-calibration-samples", "10"] if step == "quantize" else []
        assert main([step, *job, *count, "-o", str(tmp_path / output)]) == 0
    assert main(["compile", str(tmp_path / "graphs"), "-o", str(tmp_path / "int8"), "--quiet"]) == 0
    for folder, name in (("float", "openvino-float"), ("int8", "openvino-int8")):
        mine, other = (read_bundle(run / name).manifest for run in (tmp_path / folder, finished_run))
        assert mine.files == other.files


@pytest.mark.slow
def test_constants_in_files_make_the_same_bundles(
    photos: Path, tiny_weights: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelOptions("convnextv2_atto", str(tiny_weights), parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0)
    reporter = Reporter(quiet=True)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=10), reporter)
    monkeypatch.setattr(graph, "LARGE_BYTES", 0)
    graphs = JobGraphs(spec, reporter, MappedFiles(tmp_path))
    for target in RUNTIMES:
        bundle = build_one(graphs, target, "int8", tmp_path / f"{target}-int8")
        assert bundle.manifest.files == read_bundle(finished_run / f"{target}-int8").manifest.files, target


def test_weights_of_a_large_network_are_mapped(
    small: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 0)
    with open_run(tmp_path / "run") as run, builder_of(small, run, Reporter(quiet=True)) as builder:
        state = builder.spec.network.module.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in small.network.module.state_dict().items())
        assert "job.pt" in Path("/proc/self/maps").read_text()


def test_the_network_in_memory_is_freed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 0)
    model, reporter = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32), Reporter(quiet=True)
    spec, _ = load_job(Job(model, photos), reporter)
    places = {weight.data_ptr() for weight in spec.network.module.parameters()}
    assert in_memory(places) == places
    with open_run(tmp_path / "run") as run, builder_of(spec, run, reporter) as builder:
        spec = builder.spec
        _ = builder.graphs
        assert in_memory(places) == set()


def in_memory(places: set[int]) -> set[int]:
    """Those of these addresses at which a tensor is."""
    tensors = [each for each in gc.get_objects() if type(each) in {torch.Tensor, torch.nn.Parameter}]
    return {tensor.data_ptr() for tensor in tensors} & places


def test_a_small_network_stays_in_memory(small: BuildSpec, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run, builder_of(small, run, Reporter(quiet=True)) as builder:
        assert builder.spec is small


def test_weights_of_very_large_networks_are_not_fitted(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32)
    options = Job(model, photos, recipe="default", num_calibration_samples=4, num_eval_samples=4)
    assert load_job(options, Reporter(quiet=True))[0].recipe.weight_rounding == "fit"
    monkeypatch.setattr(runtimes, "ROUNDED_TOGETHER_UP_TO", 0)
    recipe = load_job(options, Reporter(quiet=True))[0].recipe
    assert recipe.weight_rounding == "gptq"
    assert "weights are rounded by GPTQ" in capfd.readouterr().err


class Lines(Reporter):
    """Keeps the lines about finished stages."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def builder(
    photos: Path, tiny_weights: Path, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Builder]:
    """A builder of `finished_run`'s bundles that uses one other process."""
    monkeypatch.setattr(runtimes, "BUILT_SIDE_BY_SIDE_FROM", 0)
    model = ModelOptions("convnextv2_atto", str(tiny_weights), parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=10), Reporter(quiet=True))
    with threads(2), open_run(tmp_path / "job") as run, builder_of(spec, run, lines, peak_bytes=1) as made:
        yield made


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_same_bundles_from_one_calibration(
    builder: Builder, lines: Lines, finished_run: Path, tmp_path: Path
) -> None:
    built = builder.build(tuple(RUNTIMES), tmp_path)
    for name, bundle in built.items():
        assert isinstance(bundle, Bundle)
        assert bundle.manifest.files == read_bundle(finished_run / name).manifest.files
    assert len([line for line in lines.said if re.match("calibrate: 10 in", line)]) == 1
    assert len([line for line in lines.said if re.match("simplify: ", line)]) == 2  # once in each process
    assert len([line for line in lines.said if re.match("compare the graph with torch: ", line)]) == 1


def test_a_killed_process_costs_the_bundle_that_it_built(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nread -r request\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    built = builder.build(("onnx",), tmp_path)
    assert isinstance(built["onnx-float"], CompileError)
    monkeypatch.undo()
    again = Builder(JobGraphs(builder.spec, Reporter(quiet=True))).build(("onnx",), tmp_path)
    assert all(isinstance(bundle, Bundle) for bundle in again.values())


def test_an_interrupt_while_others_build_leaves_no_process(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has nothing left to build by then, and waits for another one, which would go on writing."""
    before = {child.pid for child in psutil.Process().children()}
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def interrupted(*_: Any) -> None:
        wait_until(lambda: {child.pid for child in psutil.Process().children()} - before, "another process builds")
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(Future, "result", interrupted)
    started: list[psutil.Process] = []
    try:
        with pytest.raises(KeyboardInterrupt), closing(builder):
            builder.build(("onnx",), tmp_path)
        started = [child for child in psutil.Process().children() if child.pid not in before]
        assert started == []
    finally:
        for child in started:
            child.kill()


def test_a_graph_that_differs_from_torch_costs_every_bundle_and_leaves_no_process(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: object) -> None:
        raise ParityError("it differs")

    before = {child.pid for child in psutil.Process().children()}  # of other tests, such as servers
    monkeypatch.setattr(graphs_module, "check_graph", differs)
    built = builder.build(("onnx",), tmp_path)
    assert {name: type(error) for name, error in built.items()} == {
        "onnx-float": ParityError,
        "onnx-int8": ParityError,
    }
    assert not {child.pid for child in psutil.Process().children()} - before


def test_memory_and_cores_limit_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "available_memory", lambda: 3000)
    with threads(4):
        assert [builders.other_processes(peak) for peak in (None, 500, 1000, 1500, 2000, 4000)] == [0, 3, 2, 1, 0, 0]
