"""Compile for OpenVINO: IR files (.xml and .bin)."""

import re
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import torch
from torch.fx import GraphModule

from edgekit.compat.openvino import openvino
from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compiler.graph import A, add_constant, constant, example_input, insert, operand, replace_layer
from edgekit.compiler.layers import DEQUANTIZE_CHANNELS, quantizers
from edgekit.compiler.placement import fold_weights
from edgekit.compiler.torch_compat import compiled
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.metadata import Metadata
from edgekit.runtime.openvino.workarounds import shield_extremes, shield_reshapes, split_reductions

METADATA, END = "\t\t<edgekit ", "\t</rt_info>\n</net>\n"
"""Start of the metadata in a model.xml, and the text after it, which ends the file."""
QUOTE = {'"': "&quot;"}


class Backend:
    """Compiler for OpenVINO."""

    def compile(self, graph: GraphModule, folder: Path, metadata: Metadata, device_class: DeviceClass) -> Artifact:
        fold_weights(graph)
        decompose_weight_quantizers(graph)
        is_quantized = any(quantizers(graph))
        example = example_input(graph)
        with compiler_errors("openvino"), decomposing_by_node():
            model = openvino.convert_model(torch.export.export(compiled(graph), (example,)), input=list(example.shape))
        model.inputs[0].get_tensor().set_names({"image"})
        model.outputs[0].get_tensor().set_names({"logits"})
        if device_class.is_arm:
            split_reductions(model)
        if is_quantized:
            shield_extremes(model)
            shield_reshapes(model)
        name_by_place(model)
        with compiler_errors("openvino"):
            # Compressing the weights to 16 bits would change the float model.
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        self.replace_metadata(folder / "model.xml", metadata)
        return Artifact("model.xml", ("model.xml", "model.bin"))

    def replace_metadata(self, model_file: Path, metadata: Metadata) -> None:
        # In the text, because OpenVINO would also write other names and a new file of weights.
        before, _, _ = model_file.read_text("utf-8").removesuffix(END).partition(METADATA)
        own = {"edgekit": metadata.own(labels=metadata.labels)}  # model_info has the names without spaces
        info = "".join(f"\t{line}" for line in _elements(metadata.model_info()))
        elements = f"{''.join(_elements(own))}\t\t<model_info>\n{info}\t\t</model_info>\n"
        model_file.write_text(f"{before}{elements}{END}", "utf-8", newline="\n")


def _elements(values: Mapping[str, str]) -> list[str]:
    """Lines of a model.xml with an element for each value."""
    return [f'\t\t<{key} value="{escape(value, QUOTE)}" />\n' for key, value in values.items()]


def decompose_weight_quantizers(graph: GraphModule) -> None:
    """Turn the DQ of a folded weight into a cast and a product: OpenVINO's frontend ignores a DQ without its Q."""
    nodes = graph.graph.find_nodes(op="call_function", target=DEQUANTIZE_CHANNELS)
    for place, node in enumerate(nodes):  # numbers don't depend on names, like those of `fold_weights`
        levels, scale = (constant(graph, operand(node, place)) for place in (0, 1))
        if levels is None or scale is None or levels.dtype != torch.int8:
            continue
        shape = [-1 if axis == node.args[3] else 1 for axis in range(levels.ndim)]
        factor = add_constant(graph, node, f"weight_{place}.scale", scale.float().view(shape))
        value = insert(graph, node, A.to.dtype, node.args[0], torch.float32)
        replace_layer(graph, node, insert(graph, node, A.mul.Tensor, value, factor))
    graph.recompile()


def name_by_place(model: openvino.Model) -> None:
    """Number the operations by position, where OpenVINO used a counter of this process, as in Constant_45686.

    The same graph then becomes the same file, byte for byte, regardless of what was compiled before.
    """
    model.set_friendly_name("model")
    for place, operation in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Za-z0-9]+_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}_{place}")
