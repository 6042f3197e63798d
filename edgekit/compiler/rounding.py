"""Rounding of weights to int8: GPTQ (arXiv 2210.17323), per channel, and a fit to the float network.

Rounding each weight to the nearest level minimizes the error of the weights, not that of the layer's output: input
channels are correlated, so later weights can compensate an earlier rounding error.

In a fit, images go through the Q/DQ graph node by node, twice side by side: exactly, as in the float network, and
quantized. Each layer therefore sees the errors of all layers before it. Its weights are fitted by least squares from
its quantized inputs to its exact outputs (as in GPTAQ, arXiv 2504.02692) and rounded by GPTQ, and its bias takes up the
error that remains on average. Only constants change, so runtimes compile the same kernels.

On x86 without VNNI, kernels add two products in 16 bits. Where a pair of weights could saturate, its output channel
gets a larger scale, at which the real weights of each pair sum up to at most 127 levels. Rounded to nearest, they sum
up to at most 128, which can't saturate. Rounding that moves weights further, such as GPTQ's, limits the second weight
of a pair to what the first one leaves. In a product of two activations, the second one takes the place of the weights.
"""

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution import (
    Collector,
    NodeByNode,
    Values,
    at_once,
    collect,
    subset_that_fits,
    threads,
)
from edgekit.compiler.graph import (
    A,
    constant,
    constants,
    insert,
    operand,
    operation_of,
    set_bias,
    shape_of,
    weight_of,
)
from edgekit.compiler.layers import (
    QUANTIZE,
    DenseLayer,
    LayerWeights,
    axes_but,
    dense_layer,
    dense_layers,
    int8_weight,
    quantizer_of,
    set_grid,
    set_int8_weights,
)
from edgekit.compiler.ranges import (
    MOMENT_IMAGES,
    WIDE,
    SecondMoments,
    add_damping,
    cholesky,
    choose_damping,
    input_rows,
    layer_moments,
    positions_of,
    stride_from,
    surplus_of,
)
from edgekit.config import runtimes
from edgekit.errors import CompileError
from edgekit.support.progress import Step, no_step, parts_of
from edgekit.support.weight_pairs import LARGEST_SUM, pairings

PERCDAMP = 0.01
"""Share of the Hessian's mean diagonal that is added to its diagonal. Without it, weights of constant inputs drift."""
BLOCK = 32
MOST_INPUTS = 8192
"""Largest number of inputs of a layer whose weights GPTQ rounds. For more inputs, the Hessian needs gigabytes."""
MOST_INPUTS_OF_LARGE = 4096
"""`MOST_INPUTS` in networks above `sizes.ROUNDED_TOGETHER_UP_TO`. The time for a layer grows with the cube of its
inputs, up to a minute for 8192."""
WEIGHTS_AT_ONCE = 1 << 24
"""Weights of a layer rounded per step; each needs several float64 temporaries."""
FIT_PIXELS = 1 << 22
"""Pixels of the images that fits read, which give their layers enough rows. Ranges need more images for extremes."""
WALK_BYTES = 1 << 30
"""Memory for the values of all images that later nodes still need, on each side."""
HESSIAN_BYTES = 1 << 30
"""Memory for the Hessians of the layers that one pass over the images collects."""


@torch.no_grad()
def round_weights(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    limit_pairs: bool = False,
    unlimited: MutableMapping[Node, LayerWeights] | None = None,
    step: Step = no_step,
    hessians: "Hessians | None" = None,
) -> int:
    """Round the weights of a Q/DQ graph, in place, on images float32 [1,C,H,W]. Returns the number of layers.

    The scales don't change, so runtimes compile the same kernels. Depthwise layers are skipped, and layers with more
    inputs than `MOST_INPUTS`, in large networks `MOST_INPUTS_OF_LARGE`, stay rounded to nearest. With `limit_pairs`, no
    pair of rounded weights saturates; the scales must come from `widen_scales`. The weights in `unlimited`
    are rounded too, without this limit. `hessians` are those of all layers, if an earlier pass has collected them;
    without them, it reads each image once for each group of layers whose Hessians fit into `MEMORY_BYTES`.
    """
    round_layer = partial(_round, graph, limit_pairs=limit_pairs, unlimited=unlimited or {})
    if rounds_by_layer(graph):
        rounded = _round_layer_by_layer(graph, samples, round_layer, step)
    else:
        rounded = _round_groups(graph, samples, round_layer, step, hessians)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return rounded


