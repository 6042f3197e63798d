"""Where each runtime wants Q/DQ: the quantizer that NNCF asks."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.compat.torchao import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from edgekit.compiler.graph import A, constant, is_depthwise, is_padding, layer_name, shape_of
from edgekit.config.precisions import Scheme
from edgekit.config.recipes import TargetRecipe

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
