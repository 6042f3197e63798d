"""Graphs of small networks, and checks that hold for every graph after every pass."""

import importlib
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_map

from edgekit.compiler import rewrites, simplify
from edgekit.compiler.graph import constant, copy_sharing, refresh, set_values, trace
from edgekit.runtime.tflite import backend

CALIBRATION = (
    "center_weights",
    "use_all_levels",
    "fit_biases",
    "find_ranges",
    "tie_rearrangements",
    "widen_scales",
    "limit_keys",
)
ROUNDING = ("round_weights", "fit_weights")
OTHERS = {
    "edgekit.compiler.calibrate": ("equalize", *CALIBRATION, *ROUNDING),
    "edgekit.runtime.onnx.backend": ("fold_weights", "pad_depthwise"),
    "edgekit.runtime.openvino.backend": ("fold_weights", "decompose_weight_quantizers"),
    "edgekit.runtime.tflite.backend": ("take_weights", "multiply_expansions"),
}
"""The passes that change a graph and aren't in a table, by the module that calls them."""


@torch.no_grad()
def export_graph(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The simplified graph of `module` for float32 inputs of `shape` [1,C,H,W]. The module is not changed."""
    return simplify.simplify(trace(module, shape))


def simplified(
    module: nn.Module, image: torch.Tensor, *passes: Callable[[GraphModule], int]
) -> tuple[GraphModule, int]:
    """The traced graph of a module after these passes, and the number of places that the last of them changed.

    Asserts that every pass leaves right fake tensors, and that the graph computes what the module does.
    """
    module = module.eval().requires_grad_(False)
    graph, places = trace(module, image.shape), 0
    for apply in passes:
        places = apply(graph)
        check_values(graph)
    refresh(graph)
    torch.testing.assert_close(graph(image.clone()), module(image.clone()), rtol=1e-5, atol=1e-5)
    return graph, places


def targets_of(graph: GraphModule) -> list[Any]:
    """The operations of a graph, in its order."""
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def check_values(graph: GraphModule) -> None:
    """Assert that each node has a fake tensor of the shape and type that it computes."""
    check_none_is_missing(graph)
    nodes = _values(graph)
    fresh = _values(set_values(copy_sharing(graph)))
    wrong = [node.format_node() for node, new in zip(nodes, fresh, strict=True) if _kind(node) != _kind(new)]
    assert not wrong, f"nodes with a wrong fake tensor: {wrong}"


def check_none_is_missing(graph: GraphModule) -> None:
    """Assert that each node has a fake tensor, right or wrong."""
    missing = [node.format_node() for node in _values(graph) if "val" not in node.meta]
    assert not missing, f"nodes without a fake tensor: {missing}"


def _values(graph: GraphModule) -> list[Node]:
    """All nodes with a value: not the output, assertions, and subgraphs such as those of an enabled autocast."""
    without = {"output", torch.ops.aten._assert_tensor_metadata.default}
    nodes = (node for node in graph.graph.nodes if node.target not in without)
    return [node for node in nodes if node.op != "get_attr" or constant(graph, node) is not None]


def _kind(node: Node) -> Any:
    value = node.meta["val"]
    return tree_map(lambda part: (part.shape, part.dtype) if isinstance(part, torch.Tensor) else part, value)


def check_every_pass(patch: pytest.MonkeyPatch) -> None:
    """Let every pass check the graph that it leaves.

    Computing the values anew takes longer than most rewrites, so the tests of a rewrite do that once for all of them.
    """

    def checked(apply: Callable[..., Any], check: Callable[[GraphModule], None]) -> Callable[..., Any]:
        @wraps(apply)
        def run(graph: GraphModule, *args: Any, **kwargs: Any) -> Any:
            result = apply(graph, *args, **kwargs)
            check(graph)
            return result

        return run

    for name, apply in rewrites.REWRITES.items():
        patch.setitem(rewrites.REWRITES, name, checked(apply, check_none_is_missing))
    passes = tuple(checked(apply, check_none_is_missing) for apply in simplify.SIMPLIFICATIONS)
    patch.setattr(simplify, "SIMPLIFICATIONS", passes)
    for module, name in ((backend, "SCALE_WORKAROUNDS"), (backend, "WORKAROUNDS")):
        patch.setattr(module, name, tuple(checked(apply, check_values) for apply in getattr(module, name)))
    for place, names in OTHERS.items():
        module = importlib.import_module(place)
        for name in names:
            patch.setattr(module, name, checked(getattr(module, name), check_values))
