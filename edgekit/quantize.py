"""Recipe, samples and placement in; a graph with quantize/dequantize nodes (Q/DQ) out. NNCF does the calibration."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from edgekit.compat.nncf import RangeEstimatorParametersSet, nncf, quantize_pt2e
from edgekit.equalize import equalize
from edgekit.errors import CompileError
from edgekit.graph import (
    A,
    Q,
    add_constant,
    constant,
    insert,
    is_depthwise,
    is_padding,
    layer_name,
    replace_layer,
    shape_of,
)
from edgekit.libraries import quiet
from edgekit.profiles import Recipe, Scheme, TargetRecipe
from edgekit.ranges import fit_ranges
from edgekit.rounding import round_weights
from edgekit.runtime.base import first_line

ESTIMATORS: dict[str, Any] = {
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    "minmax": RangeEstimatorParametersSet.MINMAX,
    "mean-minmax": RangeEstimatorParametersSet.MEAN_MINMAX,
    "mse": RangeEstimatorParametersSet.MINMAX,  # `fit_ranges` goes on from the whole range
}
ACTIVATIONS = {A.relu.default, A.hardtanh.default, A.clamp.default}
"""Activations that integer kernels apply while they requantize: Q goes behind them, not between."""
TABLES = {A.gelu.default}
"""Activations that a runtime may look up in a table of 256 values, from int8 to int8."""


class Placement(Quantizer):  # type: ignore[misc]
    """Where one runtime wants Q/DQ: the weights of dense layers, their inputs and perhaps outputs, GELU behind them."""

    def __init__(self, target: TargetRecipe, float_layers: Sequence[str], scheme: Scheme = "w8a8") -> None:
        super().__init__()
        low, high, dtype = (0, 255, torch.uint8) if target.activations == "uint8" else (-128, 127, torch.int8)
        self._activation = QuantizationSpec(dtype, MinMaxObserver, low, high, torch.per_tensor_affine)
        self._weight = QuantizationSpec(
            torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0
        )
        self._target, self._float_layers, self._scheme = target, tuple(float_layers), scheme

    def covers(self, node: Node) -> bool:
        """True if this node's weights become integers, and with scheme w8a8 the operation too."""
        if node.target not in (A.conv2d.default, A.linear.default):
            return False
        if is_depthwise(node) and not self._target.quantize_depthwise:
            return False
        return not any(fnmatchcase(layer_name(node), pattern) for pattern in self._float_layers)

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if not self.covers(node) or constant(model, node.args[1]) is None:
                continue
            # Zeros stay zeros: Q goes before a padding, and kernels take in what is next to them.
            taker = node.args[0] if is_padding(node.args[0]) else node
            marks = {node: QuantizationAnnotation(input_qspec_map={node.args[1]: self._weight}, _annotated=True)}
            if self._scheme == "w8":
                node.meta["quantization_annotation"] = marks[node]
                continue
            mark = marks.setdefault(taker, QuantizationAnnotation(_annotated=True))
            mark.input_qspec_map[taker.args[0]] = self._activation
            if self._target.quantize_outputs:
                last = marks.setdefault(_last(node), QuantizationAnnotation(_annotated=True))
                last.output_qspec = self._activation
                if self._target.quantize_gelu:
                    for user in node.users:
                        if user.target in TABLES:
                            marks[user] = QuantizationAnnotation(_annotated=True, output_qspec=self._activation)
            for marked, annotation in marks.items():
                marked.meta["quantization_annotation"] = annotation
        if self._target.quantize_residuals and self._scheme == "w8a8":
            for node in model.graph.nodes:
                if any(self.covers(without_activation(value)) for value in passed_on(node)):
                    self._annotate_passing(node)
        return model

    def _annotate_passing(self, node: Node) -> None:
        mark = QuantizationAnnotation(dict.fromkeys(passed_on(node), self._activation), _annotated=True)
        node.meta["quantization_annotation"] = mark
        behind = _last(node).meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))
        behind.output_qspec = self._activation

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: `annotate` only marks what `covers` knows."""


def _last(node: Node) -> Node:
    """The node whose output the integer kernel writes: its activation if that is all that takes it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in ACTIVATIONS else node


