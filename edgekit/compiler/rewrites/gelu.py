"""Cheaper forms of GELU, for runtimes whose kernel for the error function is slow.

Unlike the other rewrites, these are approximations. Each docstring gives the largest difference from GELU itself.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import inserter, replace_each
from edgekit.compiler.nodes import A

SEVEN = (
    3.95,
    (0.397986726, -0.064722792, 0.00884293546, -0.000829042663, 4.9552263e-05, -1.6811683e-06, 2.44360837e-08),
)
"""Limit T and coefficients c of t * (c0 + c1 t^2 + ...), which approximates the normal distribution function minus 0.5.

A linear program chose them: for t from 0 to T they minimize the largest difference from GELU, and at T the sum is 0.5,
so that GELU is 0 below -T and x above T.
"""
FOUR = (3.05, (0.386253537, -0.0520552217, 0.00441676548, -0.00014942359))
"""The same with four coefficients."""


def polynomial_gelu(graph: GraphModule) -> int:
    """Replace GELU by a polynomial of degree 13 between -3.95 and 3.95. The difference is at most 1.7e-4.

    Returns the number of GELUs replaced.
    """
    return _polynomial(graph, *SEVEN)


def coarse_polynomial_gelu(graph: GraphModule) -> int:
    """Replace GELU by a polynomial of degree 7 between -3.05 and 3.05. The difference is at most 3.6e-3.

    That is less than the error of 8-bit values. Returns the number of GELUs replaced.
    """
    return _polynomial(graph, *FOUR)


def tanh_gelu(graph: GraphModule) -> int:
    """Replace GELU by its usual approximation with tanh. The difference is at most 4.8e-4.

    Returns the number of GELUs replaced.
    """
    found = [node for node in graph.graph.nodes if _is_exact(node)]
    for node in found:
        node.kwargs = {"approximate": "tanh"}
    return len(found)


def _is_exact(node: Node) -> bool:
    return node.target is A.gelu.default and node.kwargs.get("approximate", "none") == "none"


@torch.no_grad()
def _polynomial(graph: GraphModule, limit: float, coefficients: Sequence[float]) -> int:
    def polynomial(gelu: Node) -> Node | None:
        if not _is_exact(gelu):
            return None
        x, call = gelu.args[0], inserter(graph, gelu)
        t = call(A.clamp.default, x, -limit, limit)
        square = call(A.mul.Tensor, t, t)
        *inner, last = coefficients
        first = call(A.add.Tensor, call(A.mul.Tensor, square, last), inner[-1])
        total = reduce(lambda sum_, c: call(A.add.Tensor, call(A.mul.Tensor, sum_, square), c), inner[-2::-1], first)
        return call(A.mul.Tensor, x, call(A.add.Tensor, call(A.mul.Tensor, total, t), 0.5))

    return replace_each(graph, {A.gelu.default}, polynomial)
