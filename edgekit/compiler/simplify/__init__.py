"""Simplification of a traced graph: passes that every network goes through before the rewrites of a recipe.

Each pass changes the graph in place, leaves every node with its fake tensor, and returns the number of places that it
changed. It may leave nodes without users, which `simplify` removes at the end. All passes are exact up to rounding.
"""

from collections.abc import Callable

from torch.fx import GraphModule

from edgekit.compiler.graph import refresh
from edgekit.compiler.simplify import activations, axes, batch_norms, branches, constants, equivalents, indexing, no_ops

SIMPLIFICATIONS: tuple[Callable[[GraphModule], int], ...] = (
    equivalents.rename_operations,
    axes.give_convolutions_four_axes,
    equivalents.number_paddings,
    no_ops.remove_assertions,
    no_ops.remove_copies,
    no_ops.remove_infinite_limits,
    no_ops.remove_empty_paddings,
    no_ops.remove_zero_sums,
    no_ops.remove_expansions,
    equivalents.compare_booleans,
    equivalents.fix_random_slopes,
    batch_norms.restore_batch_norms,
    indexing.remove_overwritten,
    indexing.select_by_mask,
    indexing.gather_strided_writes,
    equivalents.fix_adaptive_max_pooling,
    indexing.gather_windows,
    indexing.gather_overlaps,
    axes.give_attention_four_axes,
    constants.fold_constants,
    activations.restore_activations,
    constants.products_to_linear,
    constants.separate_biases,
    constants.fold_biases,
    branches.merge_branches,
    equivalents.state_shapes,
    batch_norms.fold_batch_norms,
    no_ops.remove_zero_branches,
    activations.fold_numbers,
    activations.fold_hard_sigmoids,
    constants.separate_weights,
)
"""The passes, in the order of application."""


def simplify(graph: GraphModule) -> GraphModule:
    """Apply `SIMPLIFICATIONS` to a traced graph, in place. Returns the same graph, without unused nodes."""
    for apply in SIMPLIFICATIONS:
        apply(graph)
    return refresh(graph)
