"""One contract for every runtime.

The bundles of the three come from a whole run of the command line; a fourth, tests/helpers/fake, goes through the same
tests.
"""

import json
import math
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

from edgekit.config.precisions import PRECISIONS
from edgekit.config.recipes import load_recipe
from edgekit.config.runtimes import RUNTIMES, Runtime, find_runtime, register, runtime_of_suffix
from edgekit.errors import CompileError
from edgekit.measure.measure_bundles import ran_in_int8
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import build_all, build_one
from edgekit.pipeline.compile import PARITY
from edgekit.pipeline.graphs import PreparedGraphs
from edgekit.pipeline.job import Job, prepare
from edgekit.pipeline.options import Options
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.session import Session
from edgekit.support import tracebacks
from edgekit.support.progress import Reporter
from tests.helpers import fake_runtime

SNR_DB = 15
"""Least signal-to-noise ratio of int8 logits, decibels: this network gives 20 and more, a wrong scale below 5."""


@pytest.fixture(scope="session")
def tiny_job(photos: Path, tiny_weights: Path) -> Job:
    """The job of `finished_run`, prepared in Python."""
    from edgekit.models import parse_model_args
    from tests.helpers.tiny import TINY_ARGS

    args = parse_model_args(TINY_ARGS)
    model = ModelOptions("convnextv2_atto", str(tiny_weights), args, imgsz=32, crop_pct=1.0)
    return prepare(Options(model, photos, num_calibration_samples=10), Reporter(quiet=True))


def with_row(job: Job) -> Job:
    """The job with its recipe read again: it has a table for each target that there is."""
    return replace(job, recipe=load_recipe(job.recipe.name))


@pytest.fixture(scope="session")
def fake_run(tiny_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of the runtime that was added."""
    folder = tmp_path_factory.mktemp("fake")
    with fake_runtime.added():
        made = build_all(with_row(tiny_job), ("fake",), folder, Reporter(quiet=True))
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
def batch(tiny_job: Job) -> NDArray[np.float32]:
    """Sixteen images that were not calibrated on."""
    chosen = tiny_job.evaluation.samples[:16]
    return np.concatenate([tiny_job.network.preprocessing(tiny_job.dataset.image(each)) for each in chosen])


@pytest.fixture(scope="session")
def wanted(tiny_job: Job, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What torch gives for them."""
    with torch.no_grad():
        logits: NDArray[np.float32] = tiny_job.network.module(torch.from_numpy(batch)).numpy()
    return logits


def test_same_numbers_as_torch(bundle: Bundle, batch: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    with Session(bundle, 1) as session:
        given = session(batch)
    if bundle.manifest.precision == "float":
        assert np.abs(given - wanted).max() <= PARITY * np.abs(wanted).max()
    else:
        noise = float(((given - wanted) ** 2).sum() / (wanted**2).sum())
        assert -10 * math.log10(noise) >= SNR_DB
        assert noise > 0


def test_images_do_not_disturb_each_other(bundle: Bundle, batch: NDArray[np.float32]) -> None:
    with Session(bundle, 1) as session:
        together = session(batch[:3])
        alone = [session(batch[index : index + 1])[0] for index in (2, 0, 1)]
    assert together.shape == (3, 10)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[[2, 0, 1]], alone, rtol=1e-5, atol=1e-5)


def test_golden_samples_agree(bundle: Bundle) -> None:
    with Session(bundle, 1) as session:
        found = session.verify()
    assert found.max_abs_difference <= found.tolerance
    assert 0 < found.tolerance < 2


def test_golden_samples_are_photos(bundle: Bundle, tiny_job: Job) -> None:
    golden = bundle.golden()
    first = tiny_job.network.preprocessing.crop(tiny_job.calibration_dataset.image(tiny_job.calibration.samples[0]))
    assert len(golden.pixels) == 2
    assert np.array_equal(golden.pixels[0], first)


def test_manifest(bundle: Bundle, runtime: Runtime, precision: str, tiny_job: Job) -> None:
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision) == (runtime.name, precision)
    assert manifest.input_shape == (1, 3, 32, 32)
    assert (manifest.classes, manifest.dtype) == (10, "float32")
    assert manifest.preprocessing == tiny_job.network.preprocessing
    assert bundle.labels == tiny_job.network.labels
    assert manifest.device_class == tiny_job.device_class
    assert set(manifest.files) >= {manifest.model_file, "labels.txt", "golden.npz"}
    provenance = manifest.provenance
    assert provenance["model"]["name"] == "convnextv2_atto"
    assert provenance["model"]["weights_sha256"] == tiny_job.network.weights_sha256
    assert provenance["recipe"] == "convnextv2"
    rewrites = load_recipe("convnextv2").targets[runtime.name].rewrites
    nothing = {"layer-scale", "channels-first"}  # in this network: it has convolutions in place of Linear layers
    assert provenance["rewrites"] == [name for name in rewrites if name not in nothing]
    assert {"edgekit", "python", "torch", "nncf"} <= set(provenance["versions"])
    if precision == "int8":
        assert manifest.scheme.startswith("static w8a8, int8 weights per channel, ")
        assert provenance["calibration_sha256"] == tiny_job.calibration.sha256
    else:
        assert manifest.scheme == "float32"
        assert provenance["calibration_sha256"] is None


