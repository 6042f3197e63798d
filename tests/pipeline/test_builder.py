"""Bundles that are built in separate processes: the same files, and errors that reach the parent."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgekit.cli.main import main
from edgekit.compiler import constant_store
from edgekit.compiler.constant_store import MappedFiles
from edgekit.config import sizes
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import CompileError, OutputError
from edgekit.job import Job
from edgekit.models import parse_model_args
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import build_one
from edgekit.pipeline.build_process import Wanted
from edgekit.pipeline.builder import SeparateBuilder, builder_of
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.side_by_side import SingleProcessBuilder
from edgekit.report.measurement import Failure
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from edgekit.support.tracebacks import BugElsewhere
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.refusals import refuses
from tests.helpers.tiny import TINY_ARGS, TINY_MODEL, TINY_VIT, VIT_ARGS


@pytest.fixture(scope="module")
def small(photos: Path) -> BuildSpec:
    model = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=4, num_eval_samples=4), Reporter(quiet=True))
    return spec


@pytest.fixture
def parked(small: BuildSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeparateBuilder]:
    monkeypatch.setattr(sizes, "BUILT_APART_FROM", 0)
    with open_run(tmp_path / "run") as run, builder_of(small, run) as builder:
        assert isinstance(builder, SeparateBuilder)
        yield builder


def build(parked: SeparateBuilder, target: str, path: Path) -> Bundle:
    """Build a float bundle in another process."""
    return parked.build(Wanted(target, "float", path), Reporter(quiet=True))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_bundles_equal_those_of_a_single_process(
    job_arguments: list[str], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "BUILT_APART_FROM", 0)
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
    monkeypatch.setattr(sizes, "BUILT_APART_FROM", 0)
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
    monkeypatch.setattr(constant_store, "LARGE_BYTES", 0)
    graphs = JobGraphs(spec, reporter, MappedFiles(tmp_path))
    for target in RUNTIMES:
        bundle = build_one(graphs, target, "int8", tmp_path / f"{target}-int8", reporter)
        assert bundle.manifest.files == read_bundle(finished_run / f"{target}-int8").manifest.files, target


def test_weights_of_a_parked_job_are_mapped(small: BuildSpec, parked: SeparateBuilder) -> None:
    state = parked.spec.network.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in small.network.module.state_dict().items())
    assert "job.pt" in Path("/proc/self/maps").read_text()


def test_the_network_in_memory_is_freed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "BUILT_APART_FROM", 0)
    model, reporter = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32), Reporter(quiet=True)
    spec, _ = load_job(Job(model, photos), reporter)
    places = {weight.data_ptr() for weight in spec.network.module.parameters()}
    assert in_memory(places) == places
    with open_run(tmp_path / "run") as run, builder_of(spec, run) as builder:
        spec = builder.spec
        builder.graphs(reporter)
        assert in_memory(places) == set()


def in_memory(places: set[int]) -> set[int]:
    """Those of these addresses at which a tensor is."""
    tensors = [each for each in gc.get_objects() if type(each) in {torch.Tensor, torch.nn.Parameter}]
    return {tensor.data_ptr() for tensor in tensors} & places


def test_a_small_network_stays_in_memory(small: BuildSpec, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run, builder_of(small, run) as builder:
        assert isinstance(builder, SingleProcessBuilder)
        assert builder.spec is small


def test_weights_of_very_large_networks_are_not_fitted(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ModelOptions(TINY_VIT[0], "random", parse_model_args(VIT_ARGS), imgsz=32)
    options = Job(model, photos, recipe="default", num_calibration_samples=4, num_eval_samples=4)
    assert load_job(options, Reporter(quiet=True))[0].recipe.weight_rounding == "fit"
    monkeypatch.setattr(sizes, "ROUNDED_TOGETHER_UP_TO", 0)
    recipe = load_job(options, Reporter(quiet=True))[0].recipe
    assert recipe.weight_rounding == "gptq"
    assert "weights are rounded by GPTQ" in capfd.readouterr().err


def test_an_error_reaches_the_parent(parked: SeparateBuilder, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with refuses(OutputError, "taken") as caught:
        build(parked, "openvino", tmp_path / "taken/bundle")
    (note,) = caught.value.__notes__
    assert "In the process that built 'bundle': Traceback" in note
    assert "NotADirectoryError" in note or "FileExistsError" in note


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_bug_in_edgekit_is_reported_as_one(parked: SeparateBuilder, tmp_path: Path) -> None:
    with pytest.raises(BugElsewhere, match=r"^KeyError: 'fake' \(edgekit/\w+/\w+\.py:\d+\)\n") as caught:
        build(parked, "fake", tmp_path / "bundle")
    (note,) = caught.value.__notes__
    assert "In the other process: Traceback" in note
    failure = Failure.of("compile", caught.value)
    assert (failure.stage, failure.error) == ("bug in edgekit", "KeyError")


def test_a_process_that_is_killed(parked: SeparateBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with refuses(CompileError, "SIGKILL"):
        build(parked, "openvino", tmp_path / "bundle")
