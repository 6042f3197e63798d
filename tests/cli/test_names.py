"""Names that people type: runtimes as their projects call them, an option's other name, and lists with commas."""

import pytest

from edgekit.cli.main import main
from edgekit.cli.options import devices_of, precisions_of, targets_of
from edgekit.config.runtimes import RUNTIMES, find_runtime
from edgekit.devices.registry import THIS
from edgekit.errors import UsageError
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
    assert targets_of(typed) == names


def test_an_alias_is_no_name_of_a_file() -> None:
    """Manifests and reports have the runtime's own name."""
    with pytest.raises(UsageError):
        find_runtime("litert")


def test_no_two_runtimes_share_a_name() -> None:
    names = [name for runtime in RUNTIMES.values() for name in (runtime.name, *runtime.aliases)]
    assert len(names) == len(set(names))


def test_precisions_and_devices() -> None:
    assert precisions_of(["int8,float"]) == ("float", "int8")
    assert precisions_of(["int8"]) == ("int8",)
    assert devices_of(["local,ssh://pi@board:2222", "local"])[0] == THIS
    assert [device.name for device in devices_of(["local,ssh://pi@board:2222", "local"])][1:] == ["ssh://pi@board:2222"]
    with refuses(UsageError, "--precision", "'fp16'"):
        precisions_of(["int8,fp16"])


@pytest.mark.parametrize("typed", ["onnx,", ",onnx", "onnx,,tflite", ","])
def test_an_empty_name_in_a_list(typed: str) -> None:
    with refuses(UsageError, "--target", f"'{typed}'"):
        targets_of([typed])


@pytest.mark.parametrize("option", ["--target", "--runtime"])
@pytest.mark.parametrize("command", ["deploy", "quantize", "compile", "plan", "tune", "sensitivity"])
def test_the_option_has_two_names(command: str, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = [] if command == "plan" else ["--data", "."]
    assert main([command, "resnet18", option, "caffe,onnx", *data]) == 2
    err = capfd.readouterr().err
    assert "unknown target 'caffe'" in err
    assert "openvino, onnx, tflite" in err
