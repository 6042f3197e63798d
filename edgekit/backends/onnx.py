"""ONNX Runtime: the graph as one ONNX file, or with external data above protobuf's 2 GB."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.fx import GraphModule

from edgekit.backends.base import Artifact
from edgekit.graph import example_input

OPSET = 20
PROTOBUF_LIMIT = 2_000_000_000


class Backend:
    """Compiles for ONNX Runtime."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str) -> Artifact:
        program = torch.onnx.export(
            torch.export.export(graph, (example_input(graph),)),
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        strip(model)
        fold_weights(model)
        entry = model.metadata_props.add()
        entry.key, entry.value = "edgekit", metadata
        files = save(model, folder)
        # Without this MatMul + Add become Gemm, and the integer MatMul that fuses with its Q/DQ is lost.
        session = {"disabled_optimizers": ["MatMulAddFusion"]}
        return Artifact("model.onnx", files, "image", "logits", "onnxruntime", "1.18.0", session=session)


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces: half of a small file."""
    del model.metadata_props[:]
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")


def fold_weights(model: onnx.ModelProto) -> None:
    """Store quantized weights as int8: the exporter leaves them as float behind QuantizeLinear."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    folded = []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in tensors:
            continue
        value, scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if each == axis % value.ndim else 1 for each in range(value.ndim)] if scale.ndim else []
        limits = np.iinfo(zero.dtype)
        steps = np.rint(value / scale.reshape(shape)) + zero.reshape(shape)
        steps = steps.clip(limits.min, limits.max).astype(zero.dtype)
        tensors[node.output[0]] = numpy_helper.from_array(steps, node.output[0])
        folded.append(node)
    for node in folded:
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)


def save(model: onnx.ModelProto, folder: Path) -> tuple[str, ...]:
    """Write model.onnx, and model.onnx.data when the weights don't fit in one protobuf. Names of the files."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < PROTOBUF_LIMIT:
        onnx.save(model, folder / "model.onnx")
        return ("model.onnx",)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return ("model.onnx", "model.onnx.data")
