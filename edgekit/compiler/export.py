"""Exports a network as a graph of ATen operations."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.in_place import functional_graph


def trace(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The functional graph that torch.export makes of `module`, for float32 inputs of `shape` [1,C,H,W].

    It shares the tensors of the module, which is not changed. Exceptions of the module's own code are not caught.
    """
    example = torch.zeros(tuple(shape))
    return functional_graph(torch.export.export(copy_sharing(module).eval(), (example,)))