def _round_groups(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    round_layer: Callable[[DenseLayer, Tensor], Tensor],
    step: Step,
    hessians: "Hessians | None",
) -> int:
    """Collect many Hessians in one pass over the images, which is fast."""
    groups = list(_groups(graph))
    for group, of_group in zip(groups, parts_of(step, [len(group) for group in groups]), strict=True):
        collecting, rounding = parts_of(of_group, [0 if hessians else 1, 1])
        collected = hessians or Hessians(group, len(samples))
        if not hessians:
            collect(graph, samples, [collected], collecting)
        for layer in group:
            round_layer(layer, collected.sums.pop(layer.node).total())
            rounding(1 / len(group))
    if not groups:
        step()
    return sum(len(group) for group in groups)


def _round_layer_by_layer(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    round_layer: Callable[[DenseLayer, Tensor], Tensor],
    step: Step,
) -> int:
    """Hold one Hessian at a time, and let each layer see the rounding of all layers before it.

    Uses as many of the images as fit into `WALK_BYTES`.
    """
    rounded = 0
    nodes, values = NodeByNode(graph, subset_that_fits(graph, samples, WALK_BYTES, len(samples))), Values()
    layers = [layer for layer in dense_layers(graph) if _can_be_rounded(graph, layer, MOST_INPUTS_OF_LARGE)]
    to_round, images, visited = {layer.node: layer for layer in layers}, len(nodes.images), list(graph.graph.nodes)
    for node in visited:
        inputs = node.all_input_nodes
        layer = to_round.get(node)
        if layer is not None and isinstance(values[layer.source], list):
            hessian = SecondMoments(1, layer.inputs)
            for x in values[layer.source]:
                hessian.add(_rows(layer, x, images))
            values[layer.weight] = round_layer(layer, hessian.total())
            rounded += 1
        if node.op != "output":
            values[node] = nodes.run(node, values)
        nodes.forget(inputs, values)
        step(1 / len(visited))
    return rounded


