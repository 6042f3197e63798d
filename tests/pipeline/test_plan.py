"""`edgekit plan`: figures without weights, and jobs that are refused before they start."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import scale
from edgekit.cli.main import main
from edgekit.compiler.layers import layers
from edgekit.compiler.layouts import ConvolutionShape
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES, DeviceClass, FileLimit
from edgekit.errors import ModelError, OutputError
from edgekit.models import loading
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline import deploy, plan
from edgekit.pipeline.loading import JobSettings
from edgekit.pipeline.plan import shape_of_model
from tests.helpers.graphs import export_graph
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.runtimes import registered
from tests.helpers.tiny import TINY_ARGS

TINY = ModelOptions("convnextv2_atto", model_args=parse_model_args(TINY_ARGS), imgsz=32)


def test_the_document_has_the_documented_keys(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "convnextv2_huge", "--imgsz", "224", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["params"] == 660_289_640
    assert document["macs"] == pytest.approx(115e9, rel=0.01)  # as published
    assert {frozenset(stage) for stage in document["stages"]} == {frozenset(("stage", "target", "peak_bytes"))}
    keys = frozenset(("target", "precision", "size_bytes", "fits", "why", "peak_bytes"))
    assert {frozenset(artifact) for artifact in document["artifacts"]} == {keys}
    by = {(artifact["target"], artifact["precision"]): artifact for artifact in document["artifacts"]}
    assert not by["tflite", "float"]["fits"]
    assert "limited to 2 GB" in by["tflite", "float"]["why"]
    assert "separate file" in by["onnx", "float"]["why"]
    assert by["tflite", "int8"]["size_bytes"] < 2**30


def test_predictions_for_models_outside_the_fit() -> None:
    """Peaks are within an eighth of the measurements of `benchmarks/scale.py`, sizes within a twentieth."""
    rows = scale.predictions()
    assert len({row["model"] for row in rows}) >= 2
    for row in rows:
        for key, share in (("peak", 0.125), ("float", 0.05), ("int8", 0.05)):
            predicted, measured = row[key]
            assert predicted == pytest.approx(measured, rel=share), (row["model"], row["target"], key)


@pytest.mark.parametrize(("device_class", "said"), [("x86-64-v4", 0), ("raspberry-pi-5", 1)])
def test_a_plan_says_where_int8_runs_in_float(device_class: str, said: int, capfd: pytest.CaptureFixture[str]) -> None:
    model = ["convnextv2_atto", "--model-args", TINY_ARGS, "--imgsz", "32"]
    assert main(["plan", *model, "--device-class", device_class, "--memory", "8", "-q"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("openvino-int8 will hardly be faster than float") for line in lines) == said
    assert sum("hardly be faster" in line for line in lines) == said


@pytest.mark.slow
def test_predictions_for_giants() -> None:
    rows = scale.giants()
    assert len({row["model"] for row in rows}) >= 4
    for row in rows:
        predicted, measured = row["peak"]
        assert predicted == pytest.approx(measured, rel=0.125), (row["model"], row["target"])


def test_above_150_million_parameters_gptq_replaces_the_fit() -> None:
    shape = shape_of_model(TINY)
    recipe = Recipe.load("vit")
    assert recipe.weight_rounding == "fit"
    *_, gptq, moments, _ = plan.terms(shape, recipe, "tflite", "quantize")
    assert (gptq, moments > 0) == (0, True)
    *_, gptq, moments, _ = plan.terms(replace(shape, params=200_000_000), recipe, "tflite", "quantize")
    assert (gptq > 0, moments) == (True, 0)


def test_macs_are_those_of_the_exported_graph(tiny_convnext: Any) -> None:
    shape = shape_of_model(TINY)
    assert shape.params == tiny_convnext.params
    graph = export_graph(tiny_convnext.module, (1, 3, 32, 32))
    assert shape.macs == sum(layer.macs for _, layer in layers(graph))


def product_with_a_matrix() -> nn.Module:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.proj = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(8, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(x)).mean((2, 3)) @ self.proj

    return Product()


def test_a_product_with_a_matrix_counts_as_a_layer() -> None:
    shape = shape_of_model(ModelOptions("tests.pipeline.test_plan:product_with_a_matrix", imgsz=8))
    assert shape.dense == (("conv", 3 * 8 * 16, 8, False), ("proj", 80, 10, False))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_gigantic_patch14_224", 1844),
        pytest.param("davit_giant", 1406, marks=pytest.mark.slow),
        pytest.param("benchmarks.giant_networks:coatnet_7_224", 2476, marks=pytest.mark.slow),
        pytest.param("open_clip:coca_ViT-L-14", 306, marks=pytest.mark.slow),
        pytest.param("benchmarks.giant_networks:coca_2b", 1023, marks=pytest.mark.slow),
    ],
)
def test_the_giants_are_planned_without_their_memory(name: str, millions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build_meta(options: ModelOptions) -> Any:
        built.append(loading.build_meta(options))
        return built[-1]

    monkeypatch.setattr("edgekit.pipeline.plan.build_meta", build_meta)
    planned = plan.plan_model(ModelOptions(name), device_class=DeviceClass.load("raspberry-pi-4"), memory_of_class=True)
    assert planned.params / 1e6 == pytest.approx(millions, rel=0.01)
    ((module, _),) = built
    tensors = (*module.parameters(), *module.buffers())
    allocated = sum(tensor.nbytes for tensor in tensors if tensor.device.type != "meta")
    assert allocated < 0.01 * 4 * planned.params
    fits = {artifact.name: artifact.fits for artifact in planned.artifacts}
    assert fits["openvino-int8"]
    assert fits["openvino-float"] == (millions < 1050)
    assert planned.latency_bound_ms
    assert planned.latency_bound_ms.device_class == "raspberry-pi-4"


def test_the_recipe_is_that_of_the_device_class() -> None:
    """The Raspberry Pi 4's recipe leaves out a rewrite that adds 3.9 MB to this bundle."""
    model = ModelOptions("convnextv2_atto", imgsz=384)
    on_blocks, plain = (
        plan.plan_model(model, ["tflite"], DeviceClass.load(name)).artifacts[1].size_bytes
        for name in ("raspberry-pi-5", "raspberry-pi-4")
    )
    assert on_blocks - plain > 3_800_000


