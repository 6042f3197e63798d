"""Simplification of a traced graph: passes that every network goes through before the rewrites of a recipe.

Each pass changes the graph in place, leaves every node with its fake tensor, and returns the number of places that it
changed. It may leave nodes without users, which `simplify` removes at the end. All passes are exact up to rounding.
"""

from collections.abc import Callable

from torch.fx import GraphModule

from edgekit.compiler.graph import refresh
from edgekit.compiler.simplify.axes import give_attention_four_axes, give_convolutions_four_axes
from edgekit.compiler.simplify.batch_norms import fold_batch_norms, restore_batch_norms
from edgekit.compiler.simplify.branches import merge_branches
from edgekit.compiler.simplify.constants import (
    fold_biases,
    fold_constants,
    products_to_linear,
    separate_biases,
    separate_weights,
)
from edgekit.compiler.simplify.equivalents import (
    compare_booleans,
    fix_adaptive_max_pooling,
    fix_random_slopes,
    number_paddings,
    rename_operations,
)
from edgekit.compiler.simplify.indexing import (
    gather_overlaps,
    gather_strided_writes,
    gather_windows,
    remove_overwritten,
    select_by_mask,
)
from edgekit.compiler.simplify.no_ops import (
    remove_assertions,
    remove_copies,
    remove_empty_paddings,
    remove_expansions,
    remove_infinite_limits,
    remove_zero_sums,
)

SIMPLIFICATIONS: tuple[Callable[[GraphModule], int], ...] = (
    rename_operations,
    give_convolutions_four_axes,
    number_paddings,
    remove_assertions,
    remove_copies,
    remove_infinite_limits,
    remove_empty_paddings,
    remove_zero_sums,
    remove_expansions,
    compare_booleans,
    fix_random_slopes,
    restore_batch_norms,
    remove_overwritten,
    select_by_mask,
    gather_strided_writes,
    fix_adaptive_max_pooling,
    gather_windows,
    gather_overlaps,
    give_attention_four_axes,
    fold_constants,
    products_to_linear,
    separate_biases,
    fold_biases,
    merge_branches,
    fold_batch_norms,
    separate_weights,
)
"""The passes, in the order of application."""


def simplify(graph: GraphModule) -> GraphModule:
    """Apply `SIMPLIFICATIONS` to a traced graph, in place. Returns the same graph, without unused nodes."""
    for apply in SIMPLIFICATIONS:
        apply(graph)
    return refresh(graph)
