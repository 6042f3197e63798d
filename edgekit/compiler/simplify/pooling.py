"""Replaces adaptive max pooling, which LiteRT doesn't know."""

import operator

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, insert, operand, pair, shape_of


def fix_adaptive_max_pooling(graph: GraphModule) -> int:
    """Replace each adaptive max pooling by a maximum over the image, or by a max pooling with a fixed window.

    It stays if the network reads the places of the maxima, or if the windows would differ in size. Returns the number
    of poolings replaced.
    """
    replaced = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.adaptive_max_pool2d.default):
        if any(user.target is not operator.getitem or (user.args[1] and user.users) for user in pool.users):
            continue
        pooled = _pooled(graph, pool)
        if pooled is None:
            continue
        for values in [user for user in pool.users if not user.args[1]]:
            values.replace_all_uses_with(pooled)
        replaced += 1
    return replaced


def _pooled(graph: GraphModule, pool: Node) -> Node | None:
    """The maxima of an adaptive pooling, inserted before it; None if its windows differ in size."""
    source, to = operand(pool), pair(pool.args[1])
    sides = shape_of(source)[-2:]
    window = [side // parts for side, parts in zip(sides, to, strict=True)]
    if to == (1, 1):
        return insert(graph, pool, A.amax.default, source, [-2, -1], True, like=pool)
    if all(size * parts == side for size, parts, side in zip(window, to, sides, strict=True)):
        return insert(graph, pool, A.max_pool2d.default, source, window, window, like=pool)
    return None