def _round(
    graph: GraphModule,
    layer: DenseLayer,
    hessian: Tensor,
    limit_pairs: bool,
    unlimited: MutableMapping[Node, LayerWeights],
) -> Tensor:
    """Replace a layer's weight by whole multiples of its scales, and its weight in `unlimited`. Returns the former."""
    quantizer = int8_weight(layer.node)
    assert quantizer is not None
    weight, scale = quantizer.weight_and_scale(graph)
    compensation, other = Compensation.of(hessian, list(weight.shape)), unlimited.get(layer.node)
    limits, pairings = (quantizer.low, quantizer.high), pairings_of(layer, weight) if limit_pairs else []
    channels, parts = max(1, WEIGHTS_AT_ONCE // weight[0].numel()), []
    scale = scale if other is None else other.scale
    for part, scales in zip(torch.split(weight.flatten(1), channels), torch.split(scale, channels), strict=True):
        parts.append(round_twice(part[None], scales[None], limits, pairings, compensation))
    free, limited = ([torch.cat([part[way][of][0] for part in parts]) for of in (0, 1)] for way in (0, 1))
    if other is not None:
        unlimited[layer.node] = replace(other, weight=_multiples(*free).view(weight.shape))
    new = _multiples(*limited).view(weight.shape)
    set_int8_weights(graph, layer.node, new, limited[1].float())
    return new


def _multiples(levels: Tensor, scales: Tensor) -> Tensor:
    """The weight, float32, of levels [..,out,in] with scales [..,out]."""
    return (levels.double() * scales.double()[..., None]).float()


def rounds_by_layer(graph: GraphModule) -> bool:
    """Whether `round_weights` rounds a graph of this size layer by layer."""
    weights = sum(value.numel() for value in (*graph.parameters(), *graph.buffers()))
    return weights > runtimes.ROUNDED_TOGETHER_UP_TO


def hessian_bytes(inputs: Iterable[int], weights: int) -> int:
    """Bytes of the Hessians held at once, for layers with these numbers of inputs in a network of this size."""
    if weights > runtimes.ROUNDED_TOGETHER_UP_TO:
        return max((4 * count * count for count in inputs if count <= MOST_INPUTS_OF_LARGE), default=0)
    return min(HESSIAN_BYTES, sum(4 * count * count for count in inputs if count <= MOST_INPUTS))


def _groups(graph: GraphModule) -> Iterator[list[DenseLayer]]:
    """Yield dense layers with quantized weights, in groups whose Hessians fit into `MEMORY_BYTES`."""
    group: list[DenseLayer] = []
    used = 0
    for layer in dense_layers(graph):
        if not _can_be_rounded(graph, layer, MOST_INPUTS):
            continue
        size = layer.inputs**2 * 4
        if group and used + size > HESSIAN_BYTES:
            yield group
            group, used = [], 0
        group.append(layer)
        used += size
    if group:
        yield group


def _can_be_rounded(graph: GraphModule, layer: DenseLayer, most: int) -> bool:
    """Whether a layer isn't grouped, has constant weights in INT8, and at most this many inputs."""
    quantizer = int8_weight(layer.node)
    if quantizer is None or layer.groups != 1 or constant(graph, quantizer.source) is None:
        return False
    return layer.inputs <= most


class Hessians(Collector[Tensor]):
    """Sums, for each layer, the Hessian X.T @ X of its inputs X: [1,in,in]."""

    def __init__(self, layers: Sequence[DenseLayer], images: int) -> None:
        self._layers, self._images = {layer.node: layer for layer in layers}, images
        super().__init__(self._layers)
        self.sums = {layer.node: SecondMoments(1, layer.inputs) for layer in layers}

    @classmethod
    def of_all(cls, graph: GraphModule, images: int) -> Self | None:
        """A collector for all layers that `round_weights` rounds on this many images, if one pass is enough."""
        groups = [] if rounds_by_layer(graph) else list(_groups(graph))
        return cls(groups[0], images) if len(groups) == 1 else None

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        return _rows(self._layers[node], inputs[0], self._images)

    def add(self, node: Node, part: Tensor) -> None:
        self.sums[node].add(part)


def _rows(layer: DenseLayer, x: Tensor, images: int) -> Tensor:
    """The rows of a layer's input for one of this many images that its Hessian is computed from: [1,rows,in]."""
    return input_rows(layer, x, stride_from(surplus_of(layer, images), positions_of(layer)))


@dataclass(frozen=True)
class Compensation:
    """Compensation of the rounding errors of a layer's weights by the weights that are rounded after them.

    GPTQ finds what each error changes in all later weights in the inverse of the Hessian. What all earlier errors
    change in a weight needs no inverse, and is the same (arXiv 2507.18553).
    """

    order: Tensor
    """Inputs in the reverse of the order in which their weights are rounded, int64 [groups,in]."""
    factor: Tensor
    """Lower Cholesky factor of the Hessian of the inputs in this order, with damping: [groups,in,in]."""

    @classmethod
    def of(cls, hessian: Tensor, shape: list[int], damping: float = PERCDAMP) -> Self:
        """Factorize the Hessian [groups,in,in] of a layer's inputs. Raises CompileError with the weight's `shape`.

        Up to `WIDE` inputs, it computes in float64.
        """
        order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True).flip(1)
        groups = torch.arange(len(order))[:, None, None]
        matrix = hessian[groups, order[:, :, None], order[:, None, :]]
        try:
            factor = cholesky(add_damping(matrix if order.shape[1] > WIDE else matrix.double(), damping))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise CompileError(
                f"GPTQ can't round weights {shape}: the Hessian of their inputs isn't positive definite",
                fix='Set weight_rounding = "nearest" in the recipe',
            ) from error
        return cls(order, factor)

    @cached_property
    def shares(self) -> Tensor:
        """Shares of an input's rounding errors, in rows, that other inputs take up, in columns: [groups,in,in].

        They are lower triangular, and 1 on their diagonal.
        """
        return self.factor / self.factor.diagonal(dim1=1, dim2=2)[:, None, :]

    def solve(self, products: Tensor) -> Tensor:
        """The products [groups,out,in] times the inverse of the damped Hessian."""
        columns = self.order[:, None, :].expand(products.shape)
        ordered = products.to(self.factor.dtype).gather(2, columns).mT
        return torch.empty_like(products).scatter_(
            2, columns, torch.cholesky_solve(ordered, self.factor).mT.to(products.dtype)
        )


