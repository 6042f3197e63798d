"""Ranges of activations: equalized over channels, and with the least error; and moments of a layer's inputs.

All channels share one int8 range, so a channel with large values costs the others resolution. If the operation before a
dense layer already has a factor per channel (ConvNeXt V2's response norm, a LayerNorm's affine), a constant divides the
channels there and multiplies the layer's weights, like SmoothQuant (arXiv 2211.10438) but without extra operations. The
function stays the same.

Ranges then minimize the weighted mean square error of quantization. An error is weighted by its effect in the layers
that consume the value: by the weights of its channel. If an activation such as GELU or HardSwish consumes the value,
the error is that of the activation's output, where values below -3 hardly differ.

Fits and rounding read second moments of the rows of a layer's inputs, exact and quantized. A row has the inputs that
meet the weights at one position of the layer's output.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument
from torch.nn import functional as F

from edgekit.compiler.execution import Collector, collect, side_by_side
from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    behind_views,
    constant,
    constants,
    integers,
    is_padding,
    operand,
    operation_of,
    refresh,
    shape_of,
    weight_of,
)
from edgekit.compiler.layers import (
    DenseLayer,
    Quantizer,
    axes_but,
    dense_layer,
    distinct_names,
    quantizers,
    scale_input,
    set_grid,
    weight_quantizer_of,
)
from edgekit.compiler.rewrites import channel_axis, dense_consumers
from edgekit.errors import CompileError
from edgekit.support.progress import Step, no_step, parts_of


@dataclass(frozen=True)
class _Place:
    """A node with a factor per channel."""

    node: Node
    layers: list[DenseLayer]
    """Dense layers, which are the node's only consumers."""
    axis: int
    """Axis of the channels."""

    key: frozenset[str]
    """Distinct names of the layers, which are the same in every runtime's graph of a network."""


Divisors: TypeAlias = Mapping[frozenset[str], Tensor]
"""Divisor of each channel [C] at each place, by the distinct names of the layers that read it."""


def equalize(graph: GraphModule, samples: Sequence[NDArray[np.float32]], strength: float, step: Step = no_step) -> int:
    """Equalize a float graph in place, on images float32 [1,C,H,W]. Returns the number of places changed.

    `strength`, from 0 to 1, is the share of a channel's range that moves into the weights: SmoothQuant's alpha.
    """
    return divide(graph, find_divisors(graph, samples, strength, step))


@torch.no_grad()
def find_divisors(
    graph: GraphModule, samples: Sequence[NDArray[np.float32]], strength: float, step: Step = no_step
) -> Divisors:
    """The divisors that `equalize` would use. Reads each image once, unless the graph has no place."""
    places = _places(graph)
    if not places:
        step()
        return {}
    collector = _PeakCollector(places)
    collect(graph, samples, [collector], step)
    return {place.key: _divisor(graph, place, collector.peaks[node], strength) for node, place in places.items()}


@torch.no_grad()
def divide(graph: GraphModule, divisors: Divisors) -> int:
    """Divide the channels at the places of a float graph that have a divisor, in place. Returns their number."""
    places = [place for place in _places(graph).values() if place.key in divisors]
    for place in places:
        divisor = divisors[place.key]
        _divide(graph, place, divisor)
        for layer in place.layers:
            scale_input(graph, layer, divisor, None)
    refresh(graph)
    return len(places)


def _places(graph: GraphModule) -> dict[Node, _Place]:
    names = distinct_names(graph)
    return {node: place for node in graph.graph.nodes if (place := _match(graph, node, names)) is not None}


def _match(graph: GraphModule, node: Node, names: Mapping[Node, str]) -> _Place | None:
    if node.target is A.layer_norm.default:
        affine = constants(graph, argument(node, 2), argument(node, 3))
        if affine is None or any(part is None for part in affine) or len(integers(node.args[1])) != 1:
            return None
        axis: int | None = len(shape_of(node)) - 1
    elif node.target is A.mul.Tensor and (weight := _response_weight(graph, node.args[1])) is not None:
        axis = channel_axis(weight, node)
    else:
        return None
    below = None if axis is None else dense_consumers(graph, node, axis)
    if axis is None or below is None:
        return None
    return _Place(node, below, axis, frozenset(names[layer.node] for layer in below))


