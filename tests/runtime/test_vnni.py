"""Pairs of weights are counted in any model file, and loading warns where they can saturate."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.errors import BundleError
from edgekit.runtime import session
from edgekit.runtime.bundle import Bundle, Manifest, read_bundle
from edgekit.runtime.session import SaturationWarning, lacks_vnni, pairs_that_can_saturate, warn_if_saturating
from tests.helpers.refusals import refuses
from tests.helpers.tiny import MakeBundle, tiny_manifest

LEVELS = np.array([[127, 127, 1, 0, 5], [-127, 5, -100, -100, 127]], np.int8)
"""Weights [out,in] with two pairs that can saturate: (0, 1) of the first output and (2, 3) of the second."""


def cpuinfo(folder: Path, flags: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    return folder


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("sse4_2 avx2 fma", True), ("avx2 avx512f", True), ("avx2 avx512f avx512_vnni", False), ("avx2 avx_vnni", False)],
)
def test_vnni_is_a_feature_of_the_processor(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert lacks_vnni(cpuinfo(tmp_path, flags)) is expected


def test_other_and_unknown_processors_are_not_said_to_lack_vnni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert not lacks_vnni(tmp_path), "there is no /proc/cpuinfo, as on Windows"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not lacks_vnni(cpuinfo(tmp_path, "fp asimd asimddp"))


def warned(monkeypatch: pytest.MonkeyPatch, lacks: bool = True, **changes: Any) -> list[str]:
    """Messages of the warnings about a bundle."""
    monkeypatch.setattr(session, "lacks_vnni", lambda: lacks)
    bundle = Bundle(Path("runs/one/onnx-int8"), replace(tiny_manifest("onnx", precision="int8"), **changes), ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_saturating(bundle)
    assert all(issubclass(warning.category, SaturationWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_bundle_whose_pairs_can_saturate_warns_on_a_processor_without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = warned(monkeypatch, pairs_that_can_saturate=1234)
    assert "runs/one/onnx-int8" in message
    assert "1,234" in message
    (message,) = warned(monkeypatch, pairs_that_can_saturate=None)
    assert "an unknown number" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"pairs_that_can_saturate": 0},
        {"precision": "float"},
        {"target": "tflite"},
        {"lacks": False, "pairs_that_can_saturate": 1234},
    ],
)
def test_other_bundles_and_processors_do_not_warn(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    assert warned(monkeypatch, **changes) == []


def test_load_warns(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "lacks_vnni", lambda: True)
    with pytest.warns(SaturationWarning, match="no VNNI"):
        edgekit.load(make_bundle("onnx", precision="int8")).close()


def test_a_manifest_of_an_older_version_has_no_number(make_bundle: MakeBundle) -> None:
    manifest = read_bundle(make_bundle("onnx", precision="int8", pairs_that_can_saturate=7)).manifest
    values = manifest.to_dict()
    assert Manifest.from_dict(values) == manifest
    del values["pairs_that_can_saturate"]
    assert Manifest.from_dict(values).pairs_that_can_saturate is None
    with refuses(BundleError, "pairs_that_can_saturate"):
        Manifest.from_dict(values | {"pairs_that_can_saturate": -1})


def model(nodes: list[Any], tensors: dict[str, Any]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", nodes[-1].output[0])]
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], initializers))


def dequantized(
    kind: str, weight: NDArray[np.int8], zero: Any, transpose: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """A layer between DequantizeLinear nodes, as exporters write it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        *([helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0])] if transpose else []),
        helper.make_node(kind, ["d", "t" if transpose else "v"], ["y"], **attributes),
    ]
    return model(nodes, {"s": np.float32(1), "z": zero, "w": np.ascontiguousarray(weight)})


def integer(kind: str, inputs: list[str], weight: NDArray[np.int8], **attributes: Any) -> onnx.ModelProto:
    """An integer operation with uint8 activations."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node(kind, inputs, ["y"], **attributes),
    ]
    return model(nodes, {"s": np.float32(1), "z": np.uint8(0), "w": np.ascontiguousarray(weight)})


@pytest.mark.parametrize(
    ("proto", "pairs"),
    [
        (dequantized("MatMul", LEVELS.T, np.uint8(3)), 2),
        (dequantized("MatMul", LEVELS, np.uint8(3), transpose=True), 2),
        (dequantized("Gemm", LEVELS, np.uint8(3), transB=1), 2),
        (dequantized("Conv", LEVELS[:, :, None, None], np.uint8(3)), 2),
        (dequantized("Conv", np.tile(LEVELS, (2, 1))[:, :, None, None], np.uint8(3), group=2), 4),
        (dequantized("MatMul", LEVELS.T, np.int8(3)), 0),
        (integer("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], LEVELS[:, :, None]), 2),
        (integer("MatMulInteger", ["q", "w", "z"], LEVELS.T), 2),
        (integer("MatMulIntegerToFloat", ["q", "w", "s", "s", "z"], LEVELS.T, domain="com.microsoft"), 2),
        (integer("QGemm", ["q", "s", "z", "w", "s", "z"], LEVELS, domain="com.microsoft", transB=1), 2),
        (model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": LEVELS.T.astype(np.float32)}), 0),
    ],
)  # fmt: skip
def test_pairs_are_counted_in_onnx_files_of_any_origin(proto: onnx.ModelProto, pairs: int, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "model.onnx")
    assert pairs_that_can_saturate("onnx", tmp_path / "model.onnx") == pairs


def test_pairs_in_external_data_are_counted(tmp_path: Path) -> None:
    proto = dequantized("MatMul", np.tile(LEVELS, (300, 1)), np.uint8(3), transpose=True)
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    assert (tmp_path / "model.onnx.data").exists()
    assert pairs_that_can_saturate("onnx", tmp_path / "model.onnx") == 600


def test_litert_adds_in_32_bits(tmp_path: Path) -> None:
    assert pairs_that_can_saturate("tflite", tmp_path / "model.tflite") == 0