def pairings_of(layer: DenseLayer, weight: Tensor) -> list[Tensor]:
    """Pairings that kernels may use for a layer's inputs within a group: int64 [pairs,2] each. Empty without pairs."""
    return [torch.from_numpy(pairs) for pairs in pairings(weight.shape, layer.groups)]


def safe_scales(weight: Tensor, scales: Tensor, pairings: Sequence[Tensor]) -> Tensor:
    """The scales [..,out], raised where a pair of a weight [..,out,in] that is rounded to nearest could saturate."""
    for pairs in pairings:
        sums = weight[..., pairs[:, 0]] + weight[..., pairs[:, 1]]
        least = torch.cat([sums.abs(), torch.zeros_like(weight[..., :1])], -1).amax(-1) / (LARGEST_SUM - 1)
        scales = torch.maximum(scales, least.to(scales.dtype))
    return scales


@torch.no_grad()
def widen_scales(graph: GraphModule) -> int:
    """Give the layers of a Q/DQ graph scales at which no pair of weights saturates, in place.

    Returns the number of layers whose scales changed.
    """
    changed = 0
    for layer in dense_layers(graph):
        quantizer = int8_weight(layer.node)
        if quantizer is None or constant(graph, quantizer.source) is None:
            continue
        weight, scale = quantizer.weight_and_scale(graph)
        wider = safe_scales(weight.flatten(1), scale, pairings_of(layer, weight))
        if not torch.equal(wider, scale):
            set_int8_weights(graph, layer.node, scale=wider)
            changed += 1
    graph.recompile()
    return changed


def limit_keys(graph: GraphModule) -> int:
    """Give INT8 keys of attention levels within ±64, half of the largest sum, in place. Returns how many it limited.

    The kernel for a product of two activations pairs neighbouring values of a key.
    """
    limited = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        quantizer = quantizer_of(attention.args[1])
        if quantizer is None:
            continue
        node, bound = quantizer.node, LARGEST_SUM // 2 * 2 * quantizer.scale
        clamped = insert(graph, node, A.clamp.default, quantizer.source, -bound, bound)
        node.args = (clamped, *node.args[1:])
        set_grid(quantizer, (2 * quantizer.scale, *quantizer.grid[1:]))
        limited += 1
    graph.recompile()
    return limited


Rounded: TypeAlias = tuple[Tensor, Tensor]
"""Levels [groups,out,in] of a weight, and their scales [groups,out]."""


def round_twice(
    weight: Tensor,
    scales: Tensor,
    limits: tuple[int, int],
    pairings: Sequence[Tensor],
    compensation: Compensation | None,
) -> tuple[Rounded, Rounded]:
    """Round a weight [groups,out,in] without and with the limit for each pair in `pairings`, int64 [pairs,2].

    With the limit, only channels of which a pair would saturate are rounded again, with larger scales. To nearest, if
    `compensation` is None.
    """

    def rounded(weight: Tensor, scales: Tensor, pairings: Sequence[Tensor]) -> Rounded:
        scales = safe_scales(weight, scales, pairings).float()
        if compensation is None:
            return (weight / scales.to(weight.dtype)[:, :, None]).round().clamp(*limits), scales
        return round_levels(weight, compensation, scales, *limits, pairings), scales

    levels, scales = free = rounded(weight, scales, [])
    sums = (levels[..., pairs].sum(-1).abs().amax((0, 2)) for pairs in pairings if len(pairs))
    again = sum((most > LARGEST_SUM for most in sums), torch.zeros(levels.shape[1], dtype=torch.bool))
    if not again.any():
        return free, free
    levels, scales = levels.clone(), scales.clone()
    levels[:, again], scales[:, again] = rounded(weight[:, again], scales[:, again], pairings)
    return free, (levels, scales)


