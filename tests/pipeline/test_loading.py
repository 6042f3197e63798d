"""The settings of a job: the device class of its first device, and rounding that its size allows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.devices.registry import THIS, Device
from edgekit.errors import OutputError, UnreachableError, UsageError
from edgekit.job import Job
from edgekit.pipeline import loading
from edgekit.pipeline.loading import for_size
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses


def test_a_machine_without_a_class_needs_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.DeviceClass, "of_host", lambda: None)
    with refuses(UsageError, "--device-class") as caught:
        loading.choose_class(None, THIS)
    assert "raspberry-pi-4" in str(caught.value)
    chosen = loading.choose_class("raspberry-pi-5", THIS)
    assert chosen.name == "raspberry-pi-5"


def test_the_class_is_that_of_the_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Device("pi", "ssh://pi", "raspberry-pi-5")
    assert loading.choose_class(None, board).name == "raspberry-pi-5"

    def unreachable(device: Device) -> str:
        raise UnreachableError(f"{device.name}: no connection.")

    monkeypatch.setattr(loading, "class_of_remote", unreachable)
    with refuses(UnreachableError, "pi") as caught:
        loading.choose_class(None, board)
    assert "--device-class" in caught.value.fix
    assert loading.choose_class("raspberry-pi-4", board).name == "raspberry-pi-4"
    monkeypatch.setattr(loading, "class_of_remote", lambda device: None)
    with refuses(UsageError, "'pi'", "--device-class"):
        loading.choose_class(None, board)


def test_two_networks_do_not_share_a_folder_silently(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the folder of the model's name the second one is refused, and in one that the user names it warns."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("runs/resnet18").symlink_to(finished_run)
    network: Any = SimpleNamespace(name="resnet18", weights_sha256="0" * 64)
    with refuses(OutputError, "'runs/resnet18' has bundles of another network", "--output runs/resnet18-2"):
        loading.check_folder(Job.of("resnet18", {}), network, Reporter())
    loading.check_folder(Job.of("resnet18", {"output": "runs/resnet18"}), network, Reporter())
    assert "'runs/resnet18' has bundles of another network" in capfd.readouterr().err
    same = read_bundle(finished_run / "onnx-int8").manifest.recorded("model", "weights_sha256")
    for job, weights in ((Job.of("resnet18", {}), same), (Job.of("resnet50", {}), "0")):
        network.weights_sha256 = weights
        loading.check_folder(job, network, Reporter())
    assert capfd.readouterr().err == ""


def test_only_large_networks_are_not_fitted() -> None:
    fit = replace(Recipe.load("default"), weight_rounding="fit")
    assert for_size(fit, runtimes.ROUNDED_TOGETHER_UP_TO) is fit
    assert for_size(fit, runtimes.ROUNDED_TOGETHER_UP_TO + 1).weight_rounding == "gptq"
    nearest = replace(fit, weight_rounding="nearest")
    assert for_size(nearest, runtimes.ROUNDED_TOGETHER_UP_TO + 1) is nearest