def test_a_rewrite_tells_the_plan_how_many_weights_it_makes() -> None:
    """Only a 7x7 depthwise convolution with stride 1 gets more, however alike another one looks."""
    row = replace(Recipe.load("convnextv2").targets["tflite"], int8_rewrites=("depthwise-blocks",))
    recipe = replace(Recipe.load("convnextv2"), targets={"tflite": row})
    tiny = replace(shape_of_model(TINY), convolutions=())
    plain = ConvolutionShape((8, 1, 7, 7), (12, 12), (1, 1), (3, 3), (1, 1), 8)
    for convolution, more in (
        (plain, 8 * 16 * 16 * 9 - 4 * 8 * 49),
        (replace(plain, output=(12, 13)), 0),
        (replace(plain, stride=(2, 2)), 0),
        (replace(plain, padding=(0, 0)), 0),
        (replace(plain, groups=1, weight=(8, 8, 7, 7)), 0),
    ):
        shape = replace(tiny, convolutions=(convolution,))
        size, without = (plan.size_of_weights(each, recipe, "tflite", "int8") for each in (shape, tiny))
        assert size - without == more, convolution


def test_a_runtimes_row_has_the_bytes_of_a_channel() -> None:
    shape, recipe = shape_of_model(TINY), Recipe.load("default")
    channels = sum(channels for _, _, channels, _ in shape.dense)
    before = plan.size_of_weights(shape, recipe, "onnx", "int8")
    with registered(replace(RUNTIMES["onnx"], bytes_per_channel=5)):
        assert plan.size_of_weights(shape, recipe, "onnx", "int8") - before == channels


def test_a_job_is_planned_with_its_own_recipe_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    def plan_model(*arguments: Any) -> Any:
        planned.append(arguments)
        raise ModelError("the test ends here")

    monkeypatch.setattr(plan, "plan_model", plan_model)
    settings = JobSettings(TINY, Recipe.load("default"), DeviceClass.load("raspberry-pi-4"), None)
    plan.refusals(settings, ("onnx",), ("float", "int8"))
    ((model, targets, device_class, recipe),) = planned
    assert (model, targets, device_class.name, recipe.name) == (TINY, ("onnx",), "raspberry-pi-4", "default")