@pytest.mark.parametrize("optional", [(), ("layer-scale",)])
def test_rewrites_that_match_nothing_are_warned_of_unless_the_recipe_expects_that(
    tiny_job: Job, tmp_path: Path, capfd: Any, optional: tuple[str, ...]
) -> None:
    with fake_runtime.added():
        recipe = load_recipe("convnextv2")
        wants = replace(recipe.targets["fake"], rewrites=("response-norm", "layer-scale"))
        recipe = replace(recipe, targets={**recipe.targets, "fake": wants}, optional_rewrites=optional)
        graphs = PreparedGraphs(replace(tiny_job, recipe=recipe), Reporter(quiet=True))
        bundle = build_one(graphs, "fake", "float", tmp_path / "bundle", Reporter(quiet=True))
    assert bundle.manifest.provenance["rewrites"] == ["response-norm"]
    warning = "these rewrites of recipe 'convnextv2' match nothing in 'convnextv2_atto': layer-scale."
    assert (warning in capfd.readouterr().err) is not bool(optional)


def test_layers_of_the_manifest(bundle: Bundle, precision: str) -> None:
    layers = bundle.manifest.layers
    kinds = {layer["op"] for layer in layers}
    assert kinds == {"conv", "depthwise", "linear"}
    assert {layer["name"] for layer in layers} >= {"stem.0", "stages.0.blocks.0.conv_dw", "head.fc"}
    assert sum(layer["macs"] for layer in layers) > 1e5
    for layer in layers:
        assert layer["int8"] == (precision == "int8" and layer["op"] != "depthwise"), layer["name"]


