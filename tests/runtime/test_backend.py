"""The contract that every runtime's backend fulfils.

The bundles of the three real runtimes come from a complete run of the command line. A fake runtime, tests/helpers/fake,
passes the same tests.
"""

import json
import math
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from packaging.requirements import Requirement
from torch import nn

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import INPUT_LAYOUTS, PRECISIONS, RUNTIMES, DeviceClass, Precision, Runtime, register
from edgekit.errors import CompileError
from edgekit.job import Job
from edgekit.measure.inspect_bundle import inspect_bundle
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import build_one, compile_stage, metadata_of
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import PARITY, JobGraphs, quantize_stage
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.runtime.backend import load_backend, load_lowering
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session
from edgekit.support import progress
from edgekit.support.progress import Reporter
from tests.helpers import fake_runtime
from tests.helpers.calibration import network_of, noise_for, spec_of
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import X86

SNR_DB = 15
"""Lowest signal-to-noise ratio of int8 logits, in decibels. This network reaches at least 20, a wrong scale below 5."""


@pytest.fixture(scope="session")
def tiny_job(photos: Path, tiny_weights: Path) -> tuple[BuildSpec, JobImages]:
    """The same job as `finished_run`, loaded in Python."""
    from edgekit.models.options import parse_model_args
    from tests.helpers.tiny import TINY_ARGS

    args = parse_model_args(TINY_ARGS)
    model = ModelOptions("convnextv2_atto", str(tiny_weights), args, imgsz=32, crop_pct=1.0)
    return load_job(Job(model, photos, num_calibration_samples=10), Reporter(quiet=True))


@pytest.fixture(scope="session")
def tiny_spec(tiny_job: tuple[BuildSpec, JobImages]) -> BuildSpec:
    """What that job's bundles are built from."""
    return tiny_job[0]


@pytest.fixture(scope="session")
def builder(tiny_spec: BuildSpec) -> Builder:
    """Builds the job's bundles for every runtime, including the fake one, from one export and one calibration."""
    with fake_runtime.added():  # the recipe is read again, for the table of the fake runtime
        recipe = Recipe.load(tiny_spec.recipe.name).for_class(tiny_spec.device_class)
    return Builder(JobGraphs(replace(tiny_spec, recipe=recipe), Reporter(quiet=True)))


