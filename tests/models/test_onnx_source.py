"""Models in ONNX files: equal logits, layers that edgekit recognizes, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgekit.cli.main import main
from edgekit.compiler.graph import A
from edgekit.compiler.layers import layers
from edgekit.errors import EdgekitError, ModelError, UsageError
from edgekit.models.loading import build_meta, load_network
from edgekit.models.onnx_source import OnnxReference
from edgekit.models.options import ModelOptions
from edgekit.report import load_report
from tests.helpers.graphs import export_graph
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.onnx_files import SIDE, Mixed, exported, written
from tests.helpers.refusals import refuses

pytest.importorskip("onnx2pytorch", reason="needs the onnx-models extra")
node = helper.make_node
CONV = node("Conv", ["image", "kernel"], ["conv"], name="/stem/Conv")
HEAD = [node("GlobalAveragePool", ["conv"], ["pool"]), node("Flatten", ["pool"], ["logits"])]
KERNEL = {"kernel": np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("onnx") / "mixed.onnx", Mixed(softmax=True))


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_the_module_computes_the_logits_of_the_network(mixed: Path) -> None:
    network = load_network(ModelOptions(str(mixed)))
    assert (network.name, network.source, network.weights, network.classes) == ("mixed.onnx", "onnx", "mixed.onnx", 5)
    assert network.preprocessing.input_shape == (1, 3, SIDE, SIDE)
    with torch.no_grad():
        logits = network.module(images())
        torch.testing.assert_close(logits, Mixed().eval()(images()), rtol=1e-4, atol=1e-5)
    assert network.reference is not None
    assert network.reference.difference(images().numpy(), logits.numpy()) < 1e-5
    assert network.reference.difference(images().numpy(), logits.numpy() * 2) > 1e-2


def test_another_process_can_load_the_network(mixed: Path, tmp_path: Path) -> None:
    network = load_network(ModelOptions(str(mixed)))
    torch.save(network, tmp_path / "network.pt")
    loaded = torch.load(tmp_path / "network.pt", mmap=True, weights_only=False)
    assert loaded.reference == network.reference
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images()), network.module(images()))


def test_edgekit_recognizes_the_layers(mixed: Path) -> None:
    network = load_network(ModelOptions(str(mixed)))
    graph = export_graph(network.module, (1, 3, SIDE, SIDE))
    kinds = [layer.op for _, layer in layers(graph)]
    assert (kinds.count("conv"), kinds.count("linear"), kinds.count("matmul")) == (1, 5, 2)
    names = [layer.name for _, layer in layers(graph)]
    assert {"model.stem_0", "model.head"} < set(names)
    assert len(set(names) - {"matmul", "matmul_1"}) == 6
    targets = {node.target for node in graph.graph.nodes}
    assert {A.layer_norm.default, A.gelu.default, A.max_pool2d.default} < targets
    assert network.params == sum(p.numel() for p in Mixed().parameters()) - 8 - 2 * 16  # token and norms are constants
    meta, size = build_meta(ModelOptions(str(mixed)))
    assert size == (SIDE, SIDE)
    assert sum(p.numel() for p in meta.parameters()) == network.params


@pytest.mark.parametrize(
    ("metadata", "labels", "origin"),
    [
        ({"names": "{0: 'e', 1: 'd', 2: 'c', 3: 'b', 4: 'a'}"}, ("e", "d", "c", "b", "a"), "names"),
        ({"names": "{0: 'e'", "character": "e\nd\nc\nb\na"}, ("e", "d", "c", "b", "a"), "character"),
        ({"names": "{0: 'e', 1: 'd'}"}, tuple(f"class_{index}" for index in range(5)), None),
    ],
)
def test_class_names_in_the_metadata(
    metadata: dict[str, str], labels: tuple[str, ...], origin: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path / "named.onnx", [CONV, *HEAD], KERNEL)
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    network = load_network(ModelOptions(str(path)))
    assert (network.labels, network.labels_origin) == (labels, origin)
    doubt = "the class names in 'named.onnx' are ignored, because the model has 5 outputs and 'names' has 2 names"
    assert network.labels_doubt == (None if origin else doubt)


def test_weights_in_nodes(tmp_path: Path) -> None:
    constant = node("Constant", [], ["kernel"], value=numpy_helper.from_array(KERNEL["kernel"]))
    mean = node("Identity", ["twos"], ["mean"])  # as older exporters wrote weights that are equal
    norm = node("BatchNormalization", ["conv", "ones", "twos", "mean", "ones"], ["norm"], training_mode=0)
    end = [node("GlobalAveragePool", ["norm"], ["pool"]), *HEAD[1:]]
    numbers = {"ones": np.ones(5, np.float32), "twos": np.full(5, 2, np.float32)}
    path = written(tmp_path / "nodes.onnx", [constant, mean, CONV, norm, *end], numbers)
    network = load_network(ModelOptions(str(path)))
    expected = torch.nn.functional.conv2d(images(), torch.from_numpy(KERNEL["kernel"])).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network.module(images()), expected, rtol=1e-4, atol=1e-4)
    assert network.params == KERNEL["kernel"].size


def test_layers_with_names_that_a_graph_has_already(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["image", "graph.weight"], ["a"]),
        node("Conv", ["image", "graph.weight"], ["b"], strides=[2, 2]),
        node("GlobalAveragePool", ["a"], ["left"]),
        node("GlobalAveragePool", ["b"], ["right"]),
        node("Add", ["left", "right"], ["sum"]),
        node("Flatten", ["sum"], ["logits"]),
    ]
    path = written(tmp_path / "shared.onnx", nodes, {"graph.weight": KERNEL["kernel"]})
    network = load_network(ModelOptions(str(path)))
    with torch.no_grad():
        logits = network.module(images()).numpy()
    assert network.reference is not None
    assert network.reference.difference(images().numpy(), logits) < 1e-5


def test_the_whole_job(mixed: Path, photos: Path, tmp_path: Path, capfd: Any) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class_{index}\n" for index in range(5)))
    data = tmp_path / "data"
    for index in range(5):
        shutil.copytree(photos / f"class_{index}", data / f"class_{index}")
    job = ["deploy", str(mixed), "--data", str(data), "--labels", str(labels), "--target", "onnx"]
    quick = ["--num-calibration-samples", "6", "--iterations", "3", "--warmup", "0", "--threads", "1"]
    gates = ["--min-speedup", "0", "--max-drop", "100"]
    with without_fresh_processes():
        assert main([*job, *quick, *gates, "-o", str(tmp_path / "run")]) == 1  # near chance: its weights are random
    err = capfd.readouterr().err
    assert "'mixed.onnx' doesn't say how its images were normalized: --mean is 0.485, 0.456, 0.406 and" in err
    assert "the import differs from ONNX Runtime by " in err
    report = load_report(tmp_path / "run")
    assert (report.model.name, report.model.source, report.model.weights) == ("mixed.onnx", "onnx", "mixed.onnx")
    float_, int8 = report.results
    assert float_.verdict == int8.verdict == "inconclusive"
    assert float_.accuracy is not None
    assert float_.accuracy.agreement == 1
    assert int8.int8 is not None
    assert (int8.int8.share_of_macs or 0) > 0.5


def test_an_import_that_differs_is_not_quantized(
    mixed: Path, photos: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxReference, "difference", lambda *_: 0.002)
    normalized = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    data = ["--data", str(photos / "class_0"), "--labels", str(photos)]
    folder = tmp_path / "data"
    for index in range(5):
        shutil.copytree(photos / f"class_{index}", folder / f"class_{index}")
    data = ["--data", str(folder), "--num-calibration-samples", "4"]
    assert main(["quantize", str(mixed), *data, *normalized, "--target", "onnx", "-o", str(tmp_path / "run")]) == 2
    err = capfd.readouterr().err
    assert "the import of 'mixed.onnx' differs from ONNX Runtime by 2.00e-03 of the largest output" in err
    assert "normalized" not in err
    assert not (tmp_path / "run").exists()


OWN = node("Magic", ["image"], ["logits"], domain="own")
LINEAR = [node("QuantizeLinear", ["image", "scale"], ["q"]), node("DequantizeLinear", ["q", "scale"], ["logits"])]


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([CONV, *HEAD], {"inputs": {"image": [1, 3, 16, 16], "other": [1]}}, "2 inputs and 1 outputs.*one input"),
        ([CONV, *HEAD], {"inputs": {"image": [1, 16, 16, 3]}}, r"float \[1, 16, 16, 3\].*\[N,C,H,W\]"),
        ([CONV, *HEAD], {"inputs": {"image": [8, 3, 16, 16]}}, r"float \[8, 3, 16, 16\].*batch of 1"),
        ([CONV, *HEAD], {"kind": onnx.TensorProto.FLOAT16}, r"float16 \[1, 3, 16, 16\]"),
        ([OWN], {}, r"operators that edgekit can't import: Magic.*module:factory"),
        ([node("Load", ["image"], ["logits"])], {}, r"operators that edgekit can't import: Load"),
        ([node("ReverseSequence", ["image"], ["logits"])], {}, r"onnx2pytorch can't convert .*module:factory"),
        (LINEAR, {}, "quantized already: it has DequantizeLinear, QuantizeLinear"),
        ([CONV], {}, r"returns shape \[1, 5, 14, 14\].*logits"),
    ],
)
def test_what_is_not_a_classifier(
    nodes: list[onnx.NodeProto], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "wrong.onnx", nodes, KERNEL | {"scale": np.float32(1)}, **options)
    with pytest.raises(ModelError, match=message):
        load_network(ModelOptions(str(path)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"imgsz": 32}, UsageError, "--imgsz is 32.*16x16"),
        ({"weights": "random"}, UsageError, "--weights doesn't apply to .*mixed.onnx"),
        ({"model_args": {"num_classes": 3}}, UsageError, "--model-args doesn't apply"),
        ({"name": "missing.onnx"}, ModelError, "'missing.onnx' doesn't exist"),
    ],
)
def test_options_that_do_not_apply(
    changes: dict[str, Any], error: type[EdgekitError], message: str, mixed: Path
) -> None:
    with pytest.raises(error, match=message):
        load_network(ModelOptions(**{"name": str(mixed), **changes}))


def test_a_damaged_file(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(mixed.read_bytes()[:-100])
    with refuses(ModelError, "damaged.onnx'", "ONNX"):
        load_network(ModelOptions(str(path)))


def test_a_size_that_the_file_leaves_open(tmp_path: Path) -> None:
    path = written(tmp_path / "open.onnx", [CONV, *HEAD], KERNEL, inputs={"image": ["batch", 3, "height", "width"]})
    with refuses(UsageError, "--imgsz"):
        load_network(ModelOptions(str(path)))
    assert load_network(ModelOptions(str(path), imgsz=(12, 20))).preprocessing.input_shape == (1, 3, 12, 20)
