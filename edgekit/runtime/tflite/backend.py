"""Compile for LiteRT (TensorFlow Lite): one flatbuffer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import litert_torch
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_torch.quantize import pt2e_quantizer, quant_config
from torch.fx import GraphModule

from edgekit.compat.litert_torch import keep_layout_marks, register_rewriters, share_lowerings
from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compat.torch_program import exporting_by_copying
from edgekit.compiler.graph import example_input
from edgekit.config.device_classes import DeviceClass
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.tflite.biases import rescale_biases
from edgekit.runtime.tflite.engine import F16, F16_OFFERED
from edgekit.runtime.tflite.float_ends import float_ends, tabulate_gelus
from edgekit.runtime.tflite.ranges import (
    concatenate_stacks,
    requantize_paddings,
    separate_float_layers,
    separate_joins,
    separate_paddings,
    separate_poolings,
    separate_quantizers,
    spell_out_branches,
)
from edgekit.runtime.tflite.take_weights import take_weights
from edgekit.runtime.tflite.weights import Key, Levels, put_weights
from edgekit.runtime.tflite.workarounds import (
    crop_transposed_convolutions,
    flatten_single_rows,
    multiply_expansions,
    separate_products,
)

HALVES = b"fp16accfp16"
"""Value of the metadata that lets XNNPACK compute float layers in f16 where the processor has it natively."""
METADATA = b"edgekit"
"""Name of the metadata that describes the bundle."""


class Backend:
    """Compiler for LiteRT; tflite-runtime 2.14 also loads its files.

    The float layers of an INT8 file run in f16 on Arm cores that support it, such as the Raspberry Pi 5's, and in f32
    elsewhere. In f16, convnextv2_atto needs 96 million instructions there instead of 122, and loses 0.3 dB. A float
    file for such cores offers to run in f16.
    """

    def compile(self, graph: GraphModule, folder: Path, metadata: str, device_class: DeviceClass) -> Artifact:
        register_rewriters()
        keep_layout_marks()
        share_lowerings()
        graph.training = False
        flatten_single_rows(graph)
        crop_transposed_convolutions(graph)
        separate_products(graph)
        for tensor in (*graph.parameters(), *graph.buffers()):
            # The converter frees its own contiguous copies before it reads them.
            tensor.data = tensor.data.contiguous()
        options: dict[str, Any] = {}
        weights: dict[Key, Levels] = {}
        extra = [(F16_OFFERED, HALVES)] if device_class.has_f16 else []
        if any("quantize" in str(node.target) for node in graph.graph.nodes):
            # Without a quantization config the converter silently keeps every Q/DQ pair and folds none.
            config = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            quantizer = pt2e_quantizer.PT2EQuantizer().set_global(config)
            extra = [(F16, HALVES)]
            concatenate_stacks(graph)
            spell_out_branches(graph)
            separate_joins(graph)
            separate_poolings(graph)
            separate_paddings(graph)
            requantize_paddings(graph)
            separate_float_layers(graph)
            separate_quantizers(graph)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
            weights = take_weights(graph)
        multiply_expansions(graph)
        example = example_input(graph)
        with compiler_errors("tflite"), exporting_by_copying(), decomposing_by_node():
            # Not assigned to a variable, so that the converter's model, with all weights in float, is freed.
            litert_torch.convert(graph, (example,), **options).export(str(folder / "model.tflite"))
        image, logits = finish(folder / "model.tflite", [(METADATA, metadata.encode()), *extra], weights)
        return Artifact("model.tflite", ("model.tflite",), input_name=image, output_name=logits)

    def replace_metadata(self, model_file: Path, metadata: str) -> None:
        model = schema.ModelT.InitFromPackedBuf(np.fromfile(model_file, np.uint8))
        (entry,) = (entry for entry in model.metadata if entry.name == METADATA)
        model.buffers[entry.buffer].data = list(metadata.encode())
        model_file.write_bytes(packed(model, model_file.stat().st_size + len(metadata)))


def finish(path: Path, entries: Sequence[tuple[bytes, bytes]], weights: Mapping[Key, Levels]) -> tuple[str, str]:
    """Repair the flatbuffer, and add weights and metadata by name. Returns the names of its input and its output."""
    model = schema.ModelT.InitFromPackedBuf(np.memmap(path, np.uint8, "r"))
    put_weights(model, weights)
    rescale_biases(model)
    tabulate_gelus(model)
    float_ends(model)
    for name, content in entries:
        buffer = schema.BufferT()
        buffer.data = list(content)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]
    graph = model.subgraphs[0]
    names = tuple(graph.tensors[ends[0]].name.decode() for ends in (graph.inputs, graph.outputs))
    file = packed(model, path.stat().st_size + sum(len(content) for _, content in entries))
    del model, graph  # which read the old file
    path.write_bytes(file)
    return names


def packed(model: schema.ModelT, size: int) -> memoryview:
    """A model as a flatbuffer, whose size is about `size` bytes."""
    builder = flatbuffers.Builder(size + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return memoryview(builder.Bytes)[builder.Head() :]
