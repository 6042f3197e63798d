"""`edgekit plan`: figures without weights, and jobs that are refused before they begin."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from edgekit.cli.main import main
from edgekit.compiler.export import export_graph
from edgekit.compiler.graph import layers
from edgekit.config.device_classes import load_device_class
from edgekit.config.runtimes import RUNTIMES, FileLimit
from edgekit.errors import ModelError, OutputError
from edgekit.models import meta, parse_model_args
from edgekit.models.options import ModelOptions
from edgekit.pipeline import deploy, plan
from tests.helpers.runtimes import registered
from tests.helpers.tiny import TINY_ARGS

TINY = ModelOptions("convnextv2_atto", model_args=parse_model_args(TINY_ARGS), imgsz=32)


def test_the_document_has_the_keys_that_were_promised(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "convnextv2_huge", "--imgsz", "224", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["params"] == 660_289_640
    assert found["macs"] == pytest.approx(115e9, rel=0.01)  # as published
    assert {frozenset(stage) for stage in found["stages"]} == {frozenset(("stage", "target", "peak_bytes", "seconds"))}
    keys = frozenset(("target", "precision", "size_bytes", "fits", "why"))
    assert {frozenset(each) for each in found["artifacts"]} == {keys}
    by = {(each["target"], each["precision"]): each for each in found["artifacts"]}
    assert not by["tflite", "float"]["fits"]
    assert "at most 2 GB" in by["tflite", "float"]["why"]
    assert "file of their own" in by["onnx", "float"]["why"]
    assert by["tflite", "int8"]["size_bytes"] < 2**30


def test_models_that_it_was_not_fitted_on() -> None:
    """Against what `benchmarks/scale.py` measured: peaks within a quarter, sizes within a twentieth."""
    found = scale.predictions()
    assert len({row["model"] for row in found}) >= 3
    for row in found:
        for key, share in (("peak", 0.25), ("float", 0.05), ("int8", 0.05)):
            said, measured = row[key]
            assert said == pytest.approx(measured, rel=share), (row["model"], row["target"], key)


def test_macs_are_those_of_the_exported_graph(tiny_convnext: Any) -> None:
    shape = plan.shape_of_model(TINY)
    assert shape.params == tiny_convnext.params
    graph = export_graph(tiny_convnext.module, (1, 3, 32, 32))
    assert shape.macs == sum(layer.macs for _, layer in layers(graph))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_gigantic_patch14_224", 1844),
        ("davit_giant", 1406),
        ("coatnet_7_224", 2476),
        ("open_clip:coca_ViT-L-14", 306),
    ],
)
def test_the_giants_are_planned_without_their_memory(name: str, millions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build_meta(options: ModelOptions) -> Any:
        built.append(meta.build_meta(options))
        return built[-1]

    monkeypatch.setattr("edgekit.pipeline.plan.build_meta", build_meta)
    found = plan.plan_model(ModelOptions(name), device_class=load_device_class("raspberry-pi-4"), memory_of_class=True)
    assert found.params / 1e6 == pytest.approx(millions, rel=0.01)
    ((module, _),) = built
    tensors = (*module.parameters(), *module.buffers())
    allocated = sum(tensor.nbytes for tensor in tensors if tensor.device.type != "meta")
    assert allocated < 0.01 * 4 * found.params
    fits = {each.name: each.fits for each in found.artifacts}
    assert fits["openvino-int8"]
    assert fits["openvino-float"] == (millions < 1000)
    assert found.latency_bound_ms
    assert found.latency_bound_ms.device_class == "raspberry-pi-4"


def test_a_person_reads_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "convnextv2_atto", "--device-class", "raspberry-pi-5", "--target", "onnx"]) == 0
    said = capfd.readouterr().out
    assert "3.71 M parameters, 0.55 GMAC at 224x224" in said
    assert "no inference on raspberry-pi-5 is faster than 7." in said
    assert "tflite" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "convnextv2_atoo"], "convnextv2_atto"),
        (["plan", "convnextv2_atto", "--device", "local", "--device-class", "raspberry-pi-5"], "both given"),
        (["plan", "vit_small_patch16_224", "--imgsz", "8"], "vit_small_patch16_224' at 8x8"),
    ],
)
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_job_that_cannot_finish_is_not_begun(
    job_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 1000)
    assert main(["deploy", *job_arguments, "-o", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "can't be finished here: openvino-float: " in said
    assert "GiB of memory and 0.0 GiB are available" in said
    assert "--force goes on all the same" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_bundle_that_its_format_cannot_hold_is_left_out_unless_forced(
    finished_run: Path,
    job_arguments: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    force: bool,
) -> None:
    planned = plan.plan_model(TINY, ["tflite"])
    small, large = sorted(each.size_bytes for each in planned.artifacts)
    limit = FileLimit((small + large) // 2, "a TFLite file")  # between the int8 bundle and the float one
    shutil.copytree(finished_run, tmp_path / "run")  # what isn't refused is there already
    run = ["deploy", *job_arguments, "--target", "tflite", "-o", str(tmp_path / "run"), "--quiet", "--json"]
    with registered(replace(RUNTIMES["tflite"], file_limit=limit)):
        assert main([*run, *(["--force"] if force else [])]) == (0 if force else 1)
    verdicts = {row["precision"]: row for row in json.loads(capfd.readouterr().out)["results"]}
    assert verdicts["int8"]["verdict"] == "pass"
    assert verdicts["float"]["verdict"] == ("pass" if force else "error")
    if not force:
        assert "not begun" in verdicts["float"]["reasons"][0]
        assert "a TFLite file holds at most" in verdicts["float"]["reasons"][0]


def test_a_job_that_cannot_be_planned_says_why(
    job_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("its code needs real tensors")

    def end(*_: object) -> None:
        raise OutputError("as far as this test goes")

    monkeypatch.setattr(plan, "plan_model", refuse)
    monkeypatch.setattr(deploy, "open_run", end)
    run = ["deploy", *job_arguments, "-o", str(tmp_path / "run"), "--quiet"]
    for options, warned in (([], True), (["--force"], False)):
        assert main([*run, *options]) == 2
        said = capfd.readouterr().err
        assert said.endswith("edgekit: error: as far as this test goes\n")
        assert ("its code needs real tensors" in said) is warned


def test_a_mistake_in_the_job_is_told_once(
    job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The plan stumbles over it too, and leaves it to the step that loads the model."""
    run = ["deploy", "no_such_model", *job_arguments[1:], "-o", str(tmp_path / "run"), "--quiet"]
    assert main(run) == 2
    assert capfd.readouterr().err.count("unknown model 'no_such_model'") == 1