def passed_on(node: Node) -> list[Any]:
    """The values that a residual sum or a max pooling takes, which may do without float; none for other nodes."""
    if node.target is A.max_pool2d.default:
        return [node.args[0]]
    if node.target is not A.add.Tensor or not all(isinstance(value, Node) for value in node.args):
        return []
    return list(node.args) if len({shape_of(value) for value in node.args}) == 1 else []


def without_activation(node: Any) -> Any:
    """The node itself, or what is before it if it is an activation that a kernel applies."""
    return node.args[0] if node.target in ACTIVATIONS else node


def tie_pools(graph: GraphModule) -> int:
    """A quantizer behind a max pooling of int8 takes the range from before it, in place: no value changes. Count."""
    tied = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.max_pool2d.default):
        if pool.args[0].target is not Q.dequantize_per_tensor.default:
            continue
        before = pool.args[0].args[1:]
        for behind in [user for user in pool.users if user.target is Q.quantize_per_tensor.default]:
            for node in (behind, *behind.users):
                node.args = (node.args[0], *before)
            tied += 1
    graph.recompile()
    return tied


@torch.no_grad()
def spell_out_hard_swish(graph: GraphModule) -> int:
    """HardSwish becomes x / 6 * clamp(x + 3, 0, 6), in place. Count of those.

    In this order: LiteRT's converter knows the usual one, clamp(x + 3, 0, 6) * x / 6, and makes HardSwish of it again.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.hardswish.default):
        x = node.args[0]
        gate = insert(graph, node, A.clamp.default, insert(graph, node, A.add.Tensor, x, 3.0), 0.0, 6.0)
        sixth = insert(graph, node, A.mul.Tensor, x, 1 / 6)
        replace_layer(graph, node, insert(graph, node, A.mul.Tensor, sixth, gate))
        changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def fold_weights(graph: GraphModule) -> int:
    """Replace the weights that Q/DQ round by what Q makes of them, int8, in place. Count of those.

    The float ones are let go of one by one: what a compiler makes of the graph then begins at a quarter of the memory.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=Q.quantize_per_channel.default):
        weight, *given = (constant(graph, each) if isinstance(each, Node) else each for each in node.args)
        if weight is None:
            continue
        steps = add_constant(graph, node, f"{node.name}.int8", node.target(weight, *given))
        steps.meta["val"] = constant(graph, steps)
        replace_layer(graph, node, steps)
        folded += 1
    graph.recompile()
    return folded


def quantize(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    target: str,
    on_sample: Callable[[], None] = lambda: None,
) -> GraphModule:
    """The graph with Q/DQ where the target's placement wants them, ranges from `samples`, each float32 [1,3,H,W].

    The graph given is consumed. Statistics are taken one image at a time: batches distort them (nncf#2619).
    Raises CompileError when NNCF fails, as it does on activations that aren't finite.
    """

    def feed(sample: NDArray[np.float32]) -> torch.Tensor:
        on_sample()
        return torch.from_numpy(sample)

    placement = Placement(recipe.targets[target], recipe.float_layers, recipe.scheme)
    try:
        with torch.no_grad(), quiet():
            if recipe.equalization:
                equalize(graph, samples, recipe.equalization)
            quantized = quantize_pt2e(
                graph,
                placement,
                nncf.Dataset(samples, feed),
                subset_size=len(samples),
                fast_bias_correction=True if recipe.bias_correction == "fast" else None,
                smooth_quant=recipe.smooth_quant,
                activations_range_estimator_params=ESTIMATORS[recipe.estimator],
                fold_quantize=False,
            )
            if recipe.estimator == "mse":
                fit_ranges(quantized, samples)
            tie_pools(quantized)
            if recipe.weight_rounding == "gptq":
                round_weights(quantized, samples)
            if recipe.targets[target].hard_swish_in_float:
                spell_out_hard_swish(quantized)
    except Exception as error:  # as with compilers: NNCF raises what its steps stumble over
        raise CompileError(f"NNCF can't calibrate the graph: {first_line(error)}") from error
    assert isinstance(quantized, GraphModule)
    return quantized
