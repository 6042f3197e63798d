"""Large depthwise kernels as sums of small ones."""

import torch
from torch.fx import GraphModule

from edgekit.graph import A, add_constant, argument, constant, insert, is_depthwise, pair, refresh


@torch.no_grad()
def split_depthwise(graph: GraphModule) -> int:
    """A 7x7 depthwise convolution becomes three of 3x7 with row dilation 1, 2, 3, summed. Count of those split.

    XNNPACK's fast depthwise kernels stop at 25 taps; each part has 21. Only stride 1 with 'same' padding.
    """
    split = 0
    for node in list(graph.graph.nodes):
        if not is_depthwise(node):
            continue
        weight, bias = constant(graph, node.args[1]), argument(node, 2, None)
        plain = pair(argument(node, 3, 1)) == (1, 1) and pair(argument(node, 5, 1)) == (1, 1)
        if weight is None or weight.shape[2:] != (7, 7) or pair(argument(node, 4, 0)) != (3, 3) or not plain:
            continue
        parts = []
        for dilation in (1, 2, 3):
            rows = weight.new_zeros(weight.shape[0], 1, 3, 7)
            rows[:, :, 0], rows[:, :, 2] = weight[:, :, 3 - dilation], weight[:, :, 3 + dilation]
            if dilation == 1:
                rows[:, :, 1] = weight[:, :, 3]
            kernel = add_constant(graph, node, f"{node.name}.rows{dilation}", rows)
            args = (kernel, bias if dilation == 1 else None, [1, 1], [dilation, 3], [dilation, 1], argument(node, 6, 1))
            parts.append(insert(graph, node, A.conv2d.default, node.args[0], *args, like=node))
        total = insert(graph, node, A.add.Tensor, parts[0], parts[1], like=node)
        node.replace_all_uses_with(insert(graph, node, A.add.Tensor, total, parts[2], like=node))
        split += 1
    refresh(graph)
    return split
