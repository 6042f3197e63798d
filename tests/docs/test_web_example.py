"""The example of an app in a browser: Chromium opens it from a static host, and it classifies as Python does."""

import asyncio
import functools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS
from edgekit.devices.web import VERSION
from edgekit.images.preprocess import Preprocessing
from edgekit.runtime.bundle import read_bundle, with_manifest
from tests.docs.blocks import run_bash
from tests.helpers.chromium import opened_tab
from tests.helpers.tiny import ROOT, MakeBundle


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
def app(litertjs: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands of the documentation make."""
    page = (ROOT / "docs/how-to/apps.md").read_text()
    (script,) = re.findall(r"```bash\n(cp -r docs/examples/web.*?)python -m http.server", page, re.DOTALL)
    assert script.count(VERSION) == 2, "the page names another version of LiteRT.js than the tested one"
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(finished_run)
    monkeypatch.setenv("npm_config_cache", str(Path.home() / ".npm"))  # where npm put it for `litertjs`
    run_bash(script, tmp_path)
    return tmp_path / "app"


def photo(width: int, height: int) -> Image.Image:
    """Colours that change smoothly, and noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 255 // height, columns * 255 // width, (rows * columns) % 256], axis=2)
    noise = np.random.default_rng(0).integers(-30, 31, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def preprocessings() -> Iterator[Preprocessing]:
    """Every crop mode and every filter, larger and smaller sides, RGB and grey, and the fast form."""
    rgb, grey = (0.485, 0.456, 0.406), (0.5,)
    for mode in CROP_MODES:
        for name in INTERPOLATIONS:
            yield Preprocessing(32, 32, name, 0.875, mode, rgb, rgb)
        yield Preprocessing(150, 101, "bicubic", 0.95, mode, rgb, rgb)
        yield Preprocessing(33, 48, "bilinear", 1.0, mode, grey, grey)
        yield Preprocessing(16, 16, "bicubic", 0.875, mode, rgb, rgb, margin=1.5)
        yield Preprocessing(5, 7, "nearest", 1.0, mode, grey, grey, margin=1.0)


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

MEANINGS: dict[str, dict[str, Any]] = {
    "labels": {"task": "multi-label", "activation": "sigmoid"},
    "thresholds": {"task": "multi-label", "activation": "sigmoid", "thresholds": [0.0, *[1.0] * 8, 0.0]},
    "vector": {"task": "embedding", "activation": "normalize"},
    "raw": {"task": "embedding", "activation": "none"},
}
"""What the outputs of the model can mean besides scores of one class, by the name of a bundle."""
MEAN = """(async () => {
  const {open} = await import("./edgekit.js"), image = await (await fetch("image.png")).blob(), answers = {};
  for (const name of NAMES) {
    const model = await open(name + "/"), refused = [];
    for (const call of ["classify", "embed"]) await model[call](image).catch((error) => refused.push(error.message));
    const calls = model.givesVectors ? [model.embed(image)] : [model.classify(image), model.classify(image, 3, 0)];
    const results = await Promise.all(calls);
    answers[name] = [...refused, ...results.map(({top, vector}) => top ?? Array.from(vector))];
  }
  return answers;
})()"""
SHOWN = """document.querySelector("#status").textContent.includes("Prepared")"""


def with_meanings(app: Path, bundle: Path) -> Iterator[tuple[str, Path]]:
    """Copies of the bundle in the app, with each of the meanings in their manifests."""
    for name, changes in MEANINGS.items():
        copy = shutil.copytree(bundle, app / name)
        with_manifest(read_bundle(copy), **changes)
        yield name, copy


def test_the_app_reads_the_meaning_of_the_outputs_as_python_does(
    chromium: str, app: Path, finished_run: Path, tmp_path: Path
) -> None:
    photo(123, 77).save(app / "image.png")
    bundles = dict(with_meanings(app, finished_run / "tflite-int8"))

    async def act(url: str) -> dict[str, Any]:
        async with opened_tab(chromium, url, tmp_path) as tab:
            answers: dict[str, Any] = await tab.evaluate(MEAN.replace("NAMES", json.dumps(list(bundles))))
            return answers

    with static_host(app) as url:
        answers = asyncio.run(act(url))
    for name, bundle in bundles.items():
        refused, *given = answers[name]
        with edgekit.load(bundle) as session:
            if session.bundle.manifest.gives_vectors:
                assert "call embed" in refused
                np.testing.assert_allclose(given[0], session.embed(app / "image.png"), rtol=1e-5, atol=1e-6)
                continue
            assert "call classify" in refused
            calls = session.classify(app / "image.png"), session.classify(app / "image.png", 3, 0)
            for top, expected in zip(given, calls, strict=True):
                assert [one["label"] for one in top] == [label for label, _ in expected]
                assert [one["score"] for one in top] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_the_app_gives_a_model_the_pixels_that_it_takes(
    chromium: str, app: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    photo(123, 77).save(app / "image.png")
    bundle = shutil.copytree(make_bundle("tflite", dtype="uint8"), app / "pixels")

    async def act(url: str) -> list[Any]:
        async with opened_tab(chromium, url, tmp_path) as tab:
            answers: dict[str, list[Any]] = await tab.evaluate(MEAN.replace("NAMES", '["pixels"]'))
            return answers["pixels"]

    with static_host(app) as url:
        _, best, _ = asyncio.run(act(url))
    with edgekit.load(bundle) as session:
        expected = session.classify(app / "image.png")
    assert [one["label"] for one in best] == [label for label, _ in expected]
    assert [one["score"] for one in best] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_the_page_of_a_bundle_of_vectors_compares_images(
    chromium: str, app: Path, finished_run: Path, tmp_path: Path
) -> None:
    images = [tmp_path / f"{width}.png" for width in (60, 61, 200)]
    for image, width in zip(images, (60, 61, 200), strict=True):
        photo(width, 60).save(image)
    shutil.rmtree(app / "bundle")
    shutil.copytree(finished_run / "tflite-int8", app / "bundle")
    bundle = with_manifest(read_bundle(app / "bundle"), **MEANINGS["raw"])

    async def act(url: str) -> list[Any]:
        async with opened_tab(chromium, url, tmp_path) as tab:
            await tab.wait_for("document.querySelector('input')?.disabled === false")
            for index, image in enumerate(images):
                await tab.choose("input", image)
                await tab.wait_for(f"document.querySelectorAll('li').length === {index} && {SHOWN}")
            answer: list[Any] = await tab.evaluate(READ_ANSWER)
            return answer

    with static_host(app) as url:
        answer = asyncio.run(act(url))
    with edgekit.load(bundle.path) as session:
        first, second, last = (session.embed(image) / np.linalg.norm(session.embed(image)) for image in images)
    expected = sorted([("60.png", float(first @ last)), ("61.png", float(second @ last))], key=lambda pair: -pair[1])
    assert [name for name, _ in answer] == [name for name, _ in expected]
    assert [cosine for _, cosine in answer] == pytest.approx([max(cosine, 0) for _, cosine in expected], abs=1e-5)


def test_the_app_answers_as_python_does(chromium: str, app: Path, finished_run: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
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
