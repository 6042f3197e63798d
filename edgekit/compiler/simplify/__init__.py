"""Simplification of a traced graph: passes that every network goes through before the rewrites of a recipe.

Each pass changes the graph in place, leaves every node with its fake tensor, and returns the number of places that it
changed. It may leave nodes without users, which `simplify` removes at the end. All passes are exact up to rounding.
"""

from collections.abc import Callable

from torch.fx import GraphModule

from edgekit.compiler.graph import refresh
from edgekit.compiler.simplify import arithmetic, shapes

SIMPLIFICATIONS: tuple[Callable[[GraphModule], int], ...] = (
    shapes.rename_operations,
    shapes.give_convolutions_four_axes,
    shapes.number_paddings,
    shapes.remove_assertions,
    shapes.remove_copies,
    shapes.remove_infinite_limits,
    shapes.remove_empty_paddings,
    shapes.remove_zero_sums,
    shapes.remove_expansions,
    shapes.compare_booleans,
    shapes.fix_random_slopes,
    arithmetic.restore_batch_norms,
    shapes.remove_overwritten,
    shapes.select_by_mask,
    shapes.gather_strided_writes,
    shapes.fix_adaptive_max_pooling,
    shapes.gather_windows,
    shapes.gather_overlaps,
    shapes.give_attention_four_axes,
    arithmetic.fold_constants,
    arithmetic.restore_activations,
    arithmetic.products_to_linear,
    arithmetic.separate_biases,
    arithmetic.fold_biases,
    arithmetic.merge_branches,
    shapes.state_shapes,
    arithmetic.fold_batch_norms,
    shapes.remove_zero_branches,
    arithmetic.fold_numbers,
    arithmetic.fold_hard_sigmoids,
    arithmetic.separate_weights,
)
"""The passes, in the order of application."""


def simplify(graph: GraphModule) -> GraphModule:
    """Apply `SIMPLIFICATIONS` to a traced graph, in place. Returns the same graph, without unused nodes."""
    for apply in SIMPLIFICATIONS:
        apply(graph)
    return refresh(graph)
