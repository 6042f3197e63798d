"""Compile for ONNX Runtime: one ONNX file, with external data above protobuf's limit of 2 GB."""

from functools import partial
from pathlib import Path

import onnx
import torch
from torch.fx import GraphModule

from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compat.torch_program import exporting_by_copying
from edgekit.compiler.graph import example_input
from edgekit.compiler.nodes import layer_name, operand
from edgekit.compiler.quantize.qdq_rewrites import fold_weights
from edgekit.compiler.quantizers import DEQUANTIZE_CHANNELS, quantizers
from edgekit.config.device_classes import DeviceClass
from edgekit.config.runtimes import find_runtime
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.onnx.float_layers import Settled, settle
from edgekit.runtime.onnx.int8_activations import fuse_int8_activations
from edgekit.runtime.onnx.rewrites import fuse_integer_matmul, pool_means

OPSET = 20


class Backend:
    """Compiler for ONNX Runtime."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str, device_class: DeviceClass) -> Artifact:
        fold_weights(graph)
        is_int8, layers = next(quantizers(graph), None) is not None, _layers_of_weights(graph)
        # MatMul + Add is faster than Gemm, and Gelu alone is faster than BiasGelu, which has an older kernel.
        disabled, saving = ("MatMulAddFusion", "BiasGeluFusion"), partial(save, folder=folder)
        # The model isn't assigned to a variable, so that its memory is free while a session checks the file.
        if is_int8:
            saved = settle(_exported(graph, metadata), folder / "model.onnx", disabled, saving)
        else:
            saved = Settled(saving(_exported(graph, metadata)), disabled)
        return Artifact(
            "model.onnx",
            saved.files,
            session={"disabled_optimizers": [*saved.disabled_optimizers]},
            float_layers=frozenset(name for weights in saved.folded for name in layers.get(weights, ())),
        )

    def replace_metadata(self, model_file: Path, metadata: str) -> None:
        model = onnx.load(model_file, load_external_data=False)
        (entry,) = (entry for entry in model.metadata_props if entry.key == "edgekit")
        entry.value = metadata
        model_file.write_bytes(model.SerializeToString())


def _exported(graph: GraphModule, metadata: str) -> onnx.ModelProto:
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
    model = fuse_int8_activations(fuse_integer_matmul(model))
    entry = model.metadata_props.add()
    entry.key, entry.value = "edgekit", metadata
    return model


def _layers_of_weights(graph: GraphModule) -> dict[str, list[str]]:
    """Names of the layers that use each tensor of INT8 weights, by its name in the file."""
    weights = graph.graph.find_nodes(op="call_function", target=DEQUANTIZE_CHANNELS)
    return {str(operand(node).target): [layer_name(user) for user in node.users] for node in weights}


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
        (folder / "model.onnx.data").unlink(missing_ok=True)  # onnx would append to it
        if size < limit.size_bytes:
            onnx.save(model, folder / "model.onnx")
            return ("model.onnx",)
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return ("model.onnx", "model.onnx.data")
