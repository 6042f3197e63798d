"""The app of `edgekit report --web`: Chromium opens it from a static host, and it classifies as Python does."""

import asyncio
import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.cli.main import main
from edgekit.config.interpolations import INTERPOLATIONS
from edgekit.devices.web.app import bundle_for_app
from edgekit.devices.web.runtime_package import RuntimeFiles
from edgekit.errors import UsageError
from edgekit.images.preprocess import CROP_MODES, Preprocessing
from edgekit.report.document import Recommendation
from tests.helpers.chromium import opened_tab
from tests.helpers.reports import report, row
from tests.helpers.tiny import MakeBundle


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """The address of a folder while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cached(litertjs: RuntimeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find LiteRT.js in edgekit's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(litertjs.folder.parent.parent))


def photo(width: int, height: int) -> Image.Image:
    """Colours that change smoothly, and noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 255 // height, columns * 255 // width, (rows * columns) % 256], axis=2)
    noise = np.random.default_rng(0).integers(-30, 31, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def preprocessings() -> Iterator[Preprocessing]:
    """Every crop mode and every filter, larger and smaller sides, RGB and grey."""
    rgb, grey = (0.485, 0.456, 0.406), (0.5,)
    for mode in CROP_MODES:
        for name in INTERPOLATIONS:
            yield Preprocessing(32, 32, name, 0.875, mode, rgb, rgb)
        yield Preprocessing(150, 101, "bicubic", 0.95, mode, rgb, rgb)
        yield Preprocessing(33, 48, "bilinear", 1.0, mode, grey, grey)


READ_ANSWER = """[...document.querySelectorAll("li")].map((item) =>
  [item.querySelector("span").textContent, item.querySelector("meter").value])"""
PREPARE = """(async () => {
  const {crop, normalize, pixels} = await import("./edgekit.js");
  const image = await pixels(await (await fetch("image.png")).blob());
  return ALL.map((preprocessing) => {
    const bytes = crop(image, preprocessing);
    return [Array.from(bytes), Array.from(normalize(bytes, {preprocessing, layout: "NCHW"}))];
  });
})()"""


def test_the_app_answers_as_python_does(
    chromium: str, cached: None, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    app, image = tmp_path / "app", tmp_path / "image.jpg"
    assert main(["report", str(finished_run), "--web", str(app), "--bundle", "tflite-int8"]) == 0
    assert "http.server" in capfd.readouterr().err
    odd = photo(123, 77)
    odd.save(image)
    odd.save(app / "image.png")
    everything = list(preprocessings())

    async def act(url: str) -> tuple[list[Any], list[Any]]:
        async with opened_tab(chromium, url, tmp_path) as tab:
            await tab.wait_for("document.querySelector('input')?.disabled === false")
            await tab.choose("input", image)
            await tab.wait_for("document.querySelectorAll('li').length")
            settings = json.dumps([each.to_dict() for each in everything])
            return await tab.evaluate(READ_ANSWER), await tab.evaluate(PREPARE.replace("ALL", settings))

    with static_host(app) as url:
        answer, prepared = asyncio.run(act(url))
    with edgekit.load(finished_run / "tflite-int8") as session:
        expected = session.classify(image)
    assert [label for label, _ in answer] == [label for label, _ in expected]
    assert [score for _, score in answer] == pytest.approx([score for _, score in expected], abs=1e-6)
    for preprocessing, (pixels, values) in zip(everything, prepared, strict=True):
        own = preprocessing.crop(odd)
        np.testing.assert_array_equal(np.array(pixels, np.uint8).reshape(own.shape), own, str(preprocessing))
        own_values = preprocessing.normalize(own)
        np.testing.assert_array_equal(np.array(values, np.float32).reshape(own_values.shape), own_values)


def test_the_app_takes_the_bundle_that_is_recommended_or_named(make_bundle: MakeBundle, tmp_path: Path) -> None:
    for name in ("tflite-float", "tflite-int8"):
        make_bundle("tflite", name)
    make_bundle("onnx", "onnx-int8")
    here, phone = (
        Recommendation(name, bundle, "") for name, bundle in (("local", "onnx-int8"), ("web", "tflite-int8"))
    )
    rows = (row("onnx"), row("tflite"), row("tflite", "float"))
    own, with_phone = (report(results=rows, recommendation=replace(here, others=each)) for each in ((), (phone,)))
    assert bundle_for_app(with_phone, tmp_path, None).path.name == "tflite-int8"
    assert bundle_for_app(with_phone, tmp_path, "tflite-float").path.name == "tflite-float"
    for named in (None, "onnx-int8", "gone"):
        with pytest.raises(UsageError) as caught:
            bundle_for_app(own, tmp_path, named)
        assert caught.value.valid == "tflite-int8, tflite-float"
        assert "--bundle tflite-float" in caught.value.fix
    with pytest.raises(UsageError, match="recommends none") as caught:
        bundle_for_app(report(results=(row("onnx"),), recommendation=here), tmp_path, None)
    assert "--target tflite" in caught.value.fix
