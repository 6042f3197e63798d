"""Values of a job as people state them: names, lists with commas, sizes and channels, in text or as Python values."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES, Runtime
from edgekit.devices.registry import THIS
from edgekit.errors import UsageError
from edgekit.job import Job
from edgekit.models.loading import load_network
from tests.helpers.refusals import refuses


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (["litert"], ("tflite",)),
        (["onnxruntime"], ("onnx",)),
        (["ort"], ("onnx",)),
        (["tflite", "litert"], ("tflite",)),
        (["onnx,openvino"], ("onnx", "openvino")),
        (["ort, litert", "openvino"], ("onnx", "tflite", "openvino")),
        (None, tuple(RUNTIMES)),
    ],
)
def test_runtimes(typed: list[str] | None, names: tuple[str, ...]) -> None:
    assert Job.of("net", {"targets": typed}).targets == names


def test_an_alias_is_no_name_of_a_file() -> None:
    """Manifests and reports have the runtime's own name."""
    with pytest.raises(UsageError):
        Runtime.find("litert")


def test_no_two_runtimes_share_a_name() -> None:
    names = [name for runtime in RUNTIMES.values() for name in (runtime.name, *runtime.aliases)]
    assert len(names) == len(set(names))


def test_precisions_and_devices() -> None:
    assert Job.of("net", {"precisions": ["int8,float"]}).precisions == ("float", "int8")
    assert Job.of("net", {"precisions": "int8"}).precisions == ("int8",)
    assert Job.of("net", {"precisions": ["fp32", "bf16"]}).precisions == ("float",)
    machines = Job.of("net", {"devices": ["local,ssh://pi@board:2222", "local"]}).machines
    assert machines[0] == THIS
    assert [machine.name for machine in machines] == ["local", "ssh://pi@board:2222"]
    with refuses(UsageError, "--precision", "'int4'"):
        Job.of("net", {"precisions": ["int8,int4"]})


@pytest.mark.parametrize("typed", ["onnx,", ",onnx", "onnx,,tflite", ","])
def test_an_empty_name_in_a_list(typed: str) -> None:
    with refuses(UsageError, "--target", f"'{typed}'"):
        Job.of("net", {"targets": [typed]})


@pytest.mark.parametrize(
    ("name", "stated", "value"),
    [
        ("imgsz", "224", 224),
        ("imgsz", "224X320", (224, 320)),
        ("imgsz", 224, 224),
        ("imgsz", (224, 320), (224, 320)),
        ("mean", "0.5, 0.25,1", (0.5, 0.25, 1.0)),
        ("mean", [0.5, 0.25, 1], (0.5, 0.25, 1.0)),
        ("std", "0.5", (0.5,)),
        ("model_args", "depth=2,act='gelu'", {"depth": 2, "act": "gelu"}),
        ("model_args", {"depth": 2}, {"depth": 2}),
        ("max_drop", 2, 2.0),
    ],
)
def test_values_as_text_and_from_python(name: str, stated: object, value: object) -> None:
    assert getattr(Job.of("net", {name: stated}), name) == value


@pytest.mark.parametrize(
    ("name", "stated", "valid"),
    [
        ("imgsz", "0", "a number of pixels"),
        ("imgsz", (1, 2, 3), "a number of pixels"),
        ("imgsz", 3.5j, "a number of pixels"),
        ("mean", "0.5,0.5", "three numbers for red"),
        ("std", (0.5, 0.5, 0), "three numbers above 0"),
        ("mean", "nan,0,0", "three numbers"),
        ("seed", -1, "a whole number from 0"),
        ("seed", True, "a whole number from 0"),
        ("threads", 1.5, "a whole number from 1 to 1024"),
        ("max_drop", float("nan"), "a number from 0 to 100"),
        ("force", "yes", "true or false"),
        ("targets", 3, "a name, or a list of names"),
        ("scheme", "w4", "w8a8 or w8"),
        ("weights", 3, "a text"),
        ("labels", 3, "a path"),
        ("model_args", 3, "KEY=VALUE"),
    ],
)
def test_values_that_are_not_valid(name: str, stated: object, valid: str) -> None:
    with pytest.raises(UsageError) as caught:
        Job.of("net", {name: stated}, label=lambda field: f"the field {field}")
    assert caught.value.problem.startswith(f"the field {name} is '")
    assert caught.value.valid.startswith(valid)


def test_an_unknown_field_is_named_with_the_nearest() -> None:
    with refuses(UsageError, "'max_dorp'", "max_drop"):
        Job.of("net", {"max_dorp": 1})


@pytest.mark.parametrize("option", ["--target", "--runtime"])
@pytest.mark.parametrize("command", ["deploy", "quantize", "compile", "plan", "sensitivity"])
def test_the_option_has_two_names(command: str, option: str, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = [] if command == "plan" else ["--data", str(photos)]
    assert main([command, "resnet18", option, "caffe,onnx", *data]) == 2
    err = capfd.readouterr().err
    assert "unknown target 'caffe'" in err
    assert "openvino, onnx, tflite" in err


def test_a_crop_mode_that_is_stated_is_the_networks() -> None:
    options = Job.of("resnet18", {"crop_mode": "squash", "weights": "random"}).model_options
    assert load_network(options).preprocessing.crop_mode == "squash"


@pytest.mark.parametrize("images", [[(b"", 0)] * 2, {"train": [(b"", 0)], "test": [(b"", 0)]}, ([b""], [0])])
def test_the_command_of_images_in_memory_does_not_have_them(images: Any) -> None:
    job = Job.of("net", {"data": images, "mean": (0.5, 0.5, 0.5)})
    assert job.command == ("deploy", "net", "--data", f"<{type(images).__name__} in memory>", "--mean", "0.5,0.5,0.5")
