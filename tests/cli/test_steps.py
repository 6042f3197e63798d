"""The steps alone: quantize, compile, evaluate, benchmark, inspect, classify, report."""

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.cli.main import main
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle, write_bundle
from tests.helpers import fake_runtime
from tests.helpers.failing_engine import MESSAGE, failing_engine
from tests.helpers.graph_folder import graph_folder
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.tiny import ROOT, MakeBundle

BUNDLES = [f"{target}-{precision}" for target in ("openvino", "onnx", "tflite") for precision in ("float", "int8")]


def run(capfd: Any, *arguments: object, code: int = 0) -> tuple[str, str]:
    assert main([str(each) for each in arguments]) == code
    found = capfd.readouterr()
    return found.out, found.err


def run_json(capfd: Any, *arguments: object, code: int = 0) -> Any:
    found = json.loads(run(capfd, *arguments, "--json", code=code)[0])
    assert found["schema_version"] == 1
    return found


def making(arguments: list[str]) -> list[str]:
    """What quantize and compile take of a job."""
    return [*arguments[: arguments.index("--threads")], "--target", "onnx"]


@pytest.fixture
def job(job_arguments: list[str]) -> list[str]:
    return making(job_arguments)


def test_quantize_and_compile_give_the_bundle_that_deploy_gives(
    finished_run: Path, job: list[str], tmp_path: Path, capfd: Any
) -> None:
    graphs, bundles = tmp_path / "graphs", tmp_path / "bundles"
    recipe = tmp_path / "strict.toml"
    shipped = (ROOT / "calibration" / "convnextv2.toml").read_text()
    recipe.write_text(re.sub("(?m)^optional_rewrites.*$", "", shipped))
    _, err = run(capfd, "quantize", *job, "--num-calibration-samples", 1, "--recipe", recipe, "-o", graphs)
    assert "onnx-int8: these rewrites of recipe 'convnextv2' match nothing in 'convnextv2_atto': layer-scale." in err
    made = run_json(capfd, "quantize", *job, "--num-calibration-samples", 10, "-o", graphs)
    assert made["graphs"] == [str(graphs / "onnx-int8-graph")]
    assert sorted(each.name for each in graphs.iterdir()) == [".edgekit", "calibration.json", "onnx-int8-graph"]
    assert len(json.loads((graphs / "calibration.json").read_text())["images"]) == 10

    out, err = run(capfd, "quantize", *job, "--num-calibration-samples", 10, "-o", graphs)
    assert out == f"{graphs / 'onnx-int8-graph'}\n"
    assert "onnx-int8-graph: reused from an earlier run" in err

    out, _ = run(capfd, "compile", graphs, "-o", bundles)
    assert out == f"{bundles / 'onnx-int8'}\n"
    assert read_bundle(bundles / "onnx-int8").manifest == read_bundle(finished_run / "onnx-int8").manifest
    found = run_json(capfd, "compile", graphs / "onnx-int8-graph", "-o", bundles)
    assert found["bundles"] == [str(bundles / "onnx-int8")]
    assert not [each for each in tmp_path.rglob(".*") if each.name != ".edgekit"]


def test_compile_of_a_model_gives_the_float_bundle_that_deploy_gives(
    vit_arguments: list[str], tmp_path: Path, capfd: Any
) -> None:
    place = ["--target", "fake", "-o", tmp_path / "run"]
    job = [*vit_arguments[: vit_arguments.index("--threads")], *place]
    with fake_runtime.added():
        found = run_json(capfd, "compile", *job)
        assert found["bundles"] == [str(tmp_path / "run" / "fake-float")]
        for command in (["compile", *job], ["deploy", *vit_arguments, *place, "--precision", "float"]):
            _, err = run(capfd, *command)
            assert "fake-float: reused from an earlier run" in err


def test_compile_of_graphs_refuses_options_of_a_model(tmp_path: Path, capfd: Any) -> None:
    graph_folder(tmp_path / "onnx-int8-graph")
    _, err = run(capfd, "compile", tmp_path, "-o", tmp_path / "out", "--imgsz", "64", code=2)
    assert f"--imgsz was given for '{tmp_path}'" in err
    assert not (tmp_path / "out").exists()


