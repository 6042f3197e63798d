"""Placement of Q/DQ for each runtime, as a quantizer for NNCF."""

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
from edgekit.compiler.graph import (
    A,
    behind_views,
    constant,
    is_depthwise,
    is_padding,
    is_view_of_constant,
    layer_name,
    shape_of,
)
from edgekit.compiler.quantize.runtime_lowering import Lowering
from edgekit.config.precisions import Scheme
from edgekit.config.recipes import TargetRecipe

ACTIVATIONS = {A.relu.default, A.hardtanh.default, A.clamp.default}
"""Activations that integer kernels apply while they requantize, so Q comes after them."""
TABLES = {A.gelu.default}
"""Activations for which a runtime may have a lookup table of 256 values, from int8 to int8."""


class Placement(Quantizer):  # type: ignore[misc]
    """Placement of Q/DQ for one runtime: weights and inputs of dense layers, optionally their outputs and GELU."""

    def __init__(
        self,
        target: TargetRecipe,
        float_layers: Sequence[str],
        scheme: Scheme = "w8a8",
        lowerings: Sequence[Lowering] = (),
    ) -> None:
        super().__init__()
        low, high, dtype = (0, 255, torch.uint8) if target.activations == "uint8" else (-128, 127, torch.int8)
        self._activation = QuantizationSpec(dtype, MinMaxObserver, low, high, torch.per_tensor_affine)
        self._symmetric = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric)
        self._weight = QuantizationSpec(
            torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0
        )
        self._target, self._float_layers, self._scheme = target, tuple(float_layers), scheme
        self._lowerings = tuple(lowerings)

    def covers(self, node: Node) -> bool:
        """Whether this node's weights become integers, and in the scheme w8a8 also its operation."""
        if node.target not in (A.conv2d.default, A.linear.default):
            return False
        if is_depthwise(node) and not self._target.quantize_depthwise:
            return False
        return not any(fnmatchcase(layer_name(node), pattern) for pattern in self._float_layers)

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if not self.covers(node) or constant(model, node.args[1]) is None:
                continue
            consumer = self._first_consumer(node)
            marks = {node: QuantizationAnnotation(input_qspec_map={node.args[1]: self._weight}, _annotated=True)}
            if self._scheme == "w8":
                node.meta["quantization_annotation"] = marks[node]
                continue
            mark = marks.setdefault(consumer, QuantizationAnnotation(_annotated=True))
            mark.input_qspec_map[consumer.args[0]] = self._activation
            if self._target.quantize_outputs:
                last = marks.setdefault(_last(node), QuantizationAnnotation(_annotated=True))
                last.output_qspec = self._activation
                if self._target.quantize_gelu:
                    for user in node.users:
                        if user.target in TABLES:
                            marks[user] = QuantizationAnnotation(_annotated=True, output_qspec=self._activation)
            for annotated, annotation in marks.items():
                annotated.meta["quantization_annotation"] = annotation
        for lowering in self._lowerings if self._scheme == "w8a8" else ():
            for node, values in lowering.symmetric_inputs(model).items():
                symmetric = dict.fromkeys(values, self._symmetric)
                node.meta["quantization_annotation"] = QuantizationAnnotation(symmetric, _annotated=True)
        if self._target.quantize_residuals and self._scheme == "w8a8":
            for node in model.graph.nodes:
                makers = [without_activation(value) for value in int8_inputs(node)]
                if any(self.covers(maker) and maker.target is A.conv2d.default for maker in makers):
                    self._annotate_residual(node)
        return model

    def _first_consumer(self, layer: Any) -> Any:
        """The node before which the input of a layer is quantized."""
        value = layer.args[0]
        if is_padding(value):
            return value  # zeros stay zeros, and the kernel can then do the padding
        if "rows-layer-norm" in self._target.rewrites_of("int8") and value.target is A.permute.default:
            view = value.args[0]
            if behind_views(view) is layer and view.args[0].target is A.layer_norm.default:
                return view  # OpenVINO's kernel for the norm then quantizes too
        return layer

    def _annotate_residual(self, node: Node) -> None:
        mark = QuantizationAnnotation(dict.fromkeys(int8_inputs(node), self._activation), _annotated=True)
        node.meta["quantization_annotation"] = mark
        behind = _last(node).meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))
        behind.output_qspec = self._activation

    def validate(self, model: GraphModule) -> None:
        """Do nothing: `annotate` only marks supported nodes."""


def _last(node: Node) -> Node:
    """The node whose output the integer kernel writes: the activation if that is the only consumer, else the node."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in ACTIVATIONS else node


def int8_inputs(node: Node) -> list[Any]:
    """Inputs of a residual sum or a max pooling, which can run in int8; none for other nodes."""
    if node.target is A.max_pool2d.default:
        return [node.args[0]]
    if node.target is not A.add.Tensor or not all(isinstance(value, Node) for value in node.args):
        return []
    if any(is_view_of_constant(value) for value in node.args):
        return []  # a position embedding or a bias isn't a residual
    return list(node.args) if len({shape_of(value) for value in node.args}) == 1 else []


def without_activation(node: Any) -> Any:
    """The node itself, or its input if the node is an activation that a kernel applies."""
    return node.args[0] if node.target in ACTIVATIONS else node
