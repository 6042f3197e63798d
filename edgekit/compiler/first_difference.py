"""Finds the first layer whose output in a graph isn't that of its network."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compiler.nodes import layer_name


@torch.no_grad()
def first_differing_layer(network: nn.Module, graph: GraphModule, image: Tensor, tolerance: float) -> str | None:
    """Name of the first layer whose output in the graph differs from the network's for an image [1,C,H,W].

    `tolerance` is a fraction of the layer's largest output. Returns None if all outputs that both have are equal. It
    skips layers into which a batch norm was folded, and those that run several times.
    """
    outputs = _outputs(network, image)
    last = {layer_name(node): node for node in graph.graph.nodes if node.op == "call_function"}
    expected = {node: outputs[name][0] for name, node in last.items() if _is_own(node, outputs)}
    interpreter = Interpreter(graph, garbage_collect_values=False)
    interpreter.run(image.clone())
    for node in graph.graph.nodes:
        if node in expected and _differs(interpreter.env[node], expected[node], tolerance):
            return layer_name(node)
    return None


def _differs(value: Tensor, expected: Tensor, tolerance: float) -> bool:
    most = tolerance * float(expected.abs().max())
    return value.shape == expected.shape and not torch.allclose(value, expected, rtol=0, atol=most)


def _outputs(network: nn.Module, image: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of each layer, in the order of its calls."""
    outputs: dict[str, list[Tensor]] = {}

    def remember(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, []).append(output.clone())  # a later layer may write into it

    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: remember(name, output))
        for name, layer in network.named_modules()
        if not any(layer.children())
    ]
    try:
        network(image.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _is_own(node: Node, outputs: dict[str, list[Tensor]]) -> bool:
    """Whether a node gives the output of a layer that ran once and has the weights of the network."""
    name = layer_name(node)
    weight = node.args[1] if len(node.args) > 1 else None
    changed = isinstance(weight, Node) and weight.op == "get_attr" and str(weight.target) != f"{name}.weight"
    return len(outputs.get(name, ())) == 1 and not changed
