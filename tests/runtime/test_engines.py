"""The contract that every engine fulfils, and what the session adds to it."""

import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgekit
from edgekit.config.runtimes import RUNTIMES, Runtime
from edgekit.errors import BundleError, EngineError, GoldenError, ImageError, InputError, MissingExtraError, UsageError
from edgekit.images.preprocess import Preprocessing
from edgekit.runtime import GoldenWarning
from edgekit.runtime import engine as base
from edgekit.runtime.bundle import Golden, read_bundle, with_manifest, write_bundle
from edgekit.runtime.onnx.engine import external_files
from edgekit.support.libraries import first_line, install_command, pip_install
from edgekit.support.probe import available_cores
from tests.helpers.refusals import refuses
from tests.helpers.runtimes import registered
from tests.helpers.tiny import SIDE, MakeBundle, compile_all, model_files, tiny_labels, tiny_manifest


@pytest.fixture(scope="module")
def nhwc_models(tiny_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with input [1,32,32,3], compiled for every runtime."""
    from torch import nn

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny_network

        def forward(self, x: Any) -> Any:
            return self.network(x.permute(0, 3, 1, 2))

    return compile_all(ChannelsLast().eval(), (1, SIDE, SIDE, 3), tmp_path_factory.mktemp("nhwc"))


@pytest.fixture
def pixel_bundle(target: str, make_bundle: MakeBundle) -> Path:
    """A bundle of the tiny network that takes pixels."""
    return make_bundle(target, dtype="uint8")


def test_logits_agree_with_torch(target: str, make_bundle: MakeBundle, tiny_golden: Golden) -> None:
    with edgekit.load(make_bundle(target), threads=1) as session:
        batch = session.bundle.manifest.preprocessing.normalize(tiny_golden.pixels)
        logits = session(batch)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, tiny_golden.logits, atol=1e-4)
        np.testing.assert_array_equal(session(batch[1:2]), logits[1:2])
        assert session.threads == 1
        assert session.engine_version
        assert session(batch[:0]).shape == (0, 10)


def test_a_result_does_not_change_when_the_session_runs_again(target: str, make_bundle: MakeBundle) -> None:
    with edgekit.load(make_bundle(target)) as session:
        zeros = np.zeros((1, 3, 32, 32), np.float32)
        first = session(zeros)
        copy = first.copy()
        session(zeros + 1)
        np.testing.assert_array_equal(first, copy)
        first[:] = 0  # the caller owns the result


def test_accepts_strided_and_read_only_batches(target: str, make_bundle: MakeBundle) -> None:
    with edgekit.load(make_bundle(target)) as session:
        nhwc = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
        strided = nhwc.transpose(0, 3, 1, 2)
        expected = session(np.ascontiguousarray(strided))
        np.testing.assert_array_equal(session(strided), expected)
        frozen = np.ascontiguousarray(strided)
        frozen.flags.writeable = False
        np.testing.assert_array_equal(session(frozen), expected)


def test_classify_takes_paths_bytes_images_and_arrays(target: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    with edgekit.load(make_bundle(target)) as session:
        result = session.classify(tmp_path / "image.png", top=3)
        assert session.classify(str(tmp_path / "image.png"), top=3) == result
        assert session.classify((tmp_path / "image.png").read_bytes(), top=3) == result
        assert session.classify(image, top=3) == result
        assert session.classify(pixels, top=3) == result
        everything = session.classify(pixels, top=99)
    assert [label for label, _ in everything[:3]] == [label for label, _ in result]
    assert sum(score for _, score in everything) == pytest.approx(1, abs=1e-5)
    scores = [score for _, score in everything]
    assert scores == sorted(scores, reverse=True)


def test_eight_threads_get_the_same_results(target: str, make_bundle: MakeBundle) -> None:
    batches = np.random.default_rng(3).random((16, 1, 3, 32, 32), np.float32)
    with edgekit.load(make_bundle(target), threads=1) as session:
        expected = [session(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda index: session(batches[index % 16]), range(160)))
    for index, logits in enumerate(results):
        np.testing.assert_array_equal(logits, expected[index % 16])


def test_verify(target: str, make_bundle: MakeBundle, tiny_golden: Golden) -> None:
    with edgekit.load(make_bundle(target), verify=True) as session:
        assert session.verify().max_abs_difference <= 1e-3
    off = Golden(tiny_golden.pixels, tiny_golden.logits + np.float32(0.5), 0.1)
    with refuses(GoldenError, 0.5) as caught:
        edgekit.load(make_bundle(target, golden=off), verify=True)
    assert caught.value.valid == "a difference of at most 0.1"


def test_another_release_than_the_bundle_was_made_with_warns_of_other_numbers(
    target: str, make_bundle: MakeBundle, tiny_golden: Golden
) -> None:
    off = Golden(tiny_golden.pixels, tiny_golden.logits + np.float32(0.5), 0.1)
    with edgekit.load(make_bundle(target, golden=off)) as session:
        package, installed = session.engine_name, session.engine_version
    for golden, version, warned in (off, "0.1", True), (off, installed, False), (tiny_golden, "0.1", False):
        bundle = make_bundle(
            target,
            golden=golden,
            engine={"package": package, "minimum": "0"},
            provenance={"versions": {package: version}},
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            edgekit.load(bundle).close()
        found = [str(each.message) for each in caught if each.category is GoldenWarning]
        assert len(found) == warned
        assert all(f"Install {package} 0.1" in message for message in found)


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_low_precision_applies_to_float_models_where_the_runtime_chooses_it(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    from edgekit.runtime.openvino import engine as openvino

    bundle = make_bundle("openvino", precision=precision, pairs_that_can_saturate=0)
    for choice, computes_in in ((None, "f32"), ("bf16", "bf16")):
        monkeypatch.setattr(openvino.Engine, "low_precision_float", lambda self, choice=choice: choice)
        with edgekit.load(bundle, low_precision=True) as session:
            expected = computes_in if precision == "float" else "f32"
            assert session.bundle.manifest.session.get("inference_precision", "f32") == expected
            assert session(np.zeros((1, 3, SIDE, SIDE), np.float32)).shape[0] == 1


@pytest.fixture
def faulty_bf16(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An OpenVINO engine that chooses bf16, counts open models, and has two faults that a test can switch on."""
    from edgekit.runtime.openvino import engine as openvino

    faults = SimpleNamespace(refuses_bf16=False, off_in_bf16=0.0, open=0)

    class Faulty(openvino.Engine):
        def __init__(self, model: Path, manifest: Any, threads: int | None) -> None:
            self.low = manifest.session.get("inference_precision") == "bf16"
            if self.low and faults.refuses_bf16:
                raise RuntimeError("no bf16 today")
            super().__init__(model, manifest, threads)
            faults.open += 1

        def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
            return super().run(x) + np.float32(faults.off_in_bf16 if self.low else 0)

        def close(self) -> None:
            super().close()
            faults.open -= 1

        def low_precision_float(self) -> str | None:
            return "bf16"

    monkeypatch.setattr(openvino, "Engine", Faulty)
    return faults


def test_verify_checks_the_session_that_is_returned(make_bundle: MakeBundle, faulty_bf16: Any) -> None:
    bundle = make_bundle("openvino")
    edgekit.load(bundle, verify=True, low_precision=True).close()
    faulty_bf16.off_in_bf16 = 5.0
    edgekit.load(bundle, verify=True).close()
    with pytest.raises(GoldenError):
        edgekit.load(bundle, verify=True, low_precision=True)
    assert faulty_bf16.open == 0


def test_a_load_that_fails_leaves_no_model_open(make_bundle: MakeBundle, faulty_bf16: Any) -> None:
    faulty_bf16.refuses_bf16 = True
    with pytest.raises(EngineError, match="no bf16 today"):
        edgekit.load(make_bundle("openvino"), low_precision=True)
    assert faulty_bf16.open == 0


def test_bf16_has_a_larger_tolerance(make_bundle: MakeBundle, tiny_golden: Golden, faulty_bf16: Any) -> None:
    faulty_bf16.off_in_bf16 = 0.1 * float(tiny_golden.logits.std())
    assert faulty_bf16.off_in_bf16 > 2 * tiny_golden.tolerance
    with edgekit.load(make_bundle("openvino"), verify=True, low_precision=True) as session:
        assert session.bundle.manifest.session["inference_precision"] == "bf16"


def test_close(target: str, make_bundle: MakeBundle) -> None:
    session = edgekit.load(make_bundle(target))
    session.close()
    session.close()
    with pytest.raises(EngineError):
        session(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize(
    ("batch", "received"),
    [
        (np.zeros((1, 3, 32, 32)), "float64"),
        (np.zeros((1, 3, 32, 32), np.uint8), "uint8"),
        (np.zeros((1, 32, 32, 3), np.float32), "[1, 32, 32, 3]"),
        (np.zeros((3, 32, 32), np.float32), "[3, 32, 32]"),
        ([[1.0]], "list"),
    ],
)
def test_a_wrong_batch_is_refused(target: str, make_bundle: MakeBundle, batch: object, received: str) -> None:
    with (
        edgekit.load(make_bundle(target)) as session,
        refuses(InputError, received) as caught,
    ):
        session(batch)  # type: ignore[arg-type]
    assert caught.value.valid == "float32 [N, 3, 32, 32]"


def test_a_bundle_that_takes_pixels_takes_normalized_images_too(
    pixel_bundle: Path, tiny_golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = tiny_golden.pixels
    with edgekit.load(pixel_bundle, verify=True) as session:
        logits = session(np.concatenate([session.preprocess(image) for image in pixels]))
        np.testing.assert_allclose(logits, tiny_golden.logits, atol=1e-4)
        np.testing.assert_array_equal(session(pixels), logits)
        np.testing.assert_array_equal(session(pixels[:, :, ::-1][:, :, ::-1]), logits)
        monkeypatch.delattr(Preprocessing, "normalize")  # which costs time
        best = [session.classify(image, top=1)[0][0] for image in pixels]
    assert best == [f"class {index}" for index in logits.argmax(1)]


@pytest.mark.parametrize(
    ("batch", "received"),
    [
        (np.zeros((1, 3, 32, 32), np.uint8), "[1, 3, 32, 32]"),
        (np.zeros((1, 32, 33, 3), np.uint8), "[1, 32, 33, 3]"),
        (np.zeros((32, 32, 3), np.uint8), "[32, 32, 3]"),
        (np.zeros((1, 32, 32, 3), np.float32), "float32"),
        (np.zeros((1, 32, 32, 3), np.int8), "int8"),
    ],
)
def test_a_wrong_batch_is_refused_where_pixels_are_taken(pixel_bundle: Path, batch: Any, received: str) -> None:
    with edgekit.load(pixel_bundle) as session, refuses(InputError, received) as caught:
        session(batch)
    assert caught.value.valid == "float32 [N, 3, 32, 32] or uint8 [N, 32, 32, 3]"


@pytest.mark.parametrize(("levels", "fits"), [(0.49, True), (0.51, False), (np.nan, False), (np.inf, False)])
def test_values_of_no_pixel_are_refused(pixel_bundle: Path, levels: float, fits: bool) -> None:
    white = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
    with edgekit.load(pixel_bundle) as session:
        batch = session.bundle.manifest.preprocessing.normalize(white)
        batch[0, 1, 2, 3] += levels * 2 / 255
        if fits:
            np.testing.assert_array_equal(session(batch), session(white))
            return
        with refuses(InputError, "off the nearest of 256 levels", "Session.preprocess"):
            session(batch)


def test_a_damaged_model_is_an_engine_error(target: str, make_bundle: MakeBundle, tiny_models: Path) -> None:
    path = make_bundle(target)
    bundle = read_bundle(path)
    head = b"<?xml" if target == "openvino" else b""
    bundle.model_path.write_bytes(head + b"damaged" * 50)
    with pytest.raises(EngineError, match=r"loading .*model\.\w+ in .* failed: \S+") as caught:
        edgekit.Session(bundle)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_a_changed_model_is_never_opened(target: str, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_bundle(target)
    model = read_bundle(path).model_path
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    monkeypatch.setattr("edgekit.runtime.engine.import_runtime", lambda *_: pytest.fail("an engine opened the model"))
    with refuses(BundleError, "model."):
        edgekit.load(path)


def test_a_model_that_differs_from_its_manifest_is_refused(
    target: str, nhwc_models: Path, tiny_golden: Golden, tmp_path: Path
) -> None:
    files = model_files(target, nhwc_models)
    bundle = write_bundle(tmp_path / "bundle", files, tiny_manifest(target), tiny_labels(), tiny_golden)
    with refuses(BundleError, "manifest", [1, SIDE, SIDE, 3]):
        edgekit.load(bundle.path)


def test_a_bundle_cannot_set_options_that_the_engine_does_not_have(target: str, make_bundle: MakeBundle) -> None:
    with refuses(BundleError, "session.CACHE_DIR"):
        edgekit.load(make_bundle(target, session={"CACHE_DIR": "/tmp/elsewhere"}))


def test_an_old_runtime_is_refused_with_the_pip_command(target: str, make_bundle: MakeBundle) -> None:
    package = read_bundle(make_bundle(target)).manifest.engine["package"]
    with pytest.raises(MissingExtraError) as caught:
        edgekit.load(make_bundle(target, engine={"package": package, "minimum": "9999.1"}))
    assert pip_install(f"{package}>=9999.1") in caught.value.fix


def test_a_missing_runtime_names_its_extra(
    runtime: Runtime, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bundle(runtime.name)
    for name in runtime.import_names:
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], None)
    with pytest.raises(MissingExtraError) as caught:
        edgekit.load(path)
    assert install_command(runtime.extra) in caught.value.fix


def test_a_tflite_file_with_int8_input_is_refused(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interpreter:
        def __init__(self, **_: object) -> None: ...

        def allocate_tensors(self) -> None: ...

        def get_input_details(self) -> list[dict[str, Any]]:
            return [{"name": "image", "index": 0, "shape": np.array([1, 3, 32, 32]), "dtype": np.int8}]

        def get_output_details(self) -> list[dict[str, Any]]:
            return [{"name": "logits", "index": 1, "shape": np.array([1, 10]), "dtype": np.float32}]

    fake = SimpleNamespace(__name__="ai_edge_litert.interpreter", Interpreter=Interpreter)
    monkeypatch.setattr("edgekit.runtime.tflite.engine.import_runtime", lambda *_: fake)
    with refuses(BundleError, "'image'", "int8"):
        edgekit.load(make_bundle("tflite"))


@pytest.mark.parametrize("way", ["path", "link", "file"])
def test_onnx_weights_in_files_that_the_manifest_does_not_list_are_not_read(
    way: str, tiny_models: Path, tiny_golden: Golden, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(tiny_models / "model.onnx")
    weights = next(item for item in model.graph.initializer if item.name == "0.weight")
    (tmp_path / "secret").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret" if way == "path" else "inside")
    onnx.save(model, tmp_path / "model.onnx")
    files = {"model.onnx": tmp_path / "model.onnx"}
    bundle = write_bundle(tmp_path / "bundle", files, tiny_manifest("onnx"), tiny_labels(), tiny_golden)
    if way == "link":
        (bundle.path / "inside").symlink_to(tmp_path / "secret")
    elif way == "file":
        shutil.copy(tmp_path / "secret", bundle.path / "inside")
    with refuses(BundleError, "../secret" if way == "path" else "inside", "model.onnx"):
        edgekit.load(bundle.path)
    files["inside"] = tmp_path / "secret"
    if way != "path":
        listed = write_bundle(tmp_path / "listed", files, tiny_manifest("onnx"), tiny_labels(), tiny_golden)
        edgekit.load(listed.path).close()


def test_external_data_is_found_wherever_an_onnx_file_may_have_it(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    def tensor(location: str) -> onnx.TensorProto:
        value = onnx.TensorProto(name="location", data_type=onnx.TensorProto.FLOAT, dims=[1])
        value.data_location = onnx.TensorProto.EXTERNAL
        value.external_data.add(key="offset", value="0")
        value.external_data.add(key="location", value=location)
        return value

    inner = helper.make_graph([], "inner", [], [], [tensor("branch")])
    sparse = onnx.SparseTensorProto(values=tensor("values"), indices=tensor("indices"), dims=[1])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=inner)]
    nodes += [helper.make_node("Constant", [], ["c"], value=tensor("attribute"))]
    graph = helper.make_graph(nodes, "graph", [], [], [tensor("initializer")], sparse_initializer=[sparse])
    function = helper.make_function("d", "f", [], ["c"], nodes[1:], [helper.make_opsetid("", 20)])
    function.node[0].attribute[0].t.external_data[1].value = "function"
    model = helper.make_model(graph, functions=[function])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    expected = {"branch", "values", "indices", "attribute", "initializer", "function"}
    assert external_files(tmp_path / "model.onnx") == expected


def test_openvino_opens_only_its_own_format_with_listed_weights(
    tiny_models: Path, tiny_golden: Golden, tmp_path: Path
) -> None:
    model, weights = tiny_models / "model.xml", tiny_models / "model.bin"
    unlisted = write_bundle(
        tmp_path / "unlisted", {"model.xml": model}, tiny_manifest("openvino"), tiny_labels(), tiny_golden
    )
    shutil.copy(weights, unlisted.path)
    with refuses(BundleError, "'model.bin'"):
        edgekit.load(unlisted.path)
    files = {"model.xml": tiny_models / "model.onnx", "model.bin": weights}
    other = write_bundle(tmp_path / "other", files, tiny_manifest("openvino"), tiny_labels(), tiny_golden)
    with refuses(BundleError, "OpenVINO IR"):
        edgekit.load(other.path)


def test_the_model_file_must_have_the_suffix_of_its_runtime(
    target: str, tiny_models: Path, tiny_golden: Golden, tmp_path: Path
) -> None:
    files = {"model.pdmodel": tiny_models / "model.onnx"}
    manifest = tiny_manifest(target, model_file="model.pdmodel")
    bundle = write_bundle(tmp_path / "bundle", files, manifest, tiny_labels(), tiny_golden)
    with refuses(BundleError, "'model_file'") as caught:
        edgekit.load(bundle.path)
    assert RUNTIMES[target].model_suffix in caught.value.valid


def test_values_of_session_options_are_checked(make_bundle: MakeBundle) -> None:
    with edgekit.load(make_bundle("onnx", session={"disabled_optimizers": ["MatMulAddFusion"]})) as session:
        session(np.zeros((1, 3, 32, 32), np.float32))
    with refuses(BundleError, "disabled_optimizers"):
        edgekit.load(make_bundle("onnx", session={"disabled_optimizers": "MatMulAddFusion"}))
    with edgekit.load(make_bundle("openvino", session={"inference_precision": "f32"})) as session:
        session(np.zeros((1, 3, 32, 32), np.float32))
    with refuses(BundleError, "'int4'", "f32, bf16, f16"):
        edgekit.load(make_bundle("openvino", session={"inference_precision": "int4"}))
    for value in ("bf16", "int4", ["f16"]):
        with refuses(BundleError, "'session.inference_precision'", "f32, f16"):
            edgekit.load(make_bundle("tflite", session={"inference_precision": value}))


def test_only_low_precision_widens_the_golden_tolerance(make_bundle: MakeBundle) -> None:
    """A stranger's manifest may have any value, and an engine may ignore it."""
    bundle = read_bundle(make_bundle("onnx"))
    manifest = replace(bundle.manifest, session={"inference_precision": "bf17"})
    with edgekit.Session(bundle) as session:
        session.bundle = replace(bundle, manifest=manifest)
        assert session.compare_golden().tolerance == bundle.golden().tolerance


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_wrong_threads_are_refused(threads: object, make_bundle: MakeBundle) -> None:
    with refuses(UsageError, "threads"):
        edgekit.load(make_bundle("onnx"), threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("top", [0, -1, 2.0, True])
def test_wrong_top_is_refused(top: object, make_bundle: MakeBundle) -> None:
    with edgekit.load(make_bundle("onnx")) as session, refuses(UsageError, "top"):
        session.classify(np.zeros((4, 4, 3), np.uint8), top=top)  # type: ignore[arg-type]


def test_classify_names_a_missing_image(make_bundle: MakeBundle) -> None:
    with edgekit.load(make_bundle("onnx")) as session, refuses(ImageError, "nothing.jpg"):
        session.classify("nothing.jpg")


def test_default_threads_are_the_physical_cores_of_the_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for cpu, siblings in {0: "0-1", 1: "0-1", 2: "2"}.items():
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert available_cores(tmp_path) == 3  # two hyperthreads of one core, one core, one without topology
    assert base.check_threads(None) == available_cores()


def test_a_broken_runtime_is_not_reported_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_runtime.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = replace(RUNTIMES["onnx"], import_names=("broken_runtime",))
    with registered(broken), refuses(EngineError, "broken_runtime", "not_there_at_all"):
        base.import_runtime("onnx")


def test_first_line_gives_the_cause() -> None:
    message = "Exception from src/core.cpp:84:\nCheck 'exists(path)' failed at src/f.cpp:1:\nno such file\nmore"
    assert first_line(RuntimeError(message)) == "no such file"
    unknown = "No conversion rule found for operations: aten.fft"
    headings = "Check 'false' failed at src/f.cpp:1:\nFrontEnd API failed with OpConversionFailure:\nSummary:"
    assert first_line(RuntimeError(f"{headings}\n-- {unknown}\n")) == unknown
    assert first_line(RuntimeError()) == "RuntimeError"


def test_the_sdk_imports_nothing_heavy() -> None:
    code = "import sys, edgekit.runtime, edgekit; edgekit.load; print(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "timm", "nncf", "typer", "rich", "msgspec", "openvino", "onnx", "onnxruntime", "ai_edge_litert"}
    assert not heavy & set(modules)


def test_the_package_imports_no_numpy() -> None:
    code = "import sys, edgekit; print('numpy' in sys.modules, 'edgekit.api' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False False\n"
    with pytest.raises(AttributeError, match="nothing"):
        _ = edgekit.nothing


def test_ctrl_c_after_openvino_s_sessions_were_closed(make_bundle: MakeBundle) -> None:
    code = """
import signal, sys, edgekit
first, second = edgekit.load(sys.argv[1]), edgekit.load(sys.argv[1])
first.close()
second.close()
del first, second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code, make_bundle("openvino")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")


@pytest.mark.parametrize(("default", "stated", "threads"), [(1, None, 1), (3, None, 2), (1, 2, 2), (None, None, 2)])
def test_the_manifest_has_the_default_number_of_threads(
    default: int | None, stated: int | None, threads: int, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "available_cores", lambda: 2)
    bundle = with_manifest(read_bundle(make_bundle("onnx")), threads=default)
    with edgekit.load(bundle.path, stated) as session:
        assert session.threads == threads


@pytest.mark.parametrize(("threads", "pinned"), [(1, False), (2, True)])
def test_openvino_sessions_that_leave_cores_free_are_not_pinned_to_the_same_ones(
    threads: int, pinned: bool, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtime.openvino import engine

    compiled: list[Any] = []
    real = engine.compile_for_cpu

    def watched(*arguments: Any) -> Any:
        compiled.append(real(*arguments))
        return compiled[-1]

    monkeypatch.setattr(engine, "compile_for_cpu", watched)
    monkeypatch.setattr(engine, "available_cores", lambda: 2)
    with edgekit.load(make_bundle("openvino"), threads=threads):
        assert compiled[-1].get_property("ENABLE_CPU_PINNING") is pinned
