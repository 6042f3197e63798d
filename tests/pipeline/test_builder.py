"""Bundles that are built in other processes: the same files, from one calibration, in little memory."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psutil
import pytest
import torch

from edgekit.cli.main import main
from edgekit.compiler import graph
from edgekit.config import runtimes
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import CompileError, ParityError
from edgekit.job import Job
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline import graphs as graphs_module
from edgekit.pipeline.build import build_one
from edgekit.pipeline.builder import Builder, builder_of
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.bundle import read_bundle
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
    graphs = JobGraphs(spec, reporter, tmp_path)
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


@pytest.fixture
def apart(small: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    """A builder that builds each bundle in a new process."""
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 0)
    with open_run(tmp_path / "job") as run, builder_of(small, run, Reporter(quiet=True)) as made:
        yield made


def test_a_killed_process_costs_the_bundle_that_it_built(
    apart: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    built = apart.build(("onnx",), tmp_path)
    assert [type(each) for each in built.values()] == [CompileError, CompileError]


def test_an_interrupt_while_another_process_builds_leaves_none(
    apart: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on writing."""
    before = {child.pid for child in psutil.Process().children()}
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def interrupt() -> None:
        wait_until(lambda: {child.pid for child in psutil.Process().children()} - before, "another process builds")
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = Thread(target=interrupt)
    interrupting.start()
    started: list[psutil.Process] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            apart.build(("onnx",), tmp_path)
        started = [child for child in psutil.Process().children() if child.pid not in before]
        assert started == []
    finally:
        interrupting.join()
        for child in started:
            child.kill()


def test_a_graph_that_differs_from_torch_costs_every_bundle(
    small: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: object) -> None:
        raise ParityError("it differs")

    monkeypatch.setattr(graphs_module, "check_graph", differs)
    built = Builder(JobGraphs(small, Reporter(quiet=True))).build(("onnx",), tmp_path)
    assert {name: type(error) for name, error in built.items()} == {
        "onnx-float": ParityError,
        "onnx-int8": ParityError,
    }