def round_levels(
    weight: Tensor, compensation: Compensation, scale: Tensor, low: int, high: int, pairings: Sequence[Tensor] = ()
) -> Tensor:
    """Integer levels [groups,out,in], in the factor's precision, of a weight [groups,out,in] with scales [groups,out].

    Later columns compensate the rounding error of each column. The levels of each pair in `pairings`, int64 [pairs,2],
    sum up to at most `LARGEST_SUM`.
    """
    columns, shares = compensation.order[:, None, :], compensation.shares
    # In rows, one for each column of the weight, which are fast to reach.
    exact = (weight.double() / scale.double()[:, :, None]).to(shares.dtype).take_along_dim(columns, 2).mT.contiguous()
    groups, inputs, outputs = exact.shape
    rounded = exact.new_zeros(groups, inputs + 1, outputs)  # the last row is for inputs without a partner
    errors = torch.zeros_like(exact)
    partners, each = [_partners(pairs, compensation.order).unbind(1) for pairs in pairings], torch.arange(groups)
    for end in range(inputs, 0, -BLOCK):
        start = max(0, end - BLOCK)
        wanted = torch.baddbmm(exact[:, start:end], shares[:, end:, start:end].mT, errors[:, end:])
        for column in reversed(range(start, end)):
            level = wanted[:, column - start].round().clamp(low, high)
            for places in partners:
                other = rounded[each, places[column]]  # zeros where it isn't rounded yet
                level = (level + other).clamp(-LARGEST_SUM, LARGEST_SUM) - other
            rounded[:, column] = level
            errors[:, column] = error = exact[:, column] - level
            wanted[:, : column - start].addcmul_(shares[:, column, start:column, None], error[:, None, :])
    return rounded[:, :-1].mT.take_along_dim(columns.argsort(2), 2)


def _partners(pairs: Tensor, order: Tensor) -> Tensor:
    """Place of each input's partner in an order of rounding, both [groups,in]; -1 for an input without a partner."""
    inputs = order.shape[1]
    partner = torch.full((inputs,), inputs)
    partner[pairs] = pairs.flip(1)
    places = torch.nn.functional.pad(order.argsort(1), (0, 1), value=-1)
    return places.gather(1, partner[order])


@torch.no_grad()
def fit_weights(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    limit_pairs: bool = False,
    unlimited: MutableMapping[Node, LayerWeights] | None = None,
    step: Step = no_step,
) -> int:
    """Fit and round the weights of a Q/DQ graph, in place, on images float32 [1,3,H,W]. Returns the number of layers.

    Uses as many of the images, evenly spaced, as `FIT_PIXELS` and `WALK_BYTES` allow. The weights' scales change too.
    Layers with more than `MOST_INPUTS` inputs are rounded to nearest and get a new bias. With `limit_pairs`, no pair of
    fitted weights saturates on x86 processors without VNNI. The weights in `unlimited` are fitted too, without this
    limit.
    """
    return Walk(graph, samples, limit_pairs, unlimited).fit(step)


