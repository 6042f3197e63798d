"""Attention over any number of axes runs on four."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A, shape_of
from edgekit.compiler.simplify.attention import give_attention_four_axes
from tests.helpers.graphs import simplified

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class BlockAttention(nn.Module):
    """Attention within blocks of an image, as in NesT."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x.reshape(1, 3, 2, 4, 8, 4).unbind(1)
        return nn.functional.scaled_dot_product_attention(query, key, value)


class WindowAttention(nn.Module):
    """Attention with a mask over windows, without an axis for the batch, as in SAM."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x.reshape(3, 4, 16, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, query @ key.mT)
        return mixed.reshape(1, 4, 16, 4).transpose(1, 2).reshape(1, 16, 16)


@pytest.mark.parametrize(("network", "shape"), [(BlockAttention, (2, 4, 8, 4)), (WindowAttention, (1, 4, 16, 4))])
def test_an_attention_gets_four_axes(network: type[nn.Module], shape: tuple[int, ...]) -> None:
    graph, places = simplified(network(), IMAGE, give_attention_four_axes)
    assert places == 1
    (attention,) = graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    assert shape_of(attention) == shape
    torch.export.export(graph, (IMAGE,)).run_decompositions()


def test_a_mask_that_broadcasts_over_outer_axes() -> None:
    class Broadcast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = x.reshape(1, 3, 2, 4, 8, 4).unbind(1)
            return nn.functional.scaled_dot_product_attention(query, key, value, torch.ones(1, 1, 4, 8, 8))

    graph, places = simplified(Broadcast(), IMAGE, give_attention_four_axes)
    assert places == 1
    (attention,) = graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    assert len(shape_of(attention)) == 4