@pytest.fixture(scope="session")
def fake_run(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of the fake runtime."""
    folder = tmp_path_factory.mktemp("fake")
    with fake_runtime.added():
        made = builder.build(("fake",), folder)
    assert [type(each) for each in made.values()] == [Bundle, Bundle], made
    return folder


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bundle(runtime: Runtime, precision: str, request: pytest.FixtureRequest) -> Bundle:
    folder: Path = request.getfixturevalue("fake_run" if runtime.name == "fake" else "finished_run")
    return read_bundle(folder / f"{runtime.name}-{precision}")


@pytest.fixture(scope="session")
def batch(tiny_job: tuple[BuildSpec, JobImages]) -> NDArray[np.float32]:
    """Sixteen images that calibration didn't use."""
    spec, images = tiny_job
    chosen = images.evaluation.samples[:16]
    return np.concatenate([spec.network.preprocessing(images.dataset.image(each)) for each in chosen])


@pytest.fixture(scope="session")
def torch_output(tiny_spec: BuildSpec, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits that torch computes for the batch."""
    with torch.no_grad():
        logits: NDArray[np.float32] = tiny_spec.network.module(torch.from_numpy(batch)).numpy()
    return logits


def test_logits_agree_with_torch(bundle: Bundle, batch: NDArray[np.float32], torch_output: NDArray[np.float32]) -> None:
    with Session(bundle, 1) as session:
        logits = session(batch)
    if bundle.manifest.precision == "float":
        assert np.abs(logits - torch_output).max() <= PARITY * np.abs(torch_output).max()
    else:
        noise = float(((logits - torch_output) ** 2).sum() / (torch_output**2).sum())
        assert -10 * math.log10(noise) >= SNR_DB
        assert noise > 0


def test_images_do_not_disturb_each_other(bundle: Bundle, batch: NDArray[np.float32]) -> None:
    with Session(bundle, 1) as session:
        together = session(batch[:3])
        alone = [session(batch[index : index + 1])[0] for index in (2, 0, 1)]
    assert together.shape == (3, 10)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[[2, 0, 1]], alone, rtol=1e-5, atol=1e-5)


def test_pixels_give_the_answers_of_normalized_images(runtime: Runtime, precision: Precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    network = network_of(nn.Sequential(*layers, nn.Linear(16, 5)), 32)
    size = replace(network.preprocessing, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    network = replace(network, preprocessing=size)
    noise, graph = noise_for(network, 8), export_graph(network.module, size.input_shape)
    images, recipe = [size.normalize(pixels) for pixels in noise.pixels], Recipe.load("default")
    bundles = {}
    for dtype, layout in INPUT_LAYOUTS.items():
        spec = spec_of(network, recipe, X86, input_dtype=dtype)
        stage = quantize_stage(spec, runtime.name, precision, graph, noise, images)
        bundles[dtype], _ = compile_stage(stage, tmp_path / dtype, golden_count=8)
        manifest = bundles[dtype].manifest
        assert (manifest.dtype, manifest.layout, manifest.input_shape) == (dtype, layout, size.shape_of(dtype))
    floats, pixels = (bundles[dtype].golden().logits for dtype in ("float32", "uint8"))
    np.testing.assert_allclose(pixels, floats, atol=(1e-5 if precision == "float" else 1e-2) * float(floats.std()))
    with Session(bundles["uint8"], 1) as session:
        np.testing.assert_array_equal(session(np.concatenate(images)), session(noise.pixels))
    seen = {dtype: inspect_bundle(bundle.path, 1) for dtype, bundle in bundles.items()}
    assert [(dtype, each.input_dtype, each.golden_passed) for dtype, each in seen.items()] == [
        (dtype, dtype, True) for dtype in bundles
    ]
    shares = {each.int8.share_of_macs for each in seen.values()}
    assert len(shares) == 1, "the layer that reads pixels has an integer kernel, too"


def test_golden_samples_agree(bundle: Bundle) -> None:
    with Session(bundle, 1) as session:
        result = session.verify()
    assert result.max_abs_difference <= result.tolerance
    assert 0 < result.tolerance < 2


def test_golden_samples_are_photos(bundle: Bundle, tiny_spec: BuildSpec) -> None:
    golden = bundle.golden()
    first = tiny_spec.network.preprocessing.crop(tiny_spec.calibration_dataset.image(tiny_spec.calibration.samples[0]))
    assert len(golden.pixels) == 2
    assert np.array_equal(golden.pixels[0], first)


def test_manifest(bundle: Bundle, runtime: Runtime, precision: str, tiny_spec: BuildSpec) -> None:
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision) == (runtime.name, precision)
    assert manifest.input_shape == (1, 3, 32, 32)
    assert (manifest.classes, manifest.dtype) == (10, "float32")
    assert manifest.preprocessing == tiny_spec.network.preprocessing
    assert bundle.labels == tiny_spec.network.labels
    assert manifest.device_class == tiny_spec.device_class.name
    assert set(manifest.files) >= {manifest.model_file, "labels.txt", "golden.npz"}
    provenance = manifest.provenance
    assert provenance["model"]["name"] == "convnextv2_atto"
    assert provenance["model"]["weights_sha256"] == tiny_spec.network.weights_sha256
    assert provenance["recipe"] == "convnextv2"
    wants = Recipe.load("convnextv2").for_class(DeviceClass.load(manifest.device_class)).targets[runtime.name]
    unmatched = {"layer-scale", "channels-first"}  # this network has convolutions instead of Linear layers
    assert provenance["rewrites"] == [name for name in wants.rewrites_of(manifest.precision) if name not in unmatched]
    assert {"edgekit", "python", "torch", "nncf"} <= set(provenance["versions"])
    if precision == "int8":
        assert manifest.scheme.startswith("static w8a8, int8 weights per channel, ")
        assert provenance["calibration_sha256"] == tiny_spec.calibration.sha256
    else:
        assert manifest.scheme == "float32"
        assert provenance["calibration_sha256"] is None


@pytest.mark.parametrize("optional", [(), ("layer-scale",)])
def test_a_rewrite_that_matches_nothing_warns_unless_the_recipe_calls_it_optional(
    builder: Builder, tmp_path: Path, capfd: Any, optional: tuple[str, ...]
) -> None:
    with fake_runtime.added():
        recipe = Recipe.load("convnextv2")
        wants = replace(recipe.targets["fake"], rewrites=("response-norm", "layer-scale"))
        recipe = replace(recipe, targets={**recipe.targets, "fake": wants}, optional_rewrites=optional)
        graphs = builder.graphs.with_recipe(recipe)
        graphs.reporter = Reporter(quiet=True)
        bundle = build_one(graphs, "fake", "float", tmp_path / "bundle")
    assert bundle.manifest.provenance["rewrites"] == ["response-norm"]
    warning = "these rewrites of recipe 'convnextv2' match nothing in 'convnextv2_atto': layer-scale."
    assert (warning in capfd.readouterr().err) is not bool(optional)


def test_layers_of_the_manifest(bundle: Bundle, runtime: Runtime, precision: str) -> None:
    layers = bundle.manifest.layers
    kinds = {layer["op"] for layer in layers}
    assert kinds == {"conv", "depthwise", "linear"}
    assert {layer["name"] for layer in layers} >= {"stem.0", "stages.0.blocks.0.conv_dw", "head.fc"}
    assert sum(layer["macs"] for layer in layers) > 1e5
    blocks = ("stages.0", "stages.1") if runtime.name == "tflite" else ()  # where height and width allow it
    without_kernel = {"stem.0"} if (runtime.name, precision) == ("onnx", "int8") else set()
    assert {layer["name"] for layer in layers if "reason" in layer} == without_kernel
    for layer in layers:
        quantized = layer["op"] != "depthwise" or layer["name"].startswith(blocks)
        quantized = quantized and layer["name"] not in without_kernel
        assert layer["int8"] == (precision == "int8" and quantized), layer["name"]


def test_each_precision_has_its_own_fingerprint(runtime: Runtime, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue("fake_run" if runtime.name == "fake" else "finished_run")
    fingerprints = {read_bundle(folder / f"{runtime.name}-{each}").manifest.fingerprint for each in PRECISIONS}
    assert len(fingerprints) == 2


GROWTH_ON_BLOCKS = 16 * 144 / 49
"""Weights of a depthwise convolution on blocks for each of its 49."""


@pytest.mark.parametrize("name", ["openvino", "onnx", "tflite"])  # the fake runtime stores the graph unchanged
def test_int8_weights_are_stored_as_int8(name: str, tiny_spec: BuildSpec, finished_run: Path) -> None:
    float_, int8 = (read_bundle(finished_run / f"{name}-{each}") for each in PRECISIONS)
    weights = dict(tiny_spec.network.module.named_parameters())
    quantized = [layer for layer in int8.manifest.layers if layer["int8"]]
    sizes = {layer["name"]: weights[f"{layer['name']}.weight"].numel() for layer in quantized}
    on_blocks = sum(sizes.pop(layer["name"]) for layer in quantized if layer["op"] == "depthwise")
    count = sum(sizes.values())
    before, after = weights_bytes(float_), weights_bytes(int8) - on_blocks * GROWTH_ON_BLOCKS
    assert before >= 4 * count
    assert before - after >= 0.75 * 3 * count


def weights_bytes(bundle: Bundle) -> int:
    """Size of the model without OpenVINO's XML, which makes up half of such a small model."""
    files = bundle.manifest.files
    return bundle.size_bytes - sum(entry["size_bytes"] for name, entry in files.items() if name.endswith(".xml"))


def from_onnx(model: Path) -> Any:
    import onnx

    entries = {each.key: each.value for each in onnx.load(model).metadata_props}
    return json.loads(entries["edgekit"]) | {"labels": json.loads(entries["names"])}


def from_openvino(model: Path) -> Any:
    from edgekit.compat.openvino import openvino

    return json.loads(openvino.Core().read_model(model).get_rt_info(["edgekit"]).astype(str))


def from_tflite(model: Path) -> Any:
    with zipfile.ZipFile(model) as archive:
        names = archive.read("labels.txt").decode()
    return json.loads(tflite_metadata(model)["edgekit"]) | {"labels": names.split("\n")[:-1]}


def tflite_metadata(model: Path) -> dict[str, bytes]:
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromPackedBuf(model.read_bytes())
    return {entry.name.decode(): bytes(file.buffers[entry.buffer].data) for entry in file.metadata}


METADATA: dict[str, Callable[[Path], Any]] = {
    "onnx": from_onnx,
    "openvino": from_openvino,
    "tflite": from_tflite,
    "fake": fake_runtime.embedded,
}


def test_the_model_file_alone_tells_how_to_run_it(bundle: Bundle) -> None:
    manifest = bundle.manifest
    metadata = METADATA[manifest.target](bundle.model_path)
    assert metadata["preprocessing"] == manifest.preprocessing.to_dict()
    assert metadata["labels"] == list(bundle.labels)
    assert (metadata["target"], metadata["precision"], metadata["scheme"]) == (
        manifest.target,
        manifest.precision,
        manifest.scheme,
    )
    assert metadata["model"] == "convnextv2_atto"


def test_metadata_is_replaced_as_if_the_graph_was_compiled_with_it(bundle: Bundle, tmp_path: Path) -> None:
    """Back and forth gives the bytes that the compiler wrote. The fake runtime's zip also depends on its own name."""
    manifest = bundle.manifest
    shutil.copytree(bundle.path, tmp_path / "bundle")
    model = tmp_path / "bundle" / manifest.model_file
    compiled = metadata_of(manifest, bundle.labels)
    backend, names = load_backend(manifest.target), ("<\"&'>", 'an <edgekit value="', "schön\u2028\t\x7f", "\\n")
    backend.replace_metadata(model, replace(compiled, labels=names))
    assert METADATA[manifest.target](model)["labels"] == list(names)
    with Session(replace(bundle, path=model.parent), 1) as session:
        assert session.verify().max_abs_difference <= bundle.golden().tolerance
    backend.replace_metadata(model, compiled)
    assert METADATA[manifest.target](model)["labels"] == list(bundle.labels)
    assert manifest.target == "fake" or model.read_bytes() == bundle.model_path.read_bytes()


def test_only_int8_files_of_litert_allow_f16_for_the_float_layers(finished_run: Path) -> None:
    for precision, expected in (("float", None), ("int8", b"fp16accfp16")):
        metadata = tflite_metadata(finished_run / f"tflite-{precision}" / "model.tflite")
        assert metadata.get("reduced_precision_support") == expected


def test_gelu_from_int8_to_int8_is_a_table(builder: Builder, tmp_path: Path) -> None:
    """It stands in float between integers in the file. The layers around it still run in integer kernels."""
    from ai_edge_litert import schema_py_generated as schema

    recipe = Recipe.load("convnextv2").for_class(DeviceClass.load("raspberry-pi-4"))
    graphs = builder.graphs.with_recipe(recipe)
    bundle = build_one(graphs, "tflite", "int8", tmp_path / "bundle")
    model = schema.ModelT.InitFromPackedBuf(bundle.model_path.read_bytes())
    (graph,) = model.subgraphs
    codes = schema.BuiltinOperator
    kinds = [model.operatorCodes[each.opcodeIndex].builtinCode for each in graph.operators]
    places = [place for place, kind in enumerate(kinds) if kind == codes.GELU]
    assert len(places) == 4
    for place in places:
        assert kinds[place - 1 : place + 2] == [codes.DEQUANTIZE, codes.GELU, codes.QUANTIZE]
    assert all(layer["int8"] for layer in bundle.manifest.layers if layer["op"] != "depthwise")
    int8_macs = sum(layer["macs"] for layer in bundle.manifest.layers if layer["int8"])
    share = int8_macs / sum(layer["macs"] for layer in bundle.manifest.layers)
    assert profile_bundle(bundle, 1).share_of_macs == pytest.approx(share)


COMPILERS = {
    "openvino": "openvino.convert_model",
    "onnx": "torch.onnx.export",
    "tflite": "litert_torch.convert",
    "fake": "torch.export.save",
}
"""Function that calls each runtime's compiler."""


def test_a_refusal_of_the_compiler_is_a_compile_error_that_names_the_runtime(
    builder: Builder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Exception from src/frontend.cpp:12:\n\n  operation 'foo' is unknown\n  at line 3")

    monkeypatch.setattr(COMPILERS[runtime.name], refuse)
    made = builder.build((runtime.name,), tmp_path, ("float",))
    (error,) = made.values()
    assert isinstance(error, CompileError)
    assert error.problem == f"{runtime.title}'s compiler refused the graph: operation 'foo' is unknown"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("show", [True, False])
def test_a_row_that_fails_shows_its_traceback_on_request(
    tiny_spec: BuildSpec, tmp_path: Path, capfd: Any, show: bool
) -> None:
    with progress.tracebacks_shown(show):
        builder = Builder(JobGraphs(tiny_spec, Reporter(quiet=True)))
        builder.build(("onnx",), tmp_path, ("float",), {"onnx-float": "no room"})
    err = capfd.readouterr().err
    assert "warning: onnx-float: skipped: no room" in err
    assert ("edgekit.errors.CompileError: skipped" in err) is show


OURS = {
    "openvino": "name_by_place",
    "onnx": "fuse_integer_matmul",
    "tflite": "finish",
    "fake": "store_weights_as_int8",
}
"""A function of edgekit that each backend calls."""


def test_a_mistake_in_a_backend_is_not_blamed_on_the_compiler(
    builder: Builder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(import_module(runtime.backend_module), OURS[runtime.name], mistaken)
    monkeypatch.setattr(builder.graphs, "reporter", Reporter(quiet=True))  # which prints where this test reads
    (error,) = builder.build((runtime.name,), tmp_path, ("int8",)).values()
    assert isinstance(error, KeyError)
    assert list(tmp_path.iterdir()) == []
    err = capfd.readouterr().err
    assert "KeyError: 'a mistake of ours'" in err
    assert f"{runtime.name}-int8: this is a bug in edgekit, not in your input" in err


def test_a_mistake_in_the_export_is_not_blamed_on_the_model(
    tiny_spec: BuildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("edgekit.pipeline.graphs.simplify", mistaken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        _ = JobGraphs(tiny_spec, Reporter(quiet=True)).simplified


def test_a_mistake_in_code_that_a_compiler_calls_is_ours_too(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.compat.litert_torch import pad_channels_last
    from edgekit.runtime.tflite import backend as tflite

    monkeypatch.setattr(
        tflite,
        "litert_torch",
        SimpleNamespace(convert=lambda *_, **__: pad_channels_last(None)),  # type: ignore[arg-type]
    )
    (error,) = builder.build(("tflite",), tmp_path, ("float",)).values()
    assert isinstance(error, TypeError | AttributeError)


def test_rows_of_the_table(runtime: Runtime) -> None:
    assert RUNTIMES[runtime.name] is Runtime.find(runtime.name) is runtime
    assert Runtime.of_suffix(runtime.model_suffix) is runtime
    assert hasattr(import_module(runtime.engine_module), "Engine")
    assert hasattr(import_module(runtime.backend_module), "Backend")
    assert callable(import_module(runtime.profiler_module).profile)
    assert tuple(name for name in load_lowering(runtime.name).named if name != "dynamic") == runtime.lowerings
    requirement = Requirement(runtime.requirement)
    assert requirement.name == runtime.distributions[0]
    assert requirement.specifier.contains(version(requirement.name))


@pytest.mark.parametrize("changes", [{"name": "other"}, {"model_suffix": ".other"}])
def test_a_name_or_suffix_that_another_runtime_has_is_refused(runtime: Runtime, changes: dict[str, Any]) -> None:
    before = dict(RUNTIMES)
    with pytest.raises(ValueError, match="registered already"):
        register(replace(runtime, **changes))
    assert dict(RUNTIMES) == before
