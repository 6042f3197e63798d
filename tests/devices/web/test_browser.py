"""What a page's facts mean: browser, build, dot product; and what can't be measured in a browser."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.cli.main import main
from edgekit.devices.registry import Device, browser_called
from edgekit.devices.web import check_browsers, runtime_files
from edgekit.devices.web.browser import browser_of, build_for, device_of, dot_product
from edgekit.devices.web.server import DotProducts, PageFacts
from edgekit.errors import BrowserError, MissingExtraError, UsageError
from edgekit.measure.settings import Timing
from tests.helpers.pages import FACTS
from tests.helpers.tiny import MakeBundle

PHONE = Device("web:pixel", "web")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Version/19.0 Mobile Safari/604.1"


def facts(**changes: Any) -> PageFacts:
    return msgspec.convert(FACTS | changes, PageFacts)


def test_a_phone_as_reports_describe_it() -> None:
    device = device_of(PHONE, facts(clock_ms=0.09999), "relaxed")
    assert (device.name, device.cpu, device.system) == ("web:pixel", "Pixel 9, in Google Chrome 150", "Android 16.0.0")
    assert device.cores == 8
    assert device.memory_bytes is None
    assert device.browser is not None
    assert (device.browser.dot_product, device.browser.clock_ms) == ("signed", 0.1)


def test_a_page_controls_no_terminal() -> None:
    device = device_of(
        PHONE, facts(model="\x1b[2JPixel", platform="\x1b[2JAndroid", user_agent="\x1b[2JMozilla"), "relaxed"
    )
    assert device.browser is not None
    assert "\x1b" not in f"{device.cpu}{device.system}{device.browser.user_agent}"


@pytest.mark.parametrize(
    ("agent", "name"), [(FIREFOX, "Firefox 153"), (SAFARI, "Safari 19"), ("?", "an unknown browser")]
)
def test_browsers_without_brands(agent: str, name: str) -> None:
    assert browser_of(facts(brands=[], user_agent=agent)) == name


@pytest.mark.parametrize(
    ("small", "large", "kind"), [(-128, 512, "signed"), (128, -130560, "unsigned"), (-128, 32767, "emulated")]
)
def test_dot_products(small: int, large: int, kind: str) -> None:
    assert dot_product(DotProducts((small,) * 4, (large,) * 4)) == kind
    assert dot_product(None) == "absent"


def test_the_fastest_build_that_the_browser_can_run() -> None:
    assert build_for("web", facts(), 4) == "relaxed", "without isolation there are no threads"
    assert build_for("web", facts(isolated=True), 4) == "threaded"
    assert build_for("web", facts(isolated=True), 1) == "relaxed"
    assert build_for("web", facts(isolated=True, dot_products=None), 4) == "compat"
    with pytest.raises(BrowserError) as caught:
        build_for("web", facts(simd=False), 1)
    assert "Google Chrome 150" in caught.value.problem


def test_names_of_browsers() -> None:
    assert browser_called("web") == Device("web", "web")
    assert browser_called("web:pixel") == PHONE
    assert PHONE.is_browser
    assert not Device("board", "ssh://board").is_browser
    assert browser_called("webcam") is None
    for name in ("web:", "web:a b"):
        with pytest.raises(UsageError):
            browser_called(name)
    with pytest.raises(UsageError, match="is a browser"):
        Device.find_machine("web:pixel")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "ssh://board"], "--device is 'ssh://board'"),
        (["--device", "local,web"], "--device is 'local,web'"),
        (["--device", "web", "--workers", "2"], "--workers"),
        (["--device", "web", "--shard", "1/2", "--output", "parts"], "--shard"),
        (["--web-network", "https"], "--web-network is for browsers"),
    ],
)
def test_evaluate_takes_this_machine_or_a_browser(
    options: list[str], told: str, photos: Path, capsys: pytest.CaptureFixture[str], make_bundle: MakeBundle
) -> None:
    assert main(["evaluate", str(make_bundle("tflite")), "--data", str(photos), *options]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_no_other_bundle_takes_the_place_of_a_reference_that_browsers_cannot_run(
    target: str, photos: Path, capsys: pytest.CaptureFixture[str], make_bundle: MakeBundle
) -> None:
    reference, bundle = make_bundle(target, "reference"), make_bundle("tflite", "bundle")
    options = ["--data", str(photos), "--reference", str(reference), "--device", "web", "--max-drop", "1"]
    assert main(["evaluate", str(bundle), *options]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"can't run the reference '{reference}'" in err
    assert "--target tflite" in err


def test_what_browsers_cannot_do_is_refused_before_the_work() -> None:
    check_browsers([PHONE], Timing())
    check_browsers([Device("board", "ssh://board")], Timing(streams=2), ["onnx"])
    with pytest.raises(UsageError, match="--streams"):
        check_browsers([PHONE], Timing(streams=2))
    with pytest.raises(UsageError, match="--sustain"):
        check_browsers([PHONE], Timing(sustain_s=60))
    with pytest.raises(UsageError, match="openvino, onnx") as caught:
        check_browsers([PHONE], Timing(), ["openvino", "onnx", "tflite"])
    assert "--target tflite" in caught.value.valid


def test_another_package_than_expected_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "core.tgz"
    for content in (None, b"another package"):
        if content:
            package.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            runtime_files(package)
        assert "npm pack @litertjs/core@" in caught.value.fix


def test_without_npm_the_error_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(MissingExtraError, match="npm is not installed") as caught:
        runtime_files()
    assert "--web-runtime FILE" in caught.value.fix
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(MissingExtraError, match="npm failed: code E404"):
        runtime_files()
    assert not list((tmp_path / "cache").rglob("*.wasm"))