def test_precisions_have_fingerprints_of_their_own(runtime: Runtime, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue("fake_run" if runtime.name == "fake" else "finished_run")
    found = {read_bundle(folder / f"{runtime.name}-{each}").manifest.fingerprint for each in PRECISIONS}
    assert len(found) == 2


@pytest.mark.parametrize("name", ["openvino", "onnx", "tflite"])  # the fake one keeps the graph as it is
def test_int8_weights_are_stored_as_int8(name: str, tiny_job: Job, finished_run: Path) -> None:
    float_, int8 = (read_bundle(finished_run / f"{name}-{each}") for each in PRECISIONS)
    weights = dict(tiny_job.network.module.named_parameters())
    count = sum(weights[f"{layer['name']}.weight"].numel() for layer in int8.manifest.layers if layer["int8"])
    before, after = weights_bytes(float_), weights_bytes(int8)
    assert before >= 4 * count
    assert before - after >= 0.75 * 3 * count


def weights_bytes(bundle: Bundle) -> int:
    """Size of the model without OpenVINO's XML, which is half of so small a model."""
    files = bundle.manifest.files
    return bundle.size_bytes - sum(entry["size_bytes"] for name, entry in files.items() if name.endswith(".xml"))


def from_onnx(model: Path) -> Any:
    import onnx

    return json.loads(next(each.value for each in onnx.load(model).metadata_props if each.key == "edgekit"))


def from_openvino(model: Path) -> Any:
    from edgekit.compat.openvino import openvino

    return json.loads(openvino.Core().read_model(model).get_rt_info(["edgekit"]).astype(str))


def from_tflite(model: Path) -> Any:
    return json.loads(tflite_metadata(model)["edgekit"])


def tflite_metadata(model: Path) -> dict[str, bytes]:
    from ai_edge_litert import schema_py_generated as schema

    found = schema.ModelT.InitFromPackedBuf(model.read_bytes())
    return {each.name.decode(): bytes(found.buffers[each.buffer].data) for each in found.metadata}


METADATA: dict[str, Callable[[Path], Any]] = {
    "onnx": from_onnx,
    "openvino": from_openvino,
    "tflite": from_tflite,
    "fake": fake_runtime.embedded,
}


def test_model_file_alone_says_how_to_run_it(bundle: Bundle) -> None:
    manifest = bundle.manifest
    found = METADATA[manifest.target](bundle.model_path)
    assert found["preprocessing"] == manifest.preprocessing.to_dict()
    assert found["labels"] == list(bundle.labels)
    assert (found["target"], found["precision"], found["scheme"]) == (
        manifest.target,
        manifest.precision,
        manifest.scheme,
    )
    assert found["model"] == "convnextv2_atto"


def test_only_int8_files_of_litert_let_the_rest_run_in_halves(finished_run: Path) -> None:
    for precision, halves in (("float", None), ("int8", b"fp16accfp16")):
        found = tflite_metadata(finished_run / f"tflite-{precision}" / "model.tflite")
        assert found.get("reduced_precision_support") == halves


def test_gelu_from_int8_to_int8_is_one_operation(tiny_job: Job, tmp_path: Path) -> None:
    """As the recipe has it for a Raspberry Pi 4; the layers around it run in integer kernels all the same."""
    from ai_edge_litert import schema_py_generated as schema

    reporter = Reporter(quiet=True)
    recipe = load_recipe("convnextv2").for_class("raspberry-pi-4")
    graphs = PreparedGraphs(tiny_job, reporter).with_recipe(recipe)
    bundle = build_one(graphs, "tflite", "int8", tmp_path / "bundle", reporter)
    model = schema.ModelT.InitFromPackedBuf(bundle.model_path.read_bytes())
    (graph,) = model.subgraphs
    gelu = [
        each
        for each in graph.operators
        if model.operatorCodes[each.opcodeIndex].builtinCode == schema.BuiltinOperator.GELU
    ]
    assert len(gelu) == 4
    types = {graph.tensors[tensor].type for each in gelu for tensor in (*each.inputs, *each.outputs)}
    assert types == {schema.TensorType.INT8}
    assert all(layer["int8"] for layer in bundle.manifest.layers if layer["op"] != "depthwise")
    wanted = sum(layer["macs"] for layer in bundle.manifest.layers if layer["int8"])
    share = wanted / sum(layer["macs"] for layer in bundle.manifest.layers)
    assert ran_in_int8(bundle, 1).share_of_macs == pytest.approx(share)


COMPILERS = {
    "openvino": "openvino.convert_model",
    "onnx": "torch.onnx.export",
    "tflite": "litert_torch.convert",
    "fake": "torch.export.save",
}
"""The call of each runtime's compiler."""


def test_a_refusal_is_a_compile_error_with_the_runtimes_name(
    tiny_job: Job, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Exception from src/frontend.cpp:12:\n\n  operation 'foo' is unknown\n  at line 3")

    monkeypatch.setattr(COMPILERS[runtime.name], refuse)
    made = build_all(with_row(tiny_job), (runtime.name,), tmp_path, Reporter(quiet=True), precisions=("float",))
    (error,) = made.values()
    assert isinstance(error, CompileError)
    assert str(error) == f"{runtime.title}'s compiler refused the graph: operation 'foo' is unknown"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_a_row_that_fails_shows_its_traceback_where_that_is_wanted(
    tiny_job: Job, tmp_path: Path, capfd: Any, wanted: bool
) -> None:
    with tracebacks.shown(wanted):
        build_all(tiny_job, ("onnx",), tmp_path, Reporter(quiet=True), {"onnx-float": "no room"}, ("float",))
    err = capfd.readouterr().err
    assert "warning: onnx-float: not begun: no room" in err
    assert ("edgekit.errors.CompileError: not begun" in err) is wanted


OURS = {
    "openvino": "split_reductions",
    "onnx": "fuse_integer_matmul",
    "tflite": "embed",
    "fake": "store_weights_as_int8",
}
"""A function of edgekit's own that each backend calls."""


def test_a_mistake_in_a_backend_is_not_said_to_be_the_compilers(
    tiny_job: Job, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(import_module(runtime.backend_module), OURS[runtime.name], mistaken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        build_all(with_row(tiny_job), (runtime.name,), tmp_path, Reporter(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_export_is_not_said_to_be_the_models(tiny_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("edgekit.pipeline.graphs.simplify", mistaken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        PreparedGraphs(tiny_job, Reporter(quiet=True)).exported()


def test_a_mistake_in_code_that_a_compiler_calls_is_ours_too(
    tiny_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.compat.litert_torch import pad_channels_last
    from edgekit.runtime.tflite import backend as tflite

    monkeypatch.setattr(
        tflite,
        "litert_torch",
        SimpleNamespace(convert=lambda *_, **__: pad_channels_last(None)),  # type: ignore[arg-type]
    )
    with pytest.raises((TypeError, AttributeError)):
        build_all(with_row(tiny_job), ("tflite",), tmp_path, Reporter(quiet=True))


def test_rows_of_the_table(runtime: Runtime) -> None:
    assert RUNTIMES[runtime.name] is find_runtime(runtime.name) is runtime
    assert runtime_of_suffix(runtime.model_suffix) is runtime
    assert hasattr(import_module(runtime.engine_module), "Engine")
    assert hasattr(import_module(runtime.backend_module), "Backend")
    assert hasattr(import_module(runtime.profiler_module), "Profiler")
    requirement = Requirement(runtime.requirement)
    assert requirement.name == runtime.distributions[0]
    assert requirement.specifier.contains(version(requirement.name))


@pytest.mark.parametrize("changes", [{"name": "other"}, {"model_suffix": ".other"}])
def test_a_name_or_suffix_that_is_taken_is_refused(runtime: Runtime, changes: dict[str, Any]) -> None:
    before = dict(RUNTIMES)
    with pytest.raises(ValueError, match="registered already"):
        register(replace(runtime, **changes))
    assert dict(RUNTIMES) == before
