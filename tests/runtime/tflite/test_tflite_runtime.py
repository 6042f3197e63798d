"""Bundles for LiteRT also run with tflite-runtime 2.14, Python 3.11 and numpy 1."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass, Precision
from edgekit.models.loading import load_network
from edgekit.models.network import Network, torch_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import compile_stage
from edgekit.pipeline.graphs import quantize_stage
from edgekit.pipeline.request import ParitySamples
from edgekit.runtime.bundle import read_bundle
from tests.helpers.calibration import noise_for, spec_of
from tests.helpers.environments import find_python, new_environment, run
from tests.helpers.graphs import export_graph

pytestmark = pytest.mark.slow

SIDE = 64
CLASSES = 10


@pytest.fixture(scope="module")
def old_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel and tflite-runtime."""
    folder = tmp_path_factory.mktemp("old") / "env"
    return new_environment(folder, wheel, "tflite-runtime==2.14.0", "numpy<2", python=find_python("3.11"))


@pytest.fixture(scope="module")
def network() -> Network:
    """A small ConvNeXt V2 with all its parts and random weights."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": CLASSES}
    return load_network(ModelOptions("convnextv2_atto", weights="random", model_args=sizes, imgsz=SIDE), seed=0)


def test_it_refuses_a_bundle_with_ranges_at_run_time(network: Network, old_python: Path, tmp_path: Path) -> None:
    """Its interpreter doesn't know this version of the operation, and `load` says so before."""
    device_class = DeviceClass.load("x86-64-v4")
    recipe = Recipe.load("convnextv2").with_kinds("tflite", {"head.fc": "dynamic"})
    samples = noise_for(network)
    images = [network.preprocessing.normalize(pixels[None]) for pixels in samples.pixels]
    spec = spec_of(network, recipe, device_class)
    to_compile = quantize_stage(
        spec, "tflite", "int8", export_graph(network.module, (1, 3, SIDE, SIDE)), samples, images
    )
    bundle, _ = compile_stage(to_compile, tmp_path / "bundle")
    assert [layer["name"] for layer in bundle.manifest.layers if layer["kind"] == "dynamic"] == ["head.fc"]
    edgekit.load(bundle.path, verify=True).close()
    code = """
import sys, edgekit, tflite_runtime.interpreter
for attempt in (edgekit.load, lambda path: tflite_runtime.interpreter.Interpreter(path + "/model.tflite")):
    try:
        attempt(sys.argv[1])
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = run(old_python, "-I", "-c", code, bundle.path, cwd=tmp_path)
    refused, unknown = done.stdout.strip().split("\n", 1)
    assert refused.startswith("MissingExtraError tflite-runtime 2.14.0 can't run layers"), done.stderr
    assert "FULLY_CONNECTED" in unknown


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_bundle_gives_the_same_scores_in_tflite_runtime(
    precision: Precision, network: Network, old_python: Path, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    images = [network.preprocessing.normalize(image) for image in pixels]
    spec = spec_of(network, Recipe.load("convnextv2"), DeviceClass.load("raspberry-pi-4"))
    samples = ParitySamples(pixels, torch_logits(network, pixels))
    graph = export_graph(network.module, (1, 3, SIDE, SIDE))
    to_compile = quantize_stage(spec, "tflite", precision, graph, samples, images if precision == "int8" else [])
    compile_stage(to_compile, tmp_path / "bundle")
    image = tmp_path / "image.png"
    Image.fromarray(pixels[-1]).save(image)
    with edgekit.load(tmp_path / "bundle", threads=1, verify=True) as session:
        assert session.engine_name == "ai-edge-litert"
        expected = dict(session.classify(image, top=CLASSES))

    code = """
import json, sys, edgekit
with edgekit.load(sys.argv[1], threads=1, verify=True) as session:
    print(json.dumps([session.engine_name, session.engine_version, session.classify(sys.argv[2], top=10)]))
"""
    done = run(old_python, "-I", "-c", code, tmp_path / "bundle", image, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, version, scores = json.loads(done.stdout)
    assert (name, version) == ("tflite-runtime", "2.14.0")
    assert dict(scores) == pytest.approx(expected, abs=0.05 if precision == "int8" else 1e-4)
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert any(layer["int8"] for layer in manifest.layers) == (precision == "int8")
