"""Weights rounded with regard to the inputs that they meet: GPTQ (arXiv 2210.17323), here for int8 weights per channel.

Rounding each weight to the nearest step makes the least error in the weights, not in what the layer gives: inputs of
neighbouring channels go together, so that the error of one weight can be made good by the next ones.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from edgekit.compiler.graph import A, Replay, add_constant, argument, constant, drop_constants, pair
from edgekit.errors import CompileError

DAMPING = 0.01
"""Share of the mean diagonal that is added to it: inputs that never vary would let weights wander."""
BLOCK = 32
MOST_INPUTS = 8192
"""Layers with more inputs round to nearest: their matrices take gigabytes."""
MEMORY_BYTES = 1 << 30
"""For the matrices of the layers that one pass over the images looks at."""


@torch.no_grad()
def round_weights(graph: GraphModule, samples: Sequence[NDArray[np.float32]]) -> int:
    """Choose the steps of a Q/DQ graph's weights, in place, on images float32 [1,3,H,W]. Count of layers.

    The scales stay, so that what runtimes make of the graph stays too. Depthwise layers are left as they are.
    """
    rounded = 0
    for group in _groups(graph):
        inputs = _Inputs(graph, group)
        for sample in samples:
            inputs.run(torch.from_numpy(sample))
        for node in group:
            quantizer = node.args[1].args[0]
            weight, scale = constant(graph, quantizer.args[0]), constant(graph, quantizer.args[1])
            assert weight is not None
            assert scale is not None
            low, high = quantizer.args[4:6]
            steps = _steps(weight.flatten(1), inputs.products.pop(node), scale, low, high)
            exact = (steps * scale.double()[:, None]).float().view(weight.shape)
            given = quantizer.args
            quantizer.args = (add_constant(graph, quantizer, f"{node.name}.rounded", exact), *given[1:])
            drop_constants(graph, given[:1])
            rounded += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return rounded


def _groups(graph: GraphModule) -> Iterator[list[Any]]:
    """Dense layers with quantized weights, as many at a time as their matrices leave memory for."""
    group: list[Any] = []
    used = 0
    for node in list(graph.graph.nodes):
        weight = _quantized_weight(graph, node)
        if weight is None:
            continue
        size = weight[0].numel() ** 2 * 4
        if group and used + size > MEMORY_BYTES:
            yield group
            group, used = [], 0
        group.append(node)
        used += size
    if group:
        yield group


def _quantized_weight(graph: GraphModule, node: Any) -> Tensor | None:
    """The weight of a dense layer behind Q/DQ with one scale for each output channel."""
    if node.target not in (A.conv2d.default, A.linear.default) or argument(node, 6, 1) != 1:
        return None
    given = node.args[1]
    if "dequantize_per_channel" not in str(given.target) or given.args[0].args[3] != 0:
        return None
    weight = constant(graph, given.args[0].args[0])
    return weight if weight is not None and weight[0].numel() <= MOST_INPUTS else None


class _Inputs(Replay):
    """Runs the graph and sums, for each layer, the products of its inputs with each other: [in,in]."""

    def __init__(self, graph: GraphModule, layers: Sequence[Node]) -> None:
        super().__init__(graph)
        self._layers = set(layers)
        self.products: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n in self._layers:
            args, _ = self.fetch_args_kwargs_from_env(n)
            rows = _rows(n, args)
            product = rows.T @ rows
            self.products[n] = self.products[n] + product if n in self.products else product
        return super().run_node(n)


def _rows(node: Node, args: Any) -> Tensor:
    """What a layer multiplies its weights with, one row for each output position: [positions,in]."""
    x, weight = args[:2]
    if node.target is A.linear.default:
        return torch.as_tensor(x).flatten(0, -2)
    stride, padding, dilation = (pair(argument(node, at, default)) for at, default in ((3, 1), (4, 0), (5, 1)))
    return F.unfold(x, weight.shape[2:], dilation, padding, stride)[0].T


def _steps(weight: Tensor, products: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Whole steps, float64 [out,in], for a weight [out,in]: each column's error goes into the columns still to come."""
    matrix = products.double()
    matrix.diagonal().add_(DAMPING * matrix.diagonal().mean() + 1e-30)
    order = matrix.diagonal().argsort(descending=True, stable=True)
    left = weight.double()[:, order] / scale.double()[:, None]
    matrix = matrix[order][:, order]
    try:
        factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CompileError(
            f"GPTQ can't round weights {list(weight.shape)}: the products of their inputs can't be inverted. Set "
            'weight_rounding = "nearest" in the recipe.'
        ) from error
    steps = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = left.new_empty(left.shape[0], end - start)
        for at in range(start, end):
            steps[:, at] = left[:, at].round().clamp(low, high)
            errors[:, at - start] = (left[:, at] - steps[:, at]) / factor[at, at]
            left[:, at:end] -= errors[:, at - start, None] * factor[at, at:end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return steps[:, order.argsort()]