def test_a_measured_bundle_is_not_replaced(finished_run: Path, job: list[str], capfd: Any) -> None:
    before = read_bundle(finished_run / "onnx-float").manifest
    _, err = run(capfd, "compile", *job, "-o", finished_run, code=2)
    assert f"the run '{finished_run}' has measured its 'onnx-float'" in err
    assert read_bundle(finished_run / "onnx-float").manifest == before


def test_compile_needs_a_place_and_a_graph(tmp_path: Path, capfd: Any) -> None:
    _, err = run(capfd, "compile", tmp_path, code=2)
    assert "--output FOLDER" in err
    _, err = run(capfd, "compile", tmp_path, "-o", tmp_path / "out", code=2)
    assert "contains no quantized graph" in err
    assert "`edgekit quantize MODEL -o " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stage.json", "graph.pt2", "samples.npz"])
def test_a_damaged_graph(job: list[str], tmp_path: Path, capfd: Any, name: str) -> None:
    folder = graph_folder(tmp_path / "onnx-int8-graph")
    (folder / name).write_bytes(b"damaged")
    _, err = run(capfd, "compile", tmp_path, "-o", tmp_path / "out", code=2)
    assert "is not a graph that `edgekit quantize` wrote" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "place"),
    [("[]", "got `array`"), ('{"labels": []}', "`manifest`"), ('{"manifest": {"target": 1}}', "`$.manifest.target`")],
)
def test_a_graph_of_another_shape(job: list[str], tmp_path: Path, capfd: Any, content: str, place: str) -> None:
    (tmp_path / "stage.json").write_text(content)
    _, err = run(capfd, "compile", tmp_path, "-o", tmp_path / "out", code=2)
    assert "is not a graph that `edgekit quantize` wrote: stage.json: " in err
    assert place in err


def test_evaluate(finished_run: Path, photos: Path, capfd: Any) -> None:
    paths = [finished_run / name for name in ("onnx-float", "onnx-int8", "tflite-int8")]
    found = run_json(capfd, "evaluate", *paths, "--data", photos, "--num-eval-samples", 20, "--threads", 1)
    assert found["evaluation"]["count"] == 20
    assert [row["bundle"] for row in found["results"]] == [str(path) for path in paths]
    first, second, _ = (row["accuracy"] for row in found["results"])
    assert (first["drop_top1_points"], first["agreement"]) == (0, 1)
    assert second["versus"] == str(paths[0])
    assert 0.5 <= second["agreement"] <= 1
    assert found["evaluation"]["overlap_with_calibration"] == len(found["evaluation"]["calibrated_on"]) > 0
    out, err = run(capfd, "evaluate", *paths, "--data", photos)
    assert out.startswith("warning: 10 of the 40 images were calibrated on (class_")
    answer = " ".join(out.split())
    assert f"{paths[0]} reaches top-1 " in answer
    assert "% on 40 images." in answer
    assert max(map(len, out.splitlines())) <= 80
    assert f"{paths[0]}: 40 in " in err