def _response_weight(graph: GraphModule, factor: Argument) -> Tensor | None:
    """The weight of ``n * weight + 1``, which `fold_response_norm` makes; None for other nodes."""
    if not isinstance(factor, Node) or factor.target is not A.add.Tensor or len(factor.users) != 1:
        return None
    product = factor.args[0]
    if factor.args[1] != 1.0 or not isinstance(product, Node) or product.target is not A.mul.Tensor:
        return None
    (weight,) = constants(graph, product.args[1]) or (None,)
    return weight if len(product.users) == 1 else None


class _PeakCollector(Collector[Tensor]):
    """Records the largest magnitude of each channel at each place."""

    def __init__(self, places: dict[Node, _Place]) -> None:
        super().__init__(places)
        self._places = places
        self.peaks: dict[Node, Tensor] = {}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        return output.abs().amax(axes_but(self._places[node].axis, output.ndim))

    def add(self, node: Node, part: Tensor) -> None:
        self.peaks[node] = torch.maximum(part, self.peaks[node]) if node in self.peaks else part


def _divisor(graph: GraphModule, place: _Place, peaks: Tensor, strength: float) -> Tensor:
    """Divisor of each channel, [C]; 1 for channels that are always zero."""
    weights = torch.zeros_like(peaks)
    for layer in place.layers:
        weight = weight_of(graph, layer.weight)
        weights = torch.maximum(weights, weight.abs().amax(axes_but(1, weight.ndim)))
    alive = (peaks > 0) & (weights > 0)
    divisor = peaks.where(alive, torch.ones(())) ** strength / weights.where(alive, torch.ones(())) ** (1 - strength)
    return (divisor / divisor[alive].log().mean().exp()).where(alive, torch.ones(()))


def _divide(graph: GraphModule, place: _Place, divisor: Tensor) -> None:
    """Divide the channels of the place's output by changing its constants."""
    node = place.node
    if node.target is A.layer_norm.default:
        affine = [weight_of(graph, node.args[position]) for position in (2, 3)]
        new = [add_constant(graph, node, f"{node.name}.{index}", part / divisor) for index, part in enumerate(affine)]
        node.args = (*node.args[:2], *new, *node.args[4:])
        return
    factor = operand(node, 1)
    product = operand(factor)
    weight = weight_of(graph, product.args[1])
    shape = weight.shape
    product.args = (product.args[0], add_constant(graph, product, f"{node.name}.weight", weight / divisor.view(shape)))
    factor.args = (product, add_constant(graph, factor, f"{node.name}.one", 1 / divisor.view(shape)))


ROWS_PER_INPUT = (4, 200)
"""Rows sampled per input of a layer to estimate second moments: of a layer with more than `WIDE` inputs, and of one
with fewer, which takes more at little cost. More rows change little."""
ENOUGH_ROWS = 10_000
"""Largest number of rows of a layer with at most `WIDE` inputs."""
STRIP = 256
"""Inputs whose products with all later inputs are computed at once."""


def most_rows(inputs: int) -> int:
    """Largest number of rows of all images from which second moments of this many inputs are estimated."""
    of_wide, of_narrow = ROWS_PER_INPUT
    return of_wide * inputs if inputs > WIDE else min(of_narrow * inputs, ENOUGH_ROWS)


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


def output_rows(layer: DenseLayer, y: Tensor, every: int = 1) -> Tensor:
    """The outputs of a layer for the rows that `input_rows` returns: [groups,positions,out]."""
    if not layer.is_conv:
        return y.flatten(0, -2)[None, ::every]
    columns = y[0].flatten(1)[:, ::every]
    return columns.view(layer.groups, -1, columns.shape[-1]).transpose(1, 2)


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
"""Inputs of a layer above which sums and factors are in float32, and the damping is validated on one half of the
images, not on each half."""
DAMPINGS = (10.0, 1.0, 0.1, 0.01)
"""Shares of the covariance's mean diagonal that may be added to its diagonal. The larger, the less a weight changes."""
VALIDATED_OUTPUTS = 64
"""Outputs of a group, evenly spaced, on which dampings are validated."""
MOST_INPUTS_PER_ROW = 32
"""Largest ratio of a layer's inputs to the rows in one half of the images. Above it, a fit takes minutes and doesn't
generalize."""
MOMENT_IMAGES = 32
"""Images that these rows come from, if each has enough positions."""
ROWS_TOGETHER = 2
"""Rows for each input that are multiplied at once. With fewer, most of the time would go into adding matrices of
[in,in]."""


