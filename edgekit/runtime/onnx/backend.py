"""Compile for ONNX Runtime: one ONNX file, with external data above protobuf's limit of 2 GB."""

from pathlib import Path

import onnx
import torch
from torch.fx import GraphModule

from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compat.torch_onnx import keep_translations
from edgekit.compat.torch_program import exporting_by_copying
from edgekit.compiler.graph import example_input
from edgekit.compiler.quantize.lowering import fold_weights
from edgekit.config.device_classes import DeviceClass
from edgekit.config.runtimes import find_runtime
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.onnx.fusion import fuse_integer_matmul
from edgekit.runtime.onnx.pooling import pool_means

OPSET = 20


class Backend:
    """Compiler for ONNX Runtime."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str, device_class: DeviceClass) -> Artifact:
        keep_translations()
        fold_weights(graph)
        example = example_input(graph)
        with compiler_errors("onnx"), exporting_by_copying(), decomposing_by_node():
            program = torch.onnx.export(
                torch.export.export(graph, (example,)),
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        del program
        pool_means(model)
        strip(model)
        model = fuse_integer_matmul(model)
        entry = model.metadata_props.add()
        entry.key, entry.value = "edgekit", metadata
        files = save(model, folder)
        # MatMul + Add is faster than Gemm, and Gelu alone is faster than BiasGelu, which has an older kernel.
        session = {"disabled_optimizers": ["MatMulAddFusion", "BiasGeluFusion"]}
        return Artifact("model.onnx", files, input_name="image", output_name="logits", session=session)

    def replace_metadata(self, model_file: Path, metadata: str) -> None:
        model = onnx.load(model_file, load_external_data=False)
        (entry,) = (entry for entry in model.metadata_props if entry.key == "edgekit")
        entry.value = metadata
        model_file.write_bytes(model.SerializeToString())


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which are half of a small file."""
    del model.metadata_props[:]
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")


def save(model: onnx.ModelProto, folder: Path) -> tuple[str, ...]:
    """Write model.onnx, and model.onnx.data if the weights don't fit in one protobuf; returns the files' names."""
    size, limit = sum(len(tensor.raw_data) for tensor in model.graph.initializer), find_runtime("onnx").file_limit
    assert limit is not None
    with compiler_errors("onnx"):
        if size < limit.size_bytes:
            onnx.save(model, folder / "model.onnx")
            return ("model.onnx",)
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return ("model.onnx", "model.onnx.data")
