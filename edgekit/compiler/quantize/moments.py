"""Second moments of the rows of a layer's inputs, exact and quantized, and the change of its weights that they ask for.

A row has the inputs that meet the weights at one position of the layer's output.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.compiler.execution.threads import side_by_side
from edgekit.compiler.layers import DenseLayer
from edgekit.compiler.nodes import shape_of

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


WIDE = 1024
"""Inputs of a layer above which the damping is validated on one half of the images, not on each half."""
DAMPINGS = (10.0, 1.0, 0.1, 0.01)
"""Shares of the covariance's mean diagonal that may be added to its diagonal. The larger, the less a weight changes."""
MOST_INPUTS_PER_ROW = 32
"""Largest ratio of a layer's inputs to the rows in one half of the images. Above it, a fit takes minutes and doesn't
generalize."""
MOMENT_IMAGES = 32
"""Images that these rows come from, if each has enough positions."""
INPUTS_PER_ROW = 2
"""Images are taken together until they have one row for this many inputs. With fewer, most of the time would go into
adding matrices of [in,in]."""


@dataclass(frozen=True)
class Moments:
    """Sums over rows of inputs. An error is the output from an exact row minus that from the quantized row."""

    rows: int
    missing: Tensor
    """Products of the errors with the quantized inputs about the centre, [groups,out,in]."""
    covariance: Tensor
    """Products of the quantized inputs about the centre with each other, [groups,in,in]."""

    @classmethod
    def of(cls, weight: Tensor, exact: Tensor, quantized: Tensor, centre: Tensor) -> "Moments":
        """The moments of rows [groups,rows,in] about the centre [groups,1,in], all float32."""
        difference, quantized = (exact - quantized).mT, quantized - centre
        outputs, inputs, rows = *weight.shape[1:], exact.shape[1]
        if 2 * outputs * rows < inputs * (outputs + rows):
            missing = (weight @ difference) @ quantized
        else:
            missing = weight @ (difference @ quantized)
        covariance = SecondMoments(len(quantized), inputs)
        covariance.add(quantized)
        return cls(rows, missing, covariance.total())

    @classmethod
    def sum(cls, parts: Iterable["Moments"]) -> "Moments":
        """The moments of all rows of the parts, float64."""
        each = iter(parts)
        first = next(each)
        rows = first.rows
        missing, covariance = (sums.to(torch.float64, copy=True) for sums in (first.missing, first.covariance))
        for part in each:
            rows += part.rows
            missing += part.missing
            covariance += part.covariance
        return Moments(rows, missing, covariance)

    def in_float32(self) -> "Moments":
        return Moments(self.rows, self.missing.float(), self.covariance.float())

    def error_on(self, other: "Moments", damping: float) -> float:
        """The squared error on other rows after a fit to these, minus that without a fit."""
        change = correction(self, damping)
        return float((change * (change @ other.covariance - 2 * other.missing)).sum())


def choose_damping(halves: tuple[Moments, Moments]) -> float:
    """The damping with the smallest cross-validation error between the halves of the images.

    Infinity leaves the weight as it is. From there the damping is reduced until the error grows. With too few rows,
    nothing else is tried.
    """
    first, second = halves
    inputs = first.covariance.shape[1]
    if first is second or min(first.rows, second.rows) < max(2, inputs // MOST_INPUTS_PER_ROW):
        return math.inf
    first, second = first.in_float32(), second.in_float32()
    folds = [(first, second), (second, first)][: 1 if inputs > WIDE else 2]
    best, least = math.inf, 0.0
    for damping in DAMPINGS:
        error = sum(half.error_on(other, damping) for half, other in folds)
        if not error < least:
            break
        best, least = damping, error
    return best


def correction(moments: Moments, damping: float) -> Tensor:
    """The change of a weight [groups,out,in] with which its outputs come closest to the exact ones."""
    if damping == math.inf:
        return torch.zeros_like(moments.missing)
    damped = moments.covariance.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal.add_(damping * diagonal.mean(1, keepdim=True) + 1e-20)
    return torch.cholesky_solve(moments.missing.mT, torch.linalg.cholesky(damped)).mT


def layer_moments(
    layer: DenseLayer, weight: Tensor, exact: Sequence[Tensor], quantized: Sequence[Tensor], at_once: int
) -> tuple[Moments, Moments]:
    """The moments of a layer with a weight [groups,out,in] in each half of the images.

    `exact` and `quantized` are its inputs for each image, of which this many are computed at once.
    """
    groups, _, inputs = weight.shape
    positions = positions_of(layer)
    surplus = surplus_of(layer, len(exact))
    skipped = min(max(1, surplus), max(1, len(exact) // MOMENT_IMAGES))
    stride = stride_from(surplus // skipped, positions)

    def rows(images: Sequence[Tensor]) -> Tensor:
        return torch.cat([input_rows(layer, image, stride) for image in images], 1)

    together = max(1, inputs * stride // (INPUTS_PER_ROW * positions))

    def moments(images: slice) -> Moments:
        both = list(zip(exact[images], quantized[images], strict=True))
        centre = torch.zeros(groups, 1, inputs)
        if layer.bias is not None:  # which takes up the difference of the means
            centre = torch.stack([rows([image]).mean(1, keepdim=True) for image in quantized[images]]).mean(0)

        def of_images(images: list[tuple[Tensor, Tensor]]) -> Moments:
            exact_rows, quantized_rows = (rows(side) for side in zip(*images, strict=True))
            return Moments.of(weight.float(), exact_rows, quantized_rows, centre)

        parts = [both[start : start + together] for start in range(0, len(both), together)]
        return Moments.sum(side_by_side(of_images, parts, at_once))

    first = moments(slice(0, None, 2 * skipped))
    return first, moments(slice(skipped, None, 2 * skipped)) if len(exact) > 1 else first