@dataclass(frozen=True)
class Moments:
    """Sums over rows of inputs. An error is the output from an exact row minus that from the quantized row."""

    rows: int
    missing: Tensor
    """Products of the errors with the quantized inputs about their mean, [groups,out,in]."""
    covariance: Tensor
    """Products of the quantized inputs about their mean with each other, [groups,in,in]."""

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.rows + other.rows, self.missing + other.missing, self.covariance + other.covariance)

    def error_on(self, other: "Moments", damping: float) -> float:
        """The squared error on other rows after a fit to these, minus that without a fit."""
        factor = cholesky(add_damping(self.covariance.clone(), damping))
        change = torch.cholesky_solve(self.missing.mT, factor.to(self.missing.dtype)).mT
        return float((change * (change @ other.covariance - 2 * other.missing)).sum())


def add_damping(matrices: Tensor, damping: float) -> Tensor:
    """Add a share of their mean diagonal to the diagonal of matrices [groups,in,in], in place."""
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal.add_(damping * diagonal.mean(1, keepdim=True) + 1e-20)
    return matrices


def cholesky(matrices: Tensor) -> Tensor:
    """The lower factors of matrices [groups,in,in], in float64 if float32 isn't precise enough.

    Raises LinAlgError if one isn't positive definite.
    """
    factors: Tensor
    factors, failures = torch.linalg.cholesky_ex(matrices)
    return torch.linalg.cholesky(matrices.double()) if failures.any() else factors


