"""Products with constant matrices become linear layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify.constants import fold_constants
from edgekit.compiler.simplify.products import products_to_linear
from tests.helpers.graphs import simplified, targets_of

Compute = Callable[[Tensor, Tensor], Tensor]
LINEAR: dict[str, Compute] = {
    "product": lambda x, w: x @ w,
    "product with a transposed matrix": lambda x, w: x @ torch.cat([w.mT, w.mT]).mT,
    "product of a matrix": lambda x, w: torch.mm(x[0, 0], w),
    "einsum": lambda x, w: torch.einsum("bchw,wd->bchd", x, w),
    "einsum with the matrix first in order": lambda x, w: torch.einsum("bchw,dw->bdch", x, w.mT),
    "einsum over the channels": lambda x, w: torch.einsum("bchw, cd -> bdhw", x, w[:3]),
}
OTHERS: dict[str, Compute] = {
    "product of two values": lambda x, _: x @ x.mT,
    "product from the left": lambda x, w: w.mT @ x.mT,
    "product with several matrices": lambda x, w: x @ w.expand(3, -1, -1),
    "einsum of two values": lambda x, _: torch.einsum("bchw,bdhw->bcd", x, x),
    "einsum that keeps all axes": lambda x, w: torch.einsum("bchw,wd->bchwd", x, w),
    "einsum that sums an axis of the matrix": lambda x, w: torch.einsum("bchw,wd->bch", x, w),
    "einsum that also sums an axis of the image": lambda x, w: torch.einsum("bchw,wd->bcd", x, w),
    "einsum of a diagonal": lambda x, w: torch.einsum("bchh,hd->bcd", x, w),
    "einsum with a vector": lambda x, w: torch.einsum("bchw,w->bch", x, w[:, 0]),
    "einsum with dots": lambda x, w: torch.einsum("...w,wd->...d", x, w),
}


class Product(nn.Module):
    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute, self.weight = compute, nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.weight)


@pytest.mark.parametrize("name", LINEAR)
def test_products_with_a_matrix_are_linear(name: str) -> None:
    torch.manual_seed(0)
    graph, places = simplified(Product(LINEAR[name]), torch.randn(1, 3, 8, 8), fold_constants, products_to_linear)
    assert places == 1
    targets = targets_of(graph)
    assert targets.count(A.linear.default) == 1
    assert not {A.matmul.default, A.mm.default, A.einsum.default}.intersection(targets)


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_stay(name: str) -> None:
    torch.manual_seed(0)
    graph, places = simplified(Product(OTHERS[name]), torch.randn(1, 3, 8, 8), fold_constants, products_to_linear)
    assert places == 0
    assert A.linear.default not in targets_of(graph)
