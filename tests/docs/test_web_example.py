"""The example of an app in a browser: Chromium opens it from a static host, and it classifies as Python does.

So does the example in C++, for the same photo.
"""

import asyncio
import functools
import json
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgekit
from edgekit.config.runtimes import CROP_MODES, FORMS, INTERPOLATIONS, Form
from edgekit.devices.web import VERSION
from edgekit.images.preprocess import Preprocessing, open_image
from edgekit.measure.end_to_end import PHOTO, photo_of
from edgekit.runtime.bundle import read_bundle, with_manifest
from tests.docs.blocks import run_bash
from tests.docs.test_examples import compiled
from tests.helpers.chromium import opened_tab
from tests.helpers.tiny import ROOT, SIDE, MakeBundle


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


PROGRAM = """
#define main classify_main
#include "classify.cpp"
#undef main
// BUNDLE IMAGE.ppm: writes the input of the model to IMAGE.ppm.input, and prints the best label and its score.
int main(int count, char** arguments) {
    const std::string manifest = contents(std::string(arguments[1]) + "/manifest.json"), image = arguments[2];
    const size_t height = std::stoul(value(manifest, "height")), width = std::stoul(value(manifest, "width"));
    ov::Tensor input(ov::element::f32, {1, 3, height, width});
    preprocess(read_ppm(image), manifest, input);
    std::ofstream(image + ".input", std::ios::binary).write(static_cast<char*>(input.data()), input.get_byte_size());
    return classify_main(count, arguments);
}
"""
OPEN = """(async () => {
  const {open, crop, normalize, pixels} = await import("./edgekit.js"), model = await open(FOLDER), {manifest} = model;
  const photo = await (await fetch(PHOTO)).blob(), [best] = (await model.classify(photo)).top;
  return [Array.from(normalize(crop(await pixels(photo), manifest.preprocessing), manifest)), best.label, best.score];
})()"""


@dataclass(frozen=True)
class Answer:
    """A model's input, float32 [1,3,H,W], and its best answer."""

    values: NDArray[np.float32]
    label: str
    score: float


@dataclass(frozen=True)
class Answers:
    """Those of the examples for one photo in one form, each beside that of Python on the same runtime."""

    preprocessing: Preprocessing
    page: Answer
    program: Answer
    on_litert: Answer
    on_openvino: Answer

    def levels(self) -> list[NDArray[np.int64]]:
        """How far each pixel of the page and of the program is from Python's, in levels of 255."""
        python, *others = (
            self.preprocessing.pixels(each.values).astype(np.int64)
            for each in (self.on_litert, self.page, self.program)
        )
        return [np.abs(other - python) for other in others]


def answers_of(
    files: dict[str, bytes], bundles: tuple[Path, Path], program: Path, chromium: str, app: Path
) -> Iterator[tuple[str, Form, Answers]]:
    """The answers for each JPEG in each form, with one model's bundles for LiteRT and for OpenVINO."""
    for name, content in files.items():
        (app / f"{name}.jpg").write_bytes(content)
        open_image(content).save(app / f"{name}.ppm")

    for form in FORMS:
        for bundle in map(read_bundle, bundles):
            copy = shutil.copytree(bundle.path, app / form / bundle.manifest.target)
            with_manifest(read_bundle(copy), preprocessing=bundle.manifest.preprocessing.in_form(form))
    cases = [(form, name) for form in FORMS for name in files]

    async def on_the_page(url: str) -> list[Any]:
        async with opened_tab(chromium, url, app.parent) as tab:
            settings = [(json.dumps(f"{form}/tflite/"), json.dumps(f"{name}.jpg")) for form, name in cases]
            return [await tab.evaluate(OPEN.replace("FOLDER", one).replace("PHOTO", two)) for one, two in settings]

    with static_host(app) as url:
        given = asyncio.run(on_the_page(url))
    for (form, name), (values, *best) in zip(cases, given, strict=True):
        python = []
        for target in ("tflite", "openvino"):
            with edgekit.load(app / form / target) as session:
                answer = session.classify(app / f"{name}.jpg", top=1)[0]
                python.append(Answer(session.preprocess(app / f"{name}.jpg"), *answer))
                preprocessing = session.bundle.manifest.preprocessing
        shape, ppm = python[0].values.shape, app / f"{name}.ppm"
        command = [program, app / form / "openvino", ppm]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        label, _, score = told.strip().rpartition(" ")
        of_program = Answer(np.fromfile(f"{ppm}.input", np.float32).reshape(shape), label, float(score))
        of_page = Answer(np.array(values, np.float32).reshape(shape), *best)
        yield name, form, Answers(preprocessing, of_page, of_program, *python)


@pytest.fixture
def files(shared_data: Path) -> dict[str, bytes]:
    """A photo, and one of 12 megapixels made of it."""
    with zipfile.ZipFile(shared_data / "imagenet-500.zip") as archive:
        file = archive.read(next(name for name in sorted(archive.namelist()) if name.endswith(".JPEG")))
    return {"file": file, "photo": photo_of(np.asarray(open_image(file)), PHOTO)}


@pytest.mark.slow
def test_a_photo_is_the_same_to_the_app_and_to_the_program_in_cpp(
    files: dict[str, bytes], chromium: str, app: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Python decodes JPEGs at a fraction in the fast form, and the others average the pixels of the whole."""
    (tmp_path / "cpp").mkdir()
    program = compiled(tmp_path / "cpp", PROGRAM)
    preprocessing = Preprocessing(SIDE, SIDE, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    tiny = (
        make_bundle("tflite", "a", preprocessing=preprocessing),
        make_bundle("openvino", "b", preprocessing=preprocessing),
    )
    for name, form, answers in answers_of(files, tiny, program, chromium, app):
        page, cpp = answers.levels()
        np.testing.assert_array_equal(page, cpp, f"{name}, {form}")
        if form == "exact":
            assert not page.any(), name
            np.testing.assert_array_equal(answers.program.values, answers.on_openvino.values)
            np.testing.assert_array_equal(answers.page.values, answers.on_litert.values)
        assert page.mean() <= 1
        most = 2e-6 if form == "exact" else 0.02
        for one, python in ((answers.page, answers.on_litert), (answers.program, answers.on_openvino)):
            assert one.label == python.label
            assert one.score == pytest.approx(python.score, abs=most)
