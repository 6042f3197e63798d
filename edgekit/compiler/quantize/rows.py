"""Rows of a layer's inputs: each has the inputs that meet the weights at one position of the layer's output."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.compiler.graph import shape_of
from edgekit.compiler.layers import DenseLayer

ROWS_PER_INPUT = (32, 200)
"""Rows sampled per input of a layer to estimate second moments: of a layer with many inputs, and of one with few, which
takes more at little cost. More rows change little."""
ENOUGH_ROWS = 20_000
"""Rows from which on a layer needs no more than the smaller number per input."""
STRIP = 256
"""Inputs whose products with all later inputs are computed at once."""


def most_rows(inputs: int) -> int:
    """Largest number of rows of all images from which second moments of this many inputs are estimated."""
    least, most = (each * inputs for each in ROWS_PER_INPUT)
    return max(least, min(most, ENOUGH_ROWS))


def positions_of(layer: DenseLayer) -> int:
    """Number of positions in the output of a layer, each of which meets one row of its inputs."""
    return math.prod(shape_of(layer.node)) // shape_of(layer.weight)[0]


def surplus_of(layer: DenseLayer, images: int) -> int:
    """How many times as many rows as `most_rows` a layer gets from this many images; 0 if it gets fewer."""
    return images * positions_of(layer) // most_rows(layer.inputs)


def stride_from(least: int, count: int) -> int:
    """The smallest stride from `least` on without a common factor with `count`, so that samples meet all columns."""
    stride = max(1, least)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def input_rows(layer: DenseLayer, x: Tensor, every: int = 1) -> Tensor:
    """The inputs that meet a layer's weights, one row for each output position and group: [groups,positions,in].

    `every` keeps one row of that many.
    """
    if not layer.is_conv:
        return x.flatten(0, -2)[None, ::every]
    if layer.kernel == layer.stride == (1, 1) and layer.padding == (0, 0):
        columns = x[0].flatten(1)[:, ::every]
    elif every == 1:
        columns = F.unfold(x, layer.kernel, layer.dilation, layer.padding, layer.stride)[0]
    else:
        windows = _windows(layer, x)
        positions = torch.arange(0, windows.shape[1] * windows.shape[2], every)
        chosen = windows[:, positions // windows.shape[2], positions % windows.shape[2]]
        return chosen.view(layer.groups, -1, *chosen.shape[1:]).transpose(1, 2).flatten(2)
    return columns.reshape(layer.groups, -1, columns.shape[-1]).transpose(1, 2)


def _windows(layer: DenseLayer, x: Tensor) -> Tensor:
    """A view of a convolution's input [1,C,H,W]: [C,rows,columns,*kernel] for the rows and columns of its output."""
    (top, left), padded = layer.padding, x[0]
    if top or left:
        padded = F.pad(padded, (left, left, top, top))
    for axis, (size, dilation, stride) in enumerate(zip(layer.kernel, layer.dilation, layer.stride, strict=True), 1):
        padded = padded.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return padded


class SecondMoments:
    """Sums over rows of the products of all pairs of inputs."""

    def __init__(self, groups: int, inputs: int) -> None:
        self._sums = torch.zeros(groups, inputs, inputs)  # only above the diagonal, and in squares on it

    def add(self, rows: Tensor) -> None:
        """Add rows float32 [groups,rows,in]. A sum in place is several times as fast as one of new tensors."""
        for start in range(0, rows.shape[2], STRIP):
            strip = rows[:, :, start : start + STRIP]
            self._sums[:, start : start + STRIP, start:].baddbmm_(strip.mT, rows[:, :, start:])

    def total(self) -> Tensor:
        """The sums, float32 [groups,in,in]."""
        for start in range(0, self._sums.shape[1], STRIP):
            end = start + STRIP
            self._sums[:, end:, start:end] = self._sums[:, start:end, end:].mT
        return self._sums
