"""OpenVINO: the graph as IR (.xml and .bin)."""

import re
from pathlib import Path

import openvino
import torch
from torch.fx import GraphModule

from edgekit.backends.base import Artifact
from edgekit.backends.openvino_axes import split_reductions
from edgekit.graph import example_input


class Backend:
    """Compiles for OpenVINO."""

    def compile(self, graph: GraphModule, folder: Path, metadata: str) -> Artifact:
        example = example_input(graph)
        model = openvino.convert_model(torch.export.export(graph, (example,)), input=list(example.shape))
        model.inputs[0].get_tensor().set_names({"image"})
        model.outputs[0].get_tensor().set_names({"logits"})
        split_reductions(model)
        name_by_place(model)
        model.set_rt_info(metadata, ["edgekit"])
        # Weights stay as they are: rounding them to 16 bits would make the float model another model.
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        return Artifact("model.xml", ("model.xml", "model.bin"), "image", "logits", "openvino", "2024.0")


def name_by_place(model: openvino.Model) -> None:
    """Give names that OpenVINO counted up in this process, such as Constant_45686, by the operation's place instead.

    The same graph is then the same file, byte for byte, whatever was compiled before it.
    """
    model.set_friendly_name("model")
    for place, operation in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Za-z0-9]+_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}_{place}")
