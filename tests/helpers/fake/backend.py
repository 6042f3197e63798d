"""The fake runtime's compiler, which stores the graph as torch exports it."""

from pathlib import Path

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import add_constant, constant, example_input, refresh
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.metadata import Metadata


class Backend:
    """Stores the graph as it is, with quantized weights in int8."""

    def compile(self, graph: GraphModule, folder: Path, metadata: Metadata, device_class: DeviceClass) -> Artifact:
        store_weights_as_int8(graph)
        program = torch.export.export(graph, (example_input(graph),))
        for node in program.graph.nodes:  # stack traces are larger than the weights
            for key in node.meta.keys() - {"val"}:
                del node.meta[key]
        with compiler_errors("fake"):
            torch.export.save(program, folder / "model.pt2", extra_files={"edgekit": own(metadata)})
        return Artifact("model.pt2", ("model.pt2",))

    def replace_metadata(self, model_file: Path, metadata: Metadata) -> None:
        torch.export.save(torch.export.load(model_file), model_file, extra_files={"edgekit": own(metadata)})


def own(metadata: Metadata) -> str:
    """The text in the file, with the names of classes, for which the format has no place."""
    return metadata.own(labels=metadata.labels)


def store_weights_as_int8(graph: GraphModule) -> None:
    """Compute the Q of each constant in advance, and delete unused constants."""
    for node in list(graph.graph.nodes):
        if ".quantize_per_channel" in str(node.target) and (weight := constant(graph, node.args[0])) is not None:
            scale, zero = (constant(graph, argument) for argument in node.args[1:3])
            node.replace_all_uses_with(
                add_constant(graph, node, node.name, node.target(weight, scale, zero, *node.args[3:]))
            )
    refresh(graph)
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in graph.state_dict().keys() - used:
        owner, _, leaf = name.rpartition(".")
        delattr(graph.get_submodule(owner), leaf)