class Walk:
    """Visits the nodes in order, and holds the values of both sides until the last node that needs them."""

    def __init__(
        self,
        graph: GraphModule,
        samples: Sequence[NDArray[np.float32]],
        limit_pairs: bool = False,
        unlimited: MutableMapping[Node, LayerWeights] | None = None,
    ) -> None:
        self._graph, self._limit_pairs, self._unlimited = graph, limit_pairs, unlimited or {}
        (image,) = graph.graph.find_nodes(op="placeholder")
        most = max(MOMENT_IMAGES, FIT_PIXELS // math.prod(shape_of(image)[2:]))
        self._nodes = NodeByNode(graph, subset_that_fits(graph, samples, WALK_BYTES, most))
        self._at_once = at_once(graph)
        self._exact: Values = {}
        self._quantized: Values = {}

    def fit(self, step: Step = no_step) -> int:
        """Fit every layer. Returns their number."""
        nodes, fitted = list(self._graph.graph.nodes), 0
        for node in nodes:
            fitted += self._visit(node)
            step(1 / len(nodes))
        self._graph.graph.eliminate_dead_code()
        self._graph.recompile()
        return fitted

    def _visit(self, node: Node) -> bool:
        """Compute both sides of a node. If it is a quantized layer, fit it. Returns whether it was fitted."""
        inputs = node.all_input_nodes
        layer = _layer_to_fit(self._graph, node)
        if layer is not None and not isinstance(self._quantized[layer.source], list):
            layer = None  # it doesn't depend on the image
        if node.op != "output":
            self._exact[node] = self._nodes.run_exact(node, self._exact)
        if layer is not None:
            self._quantized[layer.weight] = self._fit(layer)
        if node.target is QUANTIZE:
            self._quantized[node] = self._quantized[operand(node)]  # its DQ does both
        elif (quantizer := quantizer_of(node)) is not None:
            self._quantized[node] = self._nodes.map(quantizer.dequantized, self._quantized[operand(node)])
        elif node.op != "output":
            self._quantized[node] = self._nodes.run(node, self._quantized)
        if layer is not None and layer.bias is not None:
            self._correct_bias(layer)
        self._nodes.forget(inputs, self._exact, self._quantized)
        return layer is not None

    def _fit(self, layer: DenseLayer) -> Tensor:
        """Give a layer new levels and scales. Returns its new weight, whole multiples of the scales."""
        quantizer = int8_weight(layer.node)
        assert quantizer is not None
        weight, scale = quantizer.weight_and_scale(self._graph)
        best = weight.reshape(layer.groups, len(weight) // layer.groups, -1)
        other, compensation = self._unlimited.get(layer.node), None
        scales = (scale if other is None else other.scale).view(best.shape[:2])
        if best.shape[2] <= MOST_INPUTS:
            best, compensation = self._fitted(layer, best)
            scales = torch.maximum((best.abs().amax(2) / quantizer.high).float(), scales / 2)
        pairings = pairings_of(layer, weight) if self._limit_pairs else []
        free, limited = (
            (_multiples(*rounded).view(weight.shape), rounded[1].flatten())
            for rounded in round_twice(best, scales, (quantizer.low, quantizer.high), pairings, compensation)
        )
        set_int8_weights(self._graph, layer.node, *limited)
        if other is not None:
            self._unlimited[layer.node] = LayerWeights(*free, other.bias)
        return limited[0]

    def _fitted(self, layer: DenseLayer, weight: Tensor) -> tuple[Tensor, "Compensation"]:
        """The weight [groups,out,in] with which a layer's outputs come closest to the exact ones, and its rounding."""
        bias = None if layer.bias is None else weight_of(self._graph, layer.bias)
        sides = self._exact[layer.source], self._exact[layer.node], self._quantized[layer.source]
        halves = layer_moments(layer, weight, bias, list(zip(*sides, strict=True)), self._at_once)
        damping, both = choose_damping(halves), halves[0] + halves[1]
        factorize = partial(Compensation.of, both.covariance, list(shape_of(layer.weight)))
        compensation = factorize()
        if damping == math.inf:
            return weight.double(), compensation
        solver = compensation if damping == PERCDAMP else factorize(damping)
        return weight.double() + solver.solve(both.missing), compensation

    def _correct_bias(self, layer: DenseLayer) -> None:
        """Move the mean error of each channel, over all images and positions, into the layer's bias."""
        node, axis = layer.node, layer.channel_axis
        bias = weight_of(self._graph, layer.bias)
        error = torch.zeros(len(bias), dtype=torch.float64)
        for exact, quantized in zip(self._exact[node], self._quantized[node], strict=True):
            error += (exact - quantized).mean(axes_but(axis, exact.ndim)) / len(self._nodes.images)
        corrected = (bias.double() + error).float()
        if other := self._unlimited.get(node):
            fitted = LayerWeights(self._quantized[layer.weight], other.scale, corrected)
            self._unlimited[node] = self._with_mean_of(layer, fitted, other.weight)
        set_bias(self._graph, node, f"{node.name}.bias", corrected)
        shift = error.float().view(-1, 1, 1) if axis == 1 else error.float()
        for quantized in self._quantized[node]:
            quantized.add_(shift)

    def _with_mean_of(self, layer: DenseLayer, before: LayerWeights, weight: Tensor) -> LayerWeights:
        """A layer's weights with another weight, and the bias with which its outputs stay the same on average."""
        if before.bias is None:
            return replace(before, weight=weight)
        inputs = self._quantized[layer.source]
        mean = sum(image / len(inputs) for image in inputs)
        lost, node = before.weight - weight, layer.node
        with threads(1):  # as all images run; several threads may add the products of many inputs in another order
            difference: Tensor = operation_of(node)(mean, lost, None, *node.args[3:], **node.kwargs)
        shift = difference.mean(axes_but(layer.channel_axis, difference.ndim))
        return replace(before, weight=weight, bias=before.bias + shift)


def _layer_to_fit(graph: GraphModule, node: Node) -> DenseLayer | None:
    """The layer that a node computes, if it has int8 weights and a constant bias or none."""
    layer = dense_layer(node)
    has_constants = layer is not None and int8_weight(node) is not None and constants(graph, layer.bias) is not None
    return layer if has_constants else None
