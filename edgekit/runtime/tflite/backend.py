"""Compile for LiteRT (TensorFlow Lite): one flatbuffer."""

from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_torch.quantize import pt2e_quantizer, quant_config
from torch.fx import GraphModule

from edgekit.compat.litert_torch import keep_layout_marks, register_rewriters
from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compat.torch_program import exporting_by_copying
from edgekit.compiler.graph import example_input
from edgekit.config.device_classes import DeviceClass
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.tflite import scales, workarounds
from edgekit.runtime.tflite.engine import F16, F16_OFFERED
from edgekit.runtime.tflite.flatbuffer import finish, packed
from edgekit.runtime.tflite.weights import Key, Levels, take_weights

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
        graph.training = False
        for apply in workarounds.WORKAROUNDS:
            apply(graph)
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
            for apply in scales.SCALE_WORKAROUNDS:
                apply(graph)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
            weights = take_weights(graph)
        workarounds.multiply_expansions(graph)
        graph.recompile()
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