def test_the_plan_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "convnextv2_atto", "--device-class", "raspberry-pi-5", "--target", "onnx"]) == 0
    out = capfd.readouterr().out
    assert "3.71 M parameters, 0.55 GMAC at 224x224" in out
    assert "multiply-accumulates at the nominal rate of raspberry-pi-5: 7." in out
    assert "tflite" not in out


@pytest.mark.parametrize(("more", "verdict"), [(0.1, "suffices"), (-0.1, "does not suffice")])
def test_the_plan_for_another_machine(more: float, verdict: str, capfd: pytest.CaptureFixture[str]) -> None:
    float_, _ = plan.plan_model(ModelOptions("convnextv2_atto"), ["onnx"]).artifacts
    memory = (float_.peak_bytes or 0) / 2**30 + more
    assert main(["plan", "convnextv2_atto", "--target", "onnx", "--memory", str(memory)]) == 0
    out = capfd.readouterr().out
    assert f"the machine has {memory:.1f} GiB of memory free" in out
    (line,) = (line for line in out.splitlines() if line.startswith("onnx-float: "))
    assert line.endswith(f"; making it takes {memory - more:.1f} GiB: the machine {verdict}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "convnextv2_atoo"], "convnextv2_atto"),
        (["plan", "convnextv2_atto", "--device", "local", "--device-class", "raspberry-pi-5"], "both given"),
        (["plan", "vit_small_patch16_224", "--imgsz", "8"], "vit_small_patch16_224' at 8x8"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_job_that_does_not_fit_is_not_started(
    job_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 1000)
    assert main(["deploy", *job_arguments, "-o", str(tmp_path / "run"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "does not fit on this machine: openvino-float: " in err
    assert "only 0.0 GiB are available" in err
    assert "`--force`" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_bundle_too_large_for_its_format_is_skipped_unless_forced(
    finished_run: Path,
    job_arguments: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    force: bool,
) -> None:
    planned = plan.plan_model(TINY, ["tflite"])
    small, large = sorted(artifact.size_bytes for artifact in planned.artifacts)
    limit = FileLimit((small + large) // 2, "a TFLite file")  # between the sizes of int8 and float
    shutil.copytree(finished_run, tmp_path / "run")  # the bundle that isn't refused exists already
    run = ["deploy", *job_arguments, "--target", "tflite", "-o", str(tmp_path / "run"), "--quiet", "--json"]
    with registered(replace(RUNTIMES["tflite"], file_limit=limit)), without_fresh_processes():
        assert main([*run, *(["--force"] if force else [])]) == (0 if force else 1)
    verdicts = {row["precision"]: row for row in json.loads(capfd.readouterr().out)["results"]}
    assert verdicts["int8"]["verdict"] == "pass"
    assert verdicts["float"]["verdict"] == ("pass" if force else "error")
    if not force:
        assert "skipped" in verdicts["float"]["reasons"][0]
        assert "a TFLite file is limited to" in verdicts["float"]["reasons"][0]


def test_a_job_that_cannot_be_planned_is_a_warning(
    job_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("its code needs real tensors")

    def end(*_: object) -> None:
        raise OutputError("the test ends here")

    monkeypatch.setattr(plan, "plan_model", refuse)
    monkeypatch.setattr(deploy, "open_run", end)
    run = ["deploy", *job_arguments, "-o", str(tmp_path / "run"), "--quiet"]
    for options, warned in (([], True), (["--force"], False)):
        assert main([*run, *options]) == 2
        err = capfd.readouterr().err
        assert "edgekit: error: the test ends here\n" in err
        assert ("its code needs real tensors" in err) is warned


def test_a_mistake_in_the_job_is_reported_once(
    job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The plan fails too, but leaves the report to the step that loads the model."""
    run = ["deploy", "no_such_model", *job_arguments[1:], "-o", str(tmp_path / "run"), "--quiet"]
    assert main(run) == 2
    assert capfd.readouterr().err.count("unknown model 'no_such_model'") == 1
