"""Networks that write into their values are exported as what they compute."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.graphs import export_graph

SHAPE = (1, 4, 6, 6)
Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Convolutions before and after a function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.before, self.norm, self.after = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        assert self.norm.running_mean is not None
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.after(self.function(self.norm(self.before(x)))).mean((2, 3))
        return logits


def clone(x: Tensor) -> Tensor:
    y = x.clone()
    y.relu_()
    return x + y


def copy_of_the_same_type(x: Tensor) -> Tensor:
    y = x.to(torch.float32, copy=True)
    y.relu_()
    return x + y


def contiguous(x: Tensor) -> Tensor:
    y = x.contiguous()  # x itself
    y.relu_()
    return x + y


def dropout(x: Tensor) -> Tensor:
    y = F.dropout(x, 0.5, False)  # x itself
    y.relu_()
    return x + F.dropout2d(y, 0.5, False)


def a_part(x: Tensor) -> Tensor:
    x = x * 2
    x[:, 0] += 1
    x[:, 2:4, ::2] = 0.3
    x[:, 5].zero_()
    return x


def an_earlier_view(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    x.relu_()
    return x + 2 * flat.view_as(x)


def a_chunk(x: Tensor) -> Tensor:
    one, other = (x * 2).chunk(2, 1)
    one.add_(1)
    return torch.cat([one, other * 2], 1)


def a_transposed_view(x: Tensor) -> Tensor:
    y = x.transpose(2, 3)
    y += 0.5
    return y


def a_mask(x: Tensor) -> Tensor:
    y = x * 2
    y[y > 0.5] = 0.5
    return y


def a_copy_into_memory(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y.copy_(x[:, :1])
    return x + y


def a_chain(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True).clamp_(-1, 1).mul_(2) + x


def logic(x: Tensor) -> Tensor:
    inside = (x > -1) & (x < 1)
    inside |= x > 2
    inside &= ~(x < -2)
    return torch.where(inside ^ (x > 0), x, x / 4)


@pytest.mark.parametrize(
    "function",
    [
        clone,
        copy_of_the_same_type,
        contiguous,
        dropout,
        a_part,
        an_earlier_view,
        a_chunk,
        a_transposed_view,
        a_mask,
        a_copy_into_memory,
        a_chain,
        logic,
    ],
)
def test_the_graph_computes_what_the_network_does(function: Function) -> None:
    network = Between(function).eval().requires_grad_(False)
    graph, x = export_graph(network, SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(graph(x.clone()), network(x.clone()), rtol=1e-5, atol=1e-6)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert not [target for target in targets if "_." in target or "__" in target or "norm" in target]


def test_an_image_that_the_network_writes_into() -> None:
    class Centred(Between):
        def forward(self, x: Tensor) -> Tensor:
            x.sub_(0.5)
            return super().forward(x)

    network = Centred(torch.relu).eval()
    graph, x = export_graph(network, SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(graph(x.clone()), network(x.clone()), rtol=1e-5, atol=1e-6)
