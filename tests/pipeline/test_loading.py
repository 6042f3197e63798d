"""The settings of a job: the device class of its first device, and rounding that its size allows."""

from dataclasses import replace

import pytest

from edgekit.config import sizes
from edgekit.config.recipes import load_recipe
from edgekit.devices.registry import THIS, Device
from edgekit.errors import UnreachableError, UsageError
from edgekit.pipeline import loading
from edgekit.pipeline.loading import for_size
from tests.helpers.refusals import refuses


def test_a_machine_without_a_class_needs_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "host_class", lambda: None)
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


def test_only_large_networks_are_not_fitted() -> None:
    fit = replace(load_recipe("default"), weight_rounding="fit")
    assert for_size(fit, sizes.ROUNDED_TOGETHER_UP_TO) is fit
    assert for_size(fit, sizes.ROUNDED_TOGETHER_UP_TO + 1).weight_rounding == "gptq"
    nearest = replace(fit, weight_rounding="nearest")
    assert for_size(nearest, sizes.ROUNDED_TOGETHER_UP_TO + 1) is nearest
