"""INT8 files have float ends, and compute GELU in float between INT8 values; float files offer f16."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

import edgekit
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.profile import profile_model
from edgekit.runtime.tflite import engine
from edgekit.runtime.tflite.backend import Backend
from edgekit.runtime.tflite.flatbuffer import packed
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.tiny import METADATA, SIDE, X86, MakeBundle

SHAPE = (1, 3, 8, 8)


class Feedforward(nn.Module):
    """Two Linear layers around a GELU, after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.wide, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(nn.functional.gelu(self.wide(rows))).mean(1)
        return logits


def operations(path: Path) -> Counter[tuple[str, str]]:
    """Number of operations of each kind and type of its first input."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model: Any = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    (graph,) = model.subgraphs
    return Counter(
        (names[model.operatorCodes[op.opcodeIndex].builtinCode], types[graph.tensors[op.inputs[0]].type])
        for op in graph.operators
    )


def test_gelu_is_a_table_and_the_image_is_quantized_inside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = [random.normal(size=SHAPE).astype(np.float32) for _ in range(4)]
    recipe = Recipe.load("default")
    row = replace(recipe.targets["tflite"], lowerings=("int8-gelu",))
    graph = quantize(
        export_graph(Feedforward().eval(), SHAPE), images, replace(recipe, targets={"tflite": row}), "tflite"
    )
    with torch.no_grad():
        expected = np.concatenate([graph(torch.from_numpy(image)).numpy() for image in images])
    with quiet(), torch.no_grad():
        Backend().compile(graph, tmp_path, METADATA, X86)
    found = operations(tmp_path / "model.tflite")
    assert (found["GELU", "FLOAT32"], found["GELU", "INT8"]) == (1, 0)
    assert found["QUANTIZE", "FLOAT32"] == 2, "the image and the GELU"
    assert snr_db(expected, run_file(tmp_path / "model.tflite", images)) > 30
    ran = profile_model(tmp_path / "model.tflite", threads=1, runs=1)
    assert ran.method.startswith("LiteRT's profiler"), "the signature, which it reads, names the float input too"


def test_float_logits_equal_those_computed_from_an_int8_output(finished_run: Path, tmp_path: Path) -> None:
    path, int8_output = finished_run / "tflite-int8" / "model.tflite", tmp_path / "model.tflite"
    model: Any = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    (graph,) = model.subgraphs
    last = graph.operators.pop()
    assert model.operatorCodes[last.opcodeIndex].builtinCode == schema.BuiltinOperator.DEQUANTIZE
    graph.outputs = last.inputs
    assert [graph.tensors[end].type for end in (*graph.inputs, *last.outputs, *graph.outputs)] == [
        schema.TensorType.FLOAT32, schema.TensorType.FLOAT32, schema.TensorType.INT8
    ]  # fmt: skip
    model.signatureDefs = None
    int8_output.write_bytes(packed(model, path.stat().st_size))
    with edgekit.load(path.parent, threads=1) as session:
        images = np.random.default_rng(0).normal(size=(20, *session.bundle.manifest.input_shape)).astype(np.float32)
        logits = session(images[:, 0])
    np.testing.assert_array_equal(logits, run_file(int8_output, images))
    assert len(np.unique(logits)) > 20


@pytest.mark.parametrize("device_class", ["raspberry-pi-5", "raspberry-pi-4"])
def test_a_float_file_offers_f16_for_cores_that_have_it(device_class: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = export_graph(Feedforward().eval(), SHAPE)
    with quiet(), torch.no_grad():
        Backend().compile(graph, tmp_path, METADATA, DeviceClass.load(device_class))
    content = (tmp_path / "model.tflite").read_bytes()
    assert (engine.F16_OFFERED in content) == (device_class == "raspberry-pi-5")
    assert engine.F16 not in content


def test_a_session_in_f16_renames_the_offer(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Interpreter(litert.Interpreter):  # type: ignore[misc]
        def __init__(self, model_path: str | None = None, model_content: bytes | None = None, **options: Any) -> None:
            loaded.append(model_content or Path(model_path or "").read_bytes())
            super().__init__(model_path, model_content=model_content, **options)

    monkeypatch.setattr(litert, "Interpreter", Interpreter)
    bundle = make_bundle("tflite")
    x = np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    with edgekit.load(bundle, low_precision=True) as session:
        assert "inference_precision" not in session.bundle.manifest.session, "the file offers nothing"
        expected = session(x)
    monkeypatch.setattr(engine, "cpu_features", lambda: ["asimd", "asimdhp"])
    monkeypatch.setattr(engine, "F16_OFFERED", b"serving_default")  # a name in any file of litert-torch
    monkeypatch.setattr(engine, "F16", b"serving_DEFAULT")
    with edgekit.load(bundle, low_precision=True) as session:
        assert session.bundle.manifest.session["inference_precision"] == "f16"
        assert b"serving_DEFAULT" in loaded[-1]
        np.testing.assert_allclose(session(x), expected, atol=1e-5)