def choose_damping(halves: tuple[Moments, Moments]) -> float:
    """The damping with the smallest cross-validation error between the halves of the images.

    Infinity leaves the weight as it is. From there the damping is reduced until the error grows. With too few rows,
    nothing else is tried.
    """
    every = max(1, halves[0].missing.shape[1] // VALIDATED_OUTPUTS)
    first, second = (replace(half, missing=half.missing[:, ::every]) for half in halves)
    inputs = first.covariance.shape[1]
    if halves[0] is halves[1] or min(first.rows, second.rows) < max(2, inputs // MOST_INPUTS_PER_ROW):
        return math.inf
    folds = [(first, second), (second, first)][: 1 if inputs > WIDE else 2]
    best, least = math.inf, 0.0
    for damping in DAMPINGS:
        error = sum(half.error_on(other, damping) for half, other in folds)
        if not error < least:
            break
        best, least = damping, error
    return best


Sides: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""The exact inputs of a layer for one image, its exact outputs, and its quantized inputs."""


def layer_moments(
    layer: DenseLayer, weight: Tensor, bias: Tensor | None, images: Sequence[Sides], at_once: int
) -> tuple[Moments, Moments]:
    """The moments of a layer with a weight float32 [groups,out,in] in each half of the images.

    `at_once` images are computed at the same time.
    """
    groups, outputs, inputs = weight.shape
    positions = positions_of(layer)
    surplus = surplus_of(layer, len(images))
    skipped = min(max(1, surplus), max(1, len(images) // MOMENT_IMAGES))
    stride = stride_from(surplus // skipped, positions)
    together = max(1, ROWS_TOGETHER * inputs * stride // positions)
    by_outputs = 2 * outputs < inputs  # fewer products than by inputs, of which each row has more

    def rows(x: Iterable[Tensor]) -> Tensor:
        return torch.cat([input_rows(layer, image, stride) for image in x], 1)

    def sums(part: Sequence[Sides], centre: Tensor) -> list[Tensor]:
        exact, wanted, quantized = zip(*part, strict=True)
        read = rows(quantized)
        if by_outputs:
            missed = torch.cat([output_rows(layer, image, stride) for image in wanted], 1) - read @ weight.mT
            if bias is not None:
                missed -= bias.view(groups, 1, outputs)
        else:
            missed = rows(exact) - read
        read -= centre
        covariance = SecondMoments(groups, inputs)
        covariance.add(read)
        return [missed.mT @ read, covariance.total(), missed.sum(1, keepdim=True), read.sum(1, keepdim=True)]

    def moments(half: Sequence[Sides]) -> Moments:
        parts = [half[start : start + together] for start in range(0, len(half), together)]
        # A bias takes up the difference of the means. Sums about a centre near the mean lose no digits.
        centre = torch.zeros(groups, 1, inputs)
        if bias is not None:
            centre = rows([quantized for _, _, quantized in parts[0]]).mean(1, keepdim=True)
        each = side_by_side(partial(sums, centre=centre), parts, at_once)
        total = [value.to(torch.float32 if inputs > WIDE else torch.float64) for value in next(each)]
        for part in each:
            for value, more in zip(total, part, strict=True):
                value += more
        products, covariance, missed, read = total
        count = len(half) * len(range(0, positions, stride))
        if bias is not None:
            products -= missed.mT @ read / count
            covariance -= read.mT @ read / count
        return Moments(count, products if by_outputs else weight.to(products.dtype) @ products, covariance)

    first = moments(images[:: 2 * skipped])
    return first, moments(images[skipped :: 2 * skipped]) if len(images) > 1 else first


Limits: TypeAlias = tuple[float, float]
"""Smallest and largest value of an activation."""
EMPTY = 8e-4
"""Values closer to each other than this get a range that is wider by it on both sides, as NNCF's."""
BINS = 8192
MOST_VALUES, MOST_OF_IMAGE = 1 << 21, 1 << 16
"""Largest numbers of values of an activation that are sampled: of all images, and of one of them."""
SHARES = torch.linspace(0.15, 1, 35, dtype=torch.float64)
"""Shares of the lower and the upper limit of the whole range: candidates for the limits of a narrower one."""
EVERY, FEW_BINS = 4, 1024
"""Of all pairs of shares, those of every fourth share are tried first, and then all pairs next to the best. Where only
`FEW_BINS` bins have values, all pairs are tried: the error is less smooth there, and quickly computed."""

POINTWISE = {
    A.gelu.default,
    A.silu.default,
    A.mish.default,
    A.hardswish.default,
    A.sigmoid.default,
    A.hardsigmoid.default,
}
"""Activations that map some values to nearly the same output."""


@dataclass(frozen=True)
class Effect:
    """The effect of a quantizer's errors on the operations that consume its value."""

    weights: tuple[int, Tensor] | None
    """Axis of the channels, and the mean square [C] of the weights of each channel; None if errors weigh the same."""
    function: Callable[[Tensor], Tensor]
    """The activation that alone consumes the value, or the identity."""
    symmetric: bool
    """Whether a kernel needs the zero point 0, as for the queries and keys of attention."""


def effects(graph: GraphModule) -> dict[Node, Effect]:
    """The effects of all quantizers with one scale, by their Qs."""
    return {quantizer.node: _effect(graph, quantizer) for quantizer in quantizers(graph)}


def _effect(graph: GraphModule, quantizer: Quantizer) -> Effect:
    symmetric = any(user.target is A.scaled_dot_product_attention.default for user in consumers(quantizer))
    return Effect(_channel_weights(graph, quantizer), _consumer_function(quantizer), symmetric)


@torch.no_grad()
def find_ranges(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    of: Mapping[Node, Effect],
    narrow: bool,
    step: Step = no_step,
    others: Sequence[Collector[Any]] = (),
) -> None:
    """Give the activations of a Q/DQ graph ranges, in place, from the float network on images float32 [1,C,H,W].

    A range has all values, or with `narrow` those with which the error of quantization is least, unless it must be
    symmetric. `of` has the effects of all quantizers, from a graph that still consumes their values. Reads each image
    once, also for the `others`. Raises CompileError if a value isn't finite.
    """
    extremes = _Extremes(of)
    narrowed = [quantizer for quantizer in quantizers(graph) if narrow and not of[quantizer.node].symmetric]
    histograms = _Histograms(narrowed, of, len(samples), extremes)
    collecting, narrowing = parts_of(step, [1, bool(narrowed)])
    collect(graph, samples, [extremes, histograms, *others], collecting)
    for quantizer in quantizers(graph):
        limits, effect = extremes.limits(quantizer.node), of[quantizer.node]
        if not math.isfinite(limits[1] - limits[0]):
            raise CompileError(f"edgekit can't calibrate the graph: the values of '{quantizer.source}' are not finite")
        if quantizer.node in histograms.nodes:
            scale, zero = _best(quantizer, limits, histograms.mass[quantizer.node], effect.function)
            narrowing(1 / len(narrowed))
        else:
            scale, zero = _whole_grid(quantizer, limits, effect.symmetric)
        set_grid(quantizer, (scale, zero, *quantizer.grid[2:]))
    graph.recompile()


def _whole_grid(quantizer: Quantizer, limits: Limits, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point of the smallest range with these limits in which 0 is a level."""
    low, high = limits
    if symmetric:
        return max(-low, high) / quantizer.high, 0
    levels = quantizer.high - quantizer.low
    below = round(-low / (high - low) * levels)
    above = levels - below
    return max(-low / max(1, below), high / max(1, above)), quantizer.low + below


class _Extremes(Collector[tuple[Tensor, Tensor]]):
    """Finds the smallest and the largest value that each quantizer gets."""

    def __init__(self, of: Collection[Node]) -> None:
        super().__init__(of)
        self._found: dict[Node, tuple[Tensor, Tensor]] = {}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> tuple[Tensor, Tensor]:
        low, high = inputs[0].aminmax()
        return low, high

    def add(self, node: Node, part: tuple[Tensor, Tensor]) -> None:
        low, high = self._found.get(node, part)
        self._found[node] = torch.minimum(low, part[0]), torch.maximum(high, part[1])

    def limits(self, node: Node) -> Limits:
        """The smallest and the largest value of the images so far, and 0, in a range that isn't empty."""
        low, high = (float(value) for value in self._found[node])
        margin = EMPTY if high - low < EMPTY else 0.0
        return min(low - margin, 0.0), max(high + margin, 0.0)


class _Histograms(Collector[tuple[Limits, Tensor]]):
    """Sums, for each quantizer, the weights of the values per bin of their range: float64 [BINS]."""

    def __init__(
        self, of: Sequence[Quantizer], effects: Mapping[Node, Effect], images: int, extremes: _Extremes
    ) -> None:
        self._most = max(1, min(MOST_OF_IMAGE, MOST_VALUES // images))
        super().__init__([quantizer.node for quantizer in of])
        self._effects, self._extremes = effects, extremes
        channels = cache(_sampled_channels)  # many activations have the same shape
        self._channels = {
            quantizer.node: channels(tuple(shape_of(quantizer.source)), weights[0], self._most)
            for quantizer in of
            if (weights := effects[quantizer.node].weights) is not None
        }
        self.mass: dict[Node, Tensor] = {}
        self._limits: dict[Node, Limits] = {}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> tuple[Limits, Tensor]:
        sampled = inputs[0].flatten()[:: stride_from(inputs[0].numel() // self._most, inputs[0].numel())].double()
        limits = self._extremes.limits(node)  # of this image too, because the extremes are collected before
        return limits, _histogram(sampled, self._sample_weights(node), limits)

    def add(self, node: Node, part: tuple[Limits, Tensor]) -> None:
        limits, mass = part
        before = self._limits.setdefault(node, limits)
        if before != limits:  # images that run later have widened the range
            self.mass[node] = _histogram(_centres(before), self.mass[node], limits)
        self.mass[node] = self.mass.get(node, 0) + mass
        self._limits[node] = limits

    def _sample_weights(self, node: Node) -> Tensor | None:
        """Weight of each sampled value; None if all weights are equal."""
        weights = self._effects[node].weights
        return None if weights is None else weights[1][self._channels[node]]


def _histogram(values: Tensor, weights: Tensor | None, limits: Limits) -> Tensor:
    """The sum of the weights of the values, float64, per bin between limits: [BINS]. The values are consumed."""
    low, high = limits
    bins = values.sub_(low).div_(high - low).mul_(BINS).long().clamp_(0, BINS - 1)
    return torch.bincount(bins, weights, BINS).double()


def _centres(limits: Limits) -> Tensor:
    """The value in the middle of each bin between limits, float64 [BINS]."""
    low, high = limits
    return low + (torch.arange(BINS, dtype=torch.float64) + 0.5) * (high - low) / BINS


def _sampled_channels(shape: Sequence[int], axis: int, most: int) -> Tensor:
    """The channel of each sampled value of an activation; the axis of the channels may be negative."""
    values, inner = math.prod(shape), math.prod(shape[axis % len(shape) + 1 :])
    return torch.arange(0, values, stride_from(values // most, values)) // inner % shape[axis]


def consumers(quantizer: Quantizer) -> list[Node]:
    """Consumers of a quantizer's output, looking through DQ, padding and the views that follow rows."""
    users = (user for dequantize in quantizer.node.users for user in dequantize.users)
    return [next(iter(user.users)) if is_padding(user) else behind_views(user) for user in users]


def _channel_weights(graph: GraphModule, quantizer: Quantizer) -> tuple[int, Tensor] | None:
    """(axis, mean square [C] of the weights of each channel); None if not only dense layers consume the value."""
    total, axis = None, -1
    for user in consumers(quantizer):
        layer = dense_layer(user)
        of_weight = None if layer is None else weight_quantizer_of(layer.weight)
        weight = None if of_weight is None else constant(graph, of_weight.source)
        if layer is None or weight is None or layer.groups != 1:
            return None
        # Q either stands directly before a convolution, or on the rows that views turn into its input.
        axis = 1 if layer.is_conv and layer.source.target is not A.permute.default else -1
        square = weight.double().square().movedim(1, 0).flatten(1).mean(1)
        total = square if total is None else total + square
    return None if total is None else (axis, total / total.mean())


def _best(quantizer: Quantizer, limits: Limits, mass: Tensor, output: Callable[[Tensor], Tensor]) -> tuple[float, int]:
    """Scale and zero point of the range between limits with the smallest error of the output."""
    least, most = quantizer.low, quantizer.high
    low, high = limits
    (filled,) = mass.nonzero(as_tuple=True)  # most bins of a small activation, or of one with outliers, are empty
    values, mass = _centres(limits)[filled], mass[filled]
    wanted = output(values)
    whole, every = len(SHARES) - 1, EVERY if len(filled) > FEW_BINS else 1
    best: tuple[float, float, int] = (math.inf, quantizer.scale, quantizer.zero_point)
    pair = whole, whole

    def search(lower: range, upper: range) -> None:
        nonlocal best, pair
        shares = SHARES[upper.start : upper.stop : upper.step]
        for index in lower:
            share = SHARES[index]
            scales = (high * shares - low * share).clamp(min=1e-12) / (most - least)
            zeros = (least - low * share / scales).round().clamp(least, most)
            levels = (values / scales[:, None]).round().add_(zeros[:, None]).clamp_(least, most)
            rounded = levels.sub_(zeros[:, None]).mul_(scales[:, None])
            errors = ((output(rounded) - wanted).square_() * mass).sum(1)
            found = int(errors.argmin())
            if errors[found] < best[0]:
                best, pair = (float(errors[found]), float(scales[found]), int(zeros[found])), (index, upper[found])

    coarse = range(whole % every, whole + 1, every)
    search(coarse if low < 0 else range(whole, whole + 1), coarse)
    lower, upper = (range(max(0, index + 1 - every), min(whole, index - 1 + every) + 1) for index in pair)
    search(lower if low < 0 else range(whole, whole + 1), upper)
    return best[1:]


def _consumer_function(quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
    """The activation that alone consumes a quantizer's output, or the identity."""
    users = consumers(quantizer)
    if len(users) != 1 or users[0].target not in POINTWISE:
        return lambda values: values
    (activation,) = users
    function = operation_of(activation)
    return lambda values: function(values, *activation.args[1:], **activation.kwargs)