def test_evaluate_goes_on_after_one_that_fails(
    finished_run: Path, photos: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtime.tflite import engine as tflite

    def refuse(*_: object) -> None:
        raise RuntimeError("no such delegate")

    monkeypatch.setattr(tflite.Engine, "__init__", refuse)
    paths = [finished_run / name for name in ("tflite-float", "onnx-float", "onnx-int8")]
    found = run_json(capfd, "evaluate", *paths, "--data", photos, code=1)
    assert [row["verdict"] for row in found["results"]] == ["error", "pass", "pass"]
    assert found["results"][0]["accuracy"] is None
    assert "no such delegate" in found["results"][0]["reasons"][0]
    assert found["results"][2]["accuracy"]["versus"] == str(paths[1])
    with without_fresh_processes():
        found = run_json(capfd, "benchmark", *paths, "--iterations", 3, "--warmup", 0, code=1)
    assert [row["verdict"] for row in found["results"]] == ["error", "pass", "pass"]
    assert found["results"][2]["speedup"]["versus"] == str(paths[1])
    for command in (["evaluate", "--data", photos], ["benchmark", "--iterations", 3]):
        with without_fresh_processes():
            out, err = run(capfd, command[0], *paths, *command[1:], code=1)
        assert f"{paths[0]}: {command[0]}: " in out.replace("\n  ", " ")
        assert "EngineError: Run `edgekit doctor`" in out
        assert "warning: " in err


def test_a_bug_costs_one_bundle(
    make_bundle: MakeBundle, photos: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command has a bug in its work for the first of two bundles."""
    from edgekit.measure import accuracy as shards
    from edgekit.measure import bundles as opened_bundle

    def broken(real: Any) -> Any:
        calls = iter(range(9))

        def mistaken(*arguments: Any, **more: Any) -> Any:
            if next(calls) == 0:
                raise KeyError("val")
            return real(*arguments, **more)

        return mistaken

    paths = [make_bundle("onnx", name) for name in ("first", "second")]
    for command, owner, name in (("evaluate", shards, "predict"), ("benchmark", opened_bundle, "summarize_profile")):
        with without_fresh_processes(), monkeypatch.context() as patch:
            patch.setattr(owner, name, broken(getattr(owner, name)))
            more = ["--data", photos] if command == "evaluate" else ["--iterations", 3, "--warmup", 0]
            assert main([str(each) for each in (command, *paths, *more, "--threads", 1, "--json")]) == 1
        out, err = capfd.readouterr()
        first, second = json.loads(out)["results"]
        assert (first["failure"]["stage"], first["failure"]["error"]) == ("bug in edgekit", "KeyError")
        assert (first["verdict"], second["failure"]) == ("error", None)
        assert err.count("Traceback (most recent call last)") == 1
        assert f"{paths[0]}: this is a bug in edgekit" in err


def test_compile_and_quantize_go_on_after_a_bug(
    vit_arguments: list[str], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.pipeline import graphs
    from edgekit.pipeline.graphs import quantize_stage

    def mistaken(*_: object) -> None:
        raise KeyError("val")

    job = [*making(vit_arguments), "--target", "fake", "-o", tmp_path]
    with fake_runtime.added():
        with monkeypatch.context() as patch:
            patch.setattr(fake_runtime.Backend, "compile", mistaken)
            made = run_json(capfd, "compile", *job, code=1)
        assert made["bundles"] == [str(tmp_path / "onnx-float")]
        (failed,) = made["failures"]
        assert (failed["name"], failed["failure"]["stage"]) == ("fake-float", "bug in edgekit")

        def mistaken_for_onnx(spec: Any, target: str, *arguments: Any, **options: Any) -> Any:
            if target == "onnx":
                raise KeyError("val")
            return quantize_stage(spec, target, *arguments, **options)

        monkeypatch.setattr(graphs, "quantize_stage", mistaken_for_onnx)
        made = run_json(capfd, "quantize", *job, "--num-calibration-samples", 4, code=1)
    assert made["graphs"] == [str(tmp_path / "fake-int8-graph")]
    assert [(each["name"], each["failure"]["error"]) for each in made["failures"]] == [("onnx-int8", "KeyError")]


def test_evaluate_apart_what_has_other_labels(
    finished_run: Path, make_bundle: MakeBundle, photos: Path, capfd: Any
) -> None:
    _, err = run(capfd, "evaluate", finished_run / "onnx-float", make_bundle("onnx"), "--data", photos, code=2)
    assert "Evaluate these bundles separately" in err


def test_benchmark(finished_run: Path, capfd: Any) -> None:
    paths = [finished_run / name for name in ("openvino-float", "openvino-int8")]
    found = run_json(capfd, "benchmark", *paths, "--threads", 1, "--iterations", 4, "--warmup", 0)
    first, second = found["results"]
    assert (first["latency_ms"]["count"], first["latency_ms"]["threads"]) == (4, 1)
    assert {"p50", "p90", "p99", "mean", "std", "load", "first"} <= set(first["latency_ms"])
    assert first["peak_rss_bytes"] > 20e6
    assert first["speedup"] is None
    assert second["speedup"]["versus"] == str(paths[0])
    assert (first["throughput"], second["throughput"]) == (None, None)
    with without_fresh_processes():
        out, _ = run(capfd, "benchmark", *paths, "--threads", 1, "--iterations", 4)
    assert out.startswith("Fastest: ")
    assert "p50 ms" in out
    assert "model alone, batch 1, 4 timed runs, threads: 1." in out
    assert max(map(len, out.splitlines())) <= 80


def test_benchmark_of_several_streams(finished_run: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.support.probe.available_cores", lambda *_: 2)
    path = finished_run / "onnx-int8"
    options = ["benchmark", path, "--threads", 1, "--iterations", 4, "--warmup", 0, "--streams"]
    (row,) = run_json(capfd, *options, 3)["results"]
    assert row["verdict"] == "pass"
    assert (row["throughput"]["streams"], row["throughput"]["threads"]) == (3, 1)
    assert row["latency_ms"]["count"] == 4
    (remark,) = [text for text in row["remarks"] if "streams" in text]
    assert remark == "3 streams, with 1 thread each, wait for each other on 2 cores"
    with without_fresh_processes():
        out, _ = run(capfd, *options, 2)
    line = out.replace("\n  ", " ")
    assert f"{path}: 2 streams, threads 1 each: " in line
    assert "; alone, threads 1: p50 " in line
    assert "wait for each other" not in out


def test_a_bundle_that_fails_while_it_is_timed_costs_its_own_row(finished_run: Path, capfd: Any) -> None:
    paths = [finished_run / name for name in ("onnx-float", "onnx-int8", "tflite-int8")]
    options = [*paths, "--threads", 1, "--iterations", 4, "--warmup", 0]
    with failing_engine("onnx", "onnx-float"):
        document = run_json(capfd, "benchmark", *options, code=1)
        with without_fresh_processes():
            out, err = run(capfd, "benchmark", *options, code=1)
    failed, second, third = document["results"]
    assert (failed["bundle"], failed["verdict"], failed["latency_ms"]) == (str(paths[0]), "error", None)
    assert (failed["failure"]["stage"], failed["failure"]["error"]) == ("benchmark", "EngineError")
    assert MESSAGE in failed["failure"]["message"]
    assert failed["reasons"] == [f"benchmark: {failed['failure']['message']}"]
    for row in (second, third):
        assert (row["verdict"], row["failure"], row["latency_ms"]["count"]) == ("pass", None, 4)
        assert row["peak_rss_bytes"] > 20e6
        assert row["int8"]["share_of_macs"] is not None
    assert second["speedup"] is None
    assert third["speedup"]["versus"] == str(paths[1])
    assert out.replace("\n  ", " ").count(f"{paths[0]}: benchmark: running ") == 1
    assert f"warning: {paths[0]}: running " in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_sustained_benchmark(finished_run: Path, capfd: Any) -> None:
    path = finished_run / "onnx-int8"
    options = ["benchmark", path, "--threads", 1, "--sustain", "2s"]
    with without_fresh_processes():
        (row,) = run_json(capfd, *options)["results"]
        out, _ = run(capfd, *options)
    assert 1.5 < row["sustain"]["seconds"] < 10
    assert row["latency_ms"]["count"] == sum(point["count"] for point in row["sustain"]["series"])
    assert row["thermal"]["series"]
    line = out.replace("\n  ", " ")
    assert line.count(f"{path}: sustained for 2 s: first 1 s p50 ") == 1
    assert ", last 1 s p50 " in line
    _, err = run(capfd, *options, "--iterations", 200, code=2)
    assert "--sustain and --iterations were both given" in err


def test_inspect(finished_run: Path, capfd: Any) -> None:
    found = run_json(capfd, "inspect", finished_run / "onnx-int8")
    assert (found["target"], found["precision"], found["classes"]) == ("onnx", "int8", 10)
    assert found["golden_max_abs_difference"] <= found["golden_tolerance"]
    assert found["engine"].startswith("onnxruntime ")
    assert found["int8"]["share_of_macs"] > 0.5
    out, err = run(capfd, "inspect", finished_run / "tflite-int8")
    assert re.fullmatch(
        r"\d+ % of the multiply-accumulates ran in INT8; in float: .*; LiteRT [\d.]+ on .*", out.splitlines()[0]
    )
    assert "target: tflite" in out.splitlines()
    assert err == ""


def test_inspect_of_other_numbers_is_a_failure(make_bundle: MakeBundle, tiny_golden: Any, capfd: Any) -> None:
    from dataclasses import replace

    golden = replace(tiny_golden, logits=tiny_golden.logits + np.float32(1))
    wrong = make_bundle("onnx", golden=golden, provenance={"versions": {"onnxruntime": "1.0"}})
    out, err = run(capfd, "inspect", wrong, code=1)
    assert {"made_with: onnxruntime 1.0", "golden_passed: False"} <= set(out.splitlines())
    assert f"engine: onnxruntime {version('onnxruntime')}" in out.splitlines()
    assert "edgekit: error: the outputs of the test vectors in bundle" in err
    assert "  fix:   Install onnxruntime 1.0, with which the bundle was made, or make the bundle for " in err
    found = json.loads(run(capfd, "inspect", wrong, "--json", code=1)[0])
    assert found["golden_max_abs_difference"] == pytest.approx(1, abs=0.01)
    assert (found["golden_passed"], found["made_with"]) == (False, "onnxruntime 1.0")
    same = make_bundle("onnx", "same", golden=golden, provenance={"versions": {"onnxruntime": version("onnxruntime")}})
    _, err = run(capfd, "inspect", same, code=1)
    assert "  fix:   Make the bundle for this processor's class with `edgekit deploy --device-class`" in err


@pytest.mark.parametrize("provenance", [{"model": "x"}, {"model": {"name": 3}}, {"versions": [1]}, {}])
def test_inspect_of_a_strangers_provenance(make_bundle: MakeBundle, provenance: Any, capfd: Any) -> None:
    found = run_json(capfd, "inspect", make_bundle("onnx", provenance=provenance))
    assert (found["model"], found["made_with"], found["provenance"]) == (None, None, provenance)


@pytest.fixture
def nan_bundle(finished_run: Path, tmp_path: Path) -> Path:
    """A bundle whose weights, and so its logits, are NaN."""
    sound = read_bundle(finished_run / "onnx-float")
    model, path = onnx.load(sound.model_path), tmp_path / sound.manifest.model_file
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full(tuple(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return write_bundle(tmp_path / "nan", {path.name: path}, sound.manifest, sound.labels, sound.golden()).path


def test_inspect_of_a_bundle_that_gives_nan(nan_bundle: Path, capfd: Any) -> None:
    out, err = run(capfd, "inspect", nan_bundle, "--json", code=1)
    assert json.loads(out)["golden_max_abs_difference"] is None
    assert "differ by nan on this processor" in err


def test_all_bundles_classify_alike(finished_run: Path, photos: Path, capfd: Any) -> None:
    image = photos / "class_0" / "0.png"
    answers = {}
    for name in BUNDLES:
        found = run_json(capfd, "classify", finished_run / name, image, "--threads", 1)
        answers[name] = found["results"][0]["top"]
        assert found["results"][0]["image"] == str(image)
        assert len(answers[name]) == 5
        assert [each["score"] for each in answers[name]] == sorted((e["score"] for e in answers[name]), reverse=True)
    floats = [answers[name] for name in BUNDLES if name.endswith("float")]
    for other in floats[1:]:
        assert [each["label"] for each in other] == [each["label"] for each in floats[0]]
        assert other[0]["score"] == pytest.approx(floats[0][0]["score"], rel=1e-3)
    assert {answer[0]["label"] for answer in answers.values()} == {floats[0][0]["label"]}


def test_classify_prints(finished_run: Path, photos: Path, capfd: Any) -> None:
    images = [photos / "class_0" / "0.png", photos / "class_1" / "0.png"]
    out, err = run(capfd, "classify", finished_run / "tflite-int8", *images, "--top", 2)
    lines = out.splitlines()
    assert [lines[0], lines[3]] == [str(image) for image in images]
    assert lines[1].split()[1].startswith("class_")
    assert lines[1].split()[0].endswith("%")
    assert (len(lines), err) == (6, "")
    out, _ = run(capfd, "classify", finished_run / "tflite-int8", images[0], "--top", 2)
    assert len(out.splitlines()) == 2


def test_classify_of_a_model_that_gives_nan(nan_bundle: Path, photos: Path, capfd: Any) -> None:
    _, err = run(capfd, "classify", nan_bundle, photos / "class_0" / "0.png", code=2)
    assert "are NaN or infinite" in err


def test_a_bundle_that_gives_nan_loses_only_its_own_row(
    nan_bundle: Path, finished_run: Path, photos: Path, capfd: Any
) -> None:
    bundles = [nan_bundle, finished_run / "tflite-float"]
    broken, sound = run_json(capfd, "evaluate", *bundles, "--data", photos, "--threads", 1, code=1)["results"]
    assert (broken["verdict"], sound["verdict"]) == ("error", "pass")
    assert re.search(r"the outputs for image 'class_\d/\d+.png' are NaN or infinite", broken["failure"]["message"])
    assert sound["accuracy"]["count"] > 1


def test_report(finished_run: Path, tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished_run / "report.json", folder)
    out, err = run(capfd, "report", folder)
    assert "tflite-int8" in out
    assert err == ""
    assert {each.name for each in folder.iterdir()} == {"report.json", "report.html", "report.csv"}
    again = run_json(capfd, "report", folder / "report.json")
    assert again == json.loads((finished_run / "report.json").read_text())
    assert load_report(folder) == load_report(finished_run)


def test_report_leaves_the_json_of_a_newer_edgekit_alone(finished_run: Path, tmp_path: Path, capfd: Any) -> None:
    newer = json.dumps(json.loads((finished_run / "report.json").read_text()) | {"of_a_newer_edgekit": 1})
    (tmp_path / "report.json").write_text(newer)
    run(capfd, "report", tmp_path)
    assert (tmp_path / "report.json").read_text() == newer


def test_report_is_printed_without_the_package_of_the_page(
    finished_run: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.report import plot

    shutil.copy(finished_run / "report.json", tmp_path)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    plot.templates.cache_clear()
    out, err = run(capfd, "report", tmp_path)
    assert "tflite-int8" in out
    assert err.startswith("warning: 'jinja2' is not installed")
    assert {each.name for each in tmp_path.iterdir()} == {"report.json", "report.csv"}


def test_report_that_can_be_read_and_not_written(
    finished_run: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import report
    from edgekit.errors import OutputError

    def refuse(*_: object) -> None:
        raise OutputError("read-only")

    monkeypatch.setattr(report, "render_files", refuse)
    out, err = run(capfd, "report", finished_run)
    assert "tflite-int8" in out
    assert err == "warning: read-only\n"


def test_report_of_nothing(tmp_path: Path, capfd: Any) -> None:
    _, err = run(capfd, "report", tmp_path, code=2)
    assert "Give a run folder that `edgekit deploy` wrote" in err
    (tmp_path / "report.json").write_text("{")
    _, err = run(capfd, "report", tmp_path, code=2)
    assert f"'{tmp_path / 'report.json'}' is not a valid Report" in err


def test_several_models_are_deployed_as_jobs_of_their_own(vit_arguments: list[str], tmp_path: Path, capfd: Any) -> None:
    at = vit_arguments.index("--weights")
    model, weights, options = vit_arguments[0], vit_arguments[at + 1], [*vit_arguments[1:at], *vit_arguments[at + 2 :]]
    for name in ("small", "large"):
        job = f'model = "{model}"\nweights = "{weights}"\noutput = "{name}"\n'
        (tmp_path / f"{name}.toml").write_text(job)
    (tmp_path / "labels.txt").write_text("\n".join(["class_0", *(f"another_{index}" for index in range(1, 10))]))
    job = f'model = "{model}"\nweights = "{weights}"\nlabels = "labels.txt"\noutput = "other"\n'
    (tmp_path / "other.toml").write_text(job)
    jobs = [tmp_path / f"{name}.toml" for name in ("small", "large", "other")]
    options += ["--target", "fake", "--min-speedup", "0"]
    with fake_runtime.added():
        _, err = run(capfd, "deploy", jobs[0], "resnett18", *options, code=2)
        assert err.count("resnett18'") == 1
        assert not (tmp_path / "small").exists(), "nothing was deployed before the wrong name was found"
        code = main(["deploy", *map(str, jobs), *options, "--json"])
        found = capfd.readouterr()
        assert code == 2, found.err
        assert found.err.count("class folders") == 1
        assert "1 of 3 models were not deployed: other" in found.err.splitlines()[-1]
        document = json.loads(found.out)
        assert [*document["reports"]] == ["small", "large"]
        alone = json.loads((tmp_path / "small" / "report.json").read_text())
        assert document["reports"]["small"] == alone
        chart = tmp_path / "chart.svg"
        out, _ = run(capfd, "report", tmp_path / "small", tmp_path / "large", "--max-p50", 0, "--chart", chart, code=1)
    assert out.startswith(("Ship nothing", "small: "))
    assert chart.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "--weights", "best.pth"], "--weights was given for 2 models"),
        (["resnet18", "resnet18", "--data", "."], "two of the models have the run folder"),
    ],
)
def test_several_models_that_one_command_cannot_deploy(arguments: list[str], message: str, capfd: Any) -> None:
    assert message in run(capfd, "deploy", *arguments, code=2)[1]
