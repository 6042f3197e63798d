"""Splits large depthwise kernels into sums of small ones."""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, add_constant, argument, constant, insert, is_depthwise, pair, refresh

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows and columns of a small kernel's taps, evenly spaced around the centre."""
FIVE: tuple[Part, ...] = (
    ((-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2)),
    ((-3, 3), (-3, -1, 1, 3)),
    ((-3, 3), (-2, 0, 2)),
    ((-2, 0, 2), (-3, 3)),
    ((-1, 1), (-3, 3)),
)
"""Kernels for 25, 9 and 4 taps, which together have each of the 49 taps once."""
THREE: tuple[Part, ...] = (
    ((-2, 0, 2), (-3, -2, -1, 0, 1, 2, 3)),
    ((-3, -1, 1, 3), (-2, -1, 0, 1, 2)),
    ((-3, -1, 1, 3), (-3, 3)),
)
"""Kernels of 21, 20 and 8 taps, which together have each of the 49 taps once, with two sums fewer."""


def split_depthwise(graph: GraphModule) -> int:
    """Split each 7x7 depthwise convolution into a sum of five dilated ones with at most 25 taps each.

    XNNPACK has fast depthwise kernels for 25, 9 and 4 taps and pads smaller kernels to the next of these sizes. The
    five compute 56 taps for the 49; three of 3x7 would compute 75. Only stride 1 with 'same' padding is supported.

    Returns the number of convolutions split.
    """
    return _split(graph, FIVE)


def split_depthwise_in_three(graph: GraphModule) -> int:
    """Split each 7x7 depthwise convolution into three: 59 taps instead of 56, but two sums fewer.

    Returns the number of convolutions split.
    """
    return _split(graph, THREE)


@torch.no_grad()
def _split(graph: GraphModule, sizes: tuple[Part, ...]) -> int:
    split = 0
    for node in list(graph.graph.nodes):
        if not is_depthwise(node):
            continue
        weight, bias = constant(graph, node.args[1]), argument(node, 2, None)
        plain = pair(argument(node, 3, 1)) == (1, 1) and pair(argument(node, 5, 1)) == (1, 1)
        if weight is None or weight.shape[2:] != (7, 7) or pair(argument(node, 4, 0)) != (3, 3) or not plain:
            continue
        parts: list[Node] = []
        for rows, columns in sizes:
            taps = weight[:, :, [3 + row for row in rows]][..., [3 + column for column in columns]]
            kernel = add_constant(graph, node, f"{node.name}.taps", taps)
            dilation = [rows[1] - rows[0], columns[1] - columns[0]]
            args = (kernel, None if parts else bias, [1, 1], [rows[-1], columns[-1]], dilation, argument(node, 6, 1))
            parts.append(insert(graph, node, A.conv2d.default, node.args[0], *args, like=node))
        total = parts[0]
        for part in parts[1:]:
            total = insert(graph, node, A.add.Tensor, total, part, like=node)
        node.replace_all_uses_with(total)
        split += 1
    refresh(graph)
    return split
