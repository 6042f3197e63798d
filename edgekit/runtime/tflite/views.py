"""Operations that LiteRT's converter looks through, and a product that it doesn't."""

from collections.abc import Set
from functools import partial
from operator import getitem, is_not
from typing import Any

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, insert

PARTS = {A.slice.Tensor, A.select.int, A.narrow.default, A.index_select.default, getitem}
"""Operations that take a part of a value, among them that of a split."""
SPLITS = {A.chunk.default, A.split.Tensor, A.split_with_sizes.default, A.tensor_split.sections, A.unbind.int}
VIEWS = PARTS | SPLITS | {
    A.reshape.default, A.flatten.using_ints, A.unflatten.int, A.permute.default, A.transpose.int, A.expand.default,
    A.unsqueeze.default, A.squeeze.dim, A.channel_shuffle.default, A.flip.default,
}  # fmt: skip
"""Operations through which LiteRT's converter passes a scale on."""
NEARLY_ONE = 1 + 2**-23
"""The float32 next to 1: the converter would remove a product with 1."""


def source_of(value: Any, views: Set[Any] = VIEWS) -> Any:
    """The node whose values a node only rearranges."""
    while value.target in views:
        value = value.args[0]
    return value


def multiply_by_nearly_one(graph: GraphModule, value: Node) -> None:
    """Let all readers of a value read its product with `NEARLY_ONE`, so that the converter keeps them apart from it."""
    product = insert(graph, value.next, A.mul.Tensor, value, NEARLY_ONE)
    value.replace_all_uses_with(product, delete_user_cb=partial(is_not, product))
