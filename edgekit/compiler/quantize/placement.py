"""Placement of Q/DQ for each runtime, as a quantizer for NNCF."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, distinct_names, fixed_weights
from edgekit.compiler.nodes import (
    CONSTANT_VIEWS,
    A,
    behind_views,
    is_padding,
    is_view_of_constant,
    layer_name,
    operand,
    shape_of,
)
from edgekit.compiler.quantize.lowering import Lowering
from edgekit.compiler.quantizers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    quantizer_of,
    quantizers,
    set_owners,
    set_places,
)
from edgekit.config.choices import Scheme
from edgekit.config.recipes import TargetRecipe

ACTIVATIONS = {A.relu.default, A.clamp.default}
"""Activations that integer kernels apply while they requantize, so Q comes after them."""
GATES = {A.sigmoid.default, A.hardsigmoid.default, A.clamp.default}
"""Operations that make gates of the outputs of a layer."""


class Placement(Quantizer):  # type: ignore[misc]
    """Placement of Q/DQ for one runtime: weights and inputs of dense layers, optionally what their outputs meet."""

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
        self._lowerings = tuple(lowerings) if scheme == "w8a8" else ()
        self._tables = frozenset[Any]().union(*(lowering.activations for lowering in self._lowerings))
        self._marked = set[Any]()
        """Operations without weights that become INT8."""
        # Layers for whose sake a node's inputs or its output are quantized, by the node's name, which NNCF keeps.
        self._input_owners: dict[str, set[str]] = defaultdict(set)
        self._output_owners: dict[str, set[str]] = defaultdict(set)
        # Places of quantized inputs, by the names of the node and of its input, and of quantized outputs.
        self._input_places: dict[tuple[str, str], str] = {}
        self._output_places: dict[str, str] = {}
        self._names: Mapping[Node, str] = {}

    def covers(self, node: Node) -> bool:
        """Whether this node's weights become integers, and in the scheme w8a8 also its operation."""
        layer = dense_layer(node)
        if layer is None or (layer.is_depthwise and not self._target.quantize_depthwise):
            return False
        return not self.keeps_in_float(layer)

    def keeps_in_float(self, layer: DenseLayer) -> bool:
        """Whether the recipe names this layer among those that stay in float."""
        return any(fnmatchcase(layer.name, pattern) for pattern in self._float_layers)

    def quantizes(self, graph: GraphModule, layer: DenseLayer) -> bool:
        """Whether this layer gets Q/DQ: it is covered, and its weights don't depend on the image."""
        return self.covers(layer.node) and fixed_weights(graph, layer) is not None

    def int8_products(self, graph: GraphModule) -> set[str]:
        """Names of the products of activations, such as attention, whose operands become integers."""
        return {layer_name(node) for lowering in self._lowerings for node in lowering.symmetric_inputs(graph)}

    def phrases(self, graph: GraphModule) -> list[str]:
        """What a float graph would compute in other formats beside its dense layers, in words for a bundle's scheme."""
        self.annotate(copy_sharing(graph))
        used = [lowering.scheme for lowering in self._lowerings if lowering.scheme and self._uses(graph, lowering)]
        return used + ["residual sums from int8 to int8"] * (A.add.Tensor in self._marked)

    def _uses(self, graph: GraphModule, lowering: Lowering) -> bool:
        """Whether a lowering changes anything in a graph that was annotated."""
        operations = lowering.activations | ({A.mul.Tensor} if lowering.gates else set())
        return bool(operations & self._marked or lowering.symmetric_inputs(graph) or lowering.session)

    def places(self, graph: GraphModule) -> tuple[set[str], set[str]]:
        """Places of the quantizers, and distinct names of the layers in INT8, that a float graph would get."""
        names = distinct_names(graph)
        layers = {names[layer.node] for layer in dense_layers(graph) if self.quantizes(graph, layer)}
        self.annotate(copy_sharing(graph))
        return {*self._input_places.values(), *self._output_places.values()}, layers

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark the nodes whose inputs or output NNCF has to quantize."""
        self._names = distinct_names(model)
        for layer in dense_layers(model):
            if self.quantizes(model, layer):
                _mark(layer.node).input_qspec_map[layer.weight] = self._weight
                if self._scheme == "w8a8":
                    self._quantize_input(layer)
                    self._quantize_output(layer)
        for lowering in self._lowerings:
            for node, inputs in lowering.symmetric_inputs(model).items():
                _mark(node).input_qspec_map.update(dict.fromkeys(inputs, self._symmetric))
                self._name_inputs(node, inputs, node.name)  # no rewrite replaces attention
        if self._target.quantize_residuals and self._scheme == "w8a8":
            for node, title in _residuals(model, self._names).items():
                values = [] if _adds_parts(node) else int8_inputs(node)
                self._quantize_operation(node, values, _makers(node), title)
        if any(lowering.gates for lowering in self._lowerings):
            for node, gate in _gated(model):
                values = [value for value in node.args if isinstance(value, Node)]
                if not any(self._is_float_sum(value) for value in values):
                    self._quantize_operation(node, values, [gate], f"the gate of {self._names[gate.node]}")
        return model

    def write_owners(self, graph: GraphModule) -> None:
        """Write into each DQ of a graph that NNCF quantized by this placement which layers it serves, into each Q its
        places.

        A graph without any of these layers in INT8 would not have this DQ. The DQ of attention serves no layer.
        """
        for node in graph.graph.nodes:
            if node.target is DEQUANTIZE_CHANNELS:
                layers = (dense_layer(user) for user in node.users)
                set_owners(node, {layer.name for layer in layers if layer is not None})
            elif node.target is DEQUANTIZE:
                quantizer = quantizer_of(node)
                assert quantizer is not None
                owners = set(self._output_owners[quantizer.source.name])
                set_owners(node, owners.union(*(self._input_owners[user.name] for user in node.users)))
        for quantizer in quantizers(graph):
            source = quantizer.source.name
            readers = (user.name for dequantizer in quantizer.node.users for user in dequantizer.users)
            places = [self._input_places.get((reader, source)) for reader in readers]
            places.append(self._output_places.get(source))
            set_places(quantizer.node, [place for place in places if place is not None])

    def _quantize_input(self, layer: DenseLayer) -> None:
        consumer = self._first_consumer(layer)
        _mark(consumer).input_qspec_map[consumer.args[0]] = self._activation
        self._input_owners[consumer.name].add(layer.name)
        self._input_places[consumer.name, operand(consumer).name] = f"the input of {self._names[layer.node]}"

    def _first_consumer(self, layer: DenseLayer) -> Node:
        """The node before which the input of a layer is quantized."""
        value = layer.source
        if is_padding(value):
            return value  # zeros stay zeros, and the kernel can then do the padding
        if "rows-layer-norm" in self._target.rewrites_of("int8") and value.target is A.permute.default:
            view = operand(value)
            if behind_views(view) is layer.node and operand(view).target is A.layer_norm.default:
                return view  # OpenVINO's kernel for the norm then quantizes too
        return layer.node

    def _quantize_output(self, layer: DenseLayer) -> None:
        if not self._target.quantize_outputs:
            return
        tables = [user for user in layer.node.users if user.target in self._tables]
        self._marked.update(table.target for table in tables)
        for node in (_last(layer.node), *tables):
            _mark(node).output_qspec = self._activation
            self._output_owners[node.name].add(layer.name)
            what = "table" if node in tables else "output"
            self._output_places[node.name] = f"the {what} of {self._names[layer.node]}"

    def _quantize_operation(self, node: Node, values: Sequence[Node], makers: Sequence[DenseLayer], title: str) -> None:
        """Quantize some inputs, and the output, of an operation if one of the layers behind it is in INT8."""
        owners = {maker.name for maker in makers if self.covers(maker.node)}
        if not owners:
            return
        if values:
            self._marked.add(node.target)
        _mark(node).input_qspec_map.update(dict.fromkeys(values, self._activation))
        _mark(_last(node)).output_qspec = self._activation
        self._input_owners[node.name] |= owners
        self._output_owners[_last(node).name] |= owners
        self._name_inputs(node, values, title)
        self._output_places[_last(node).name] = f"the output of {title}"

    def _is_float_sum(self, value: Node) -> bool:
        """Whether a value is a sum that stays in float, such as of a transformer, whose channels are too unequal."""
        while value.target in CONSTANT_VIEWS:
            value = operand(value)
        return value.target is A.add.Tensor and value.name not in self._output_places

    def _name_inputs(self, node: Node, values: Sequence[Node], title: str) -> None:
        for index, value in enumerate(values):
            self._input_places[node.name, value.name] = f"input {index} of {title}"

    def validate(self, model: GraphModule) -> None:
        """Do nothing: `annotate` only marks supported nodes."""


def _mark(node: Node) -> QuantizationAnnotation:
    """The annotation of a node, which NNCF reads."""
    return node.meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))


def _last(node: Node) -> Node:
    """The node whose output the integer kernel writes: the activation if that is the only consumer, else the node."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in ACTIVATIONS else node


def int8_inputs(node: Node) -> list[Node]:
    """Inputs of a residual sum or a max pooling, which can run in int8; none for other nodes."""
    if node.target is A.max_pool2d.default:
        return [operand(node)]
    if node.target is not A.add.Tensor:
        return []
    inputs = [value for value in node.args if isinstance(value, Node)]
    if len(inputs) < len(node.args) or any(is_view_of_constant(value) for value in inputs):
        return []  # a number, a position embedding or a bias isn't a residual
    return inputs if len({shape_of(value) for value in inputs}) == 1 else []


def _makers(node: Node) -> list[DenseLayer]:
    """The convolutions whose outputs a residual sum or a max pooling reads."""
    layers = (dense_layer(without_activation(value)) for value in int8_inputs(node))
    return [layer for layer in layers if layer is not None and layer.is_conv]


def _adds_parts(node: Node) -> bool:
    """Whether a sum adds one of the small kernels into which `split-depthwise` splits a large one."""
    return any(
        len([user for user in maker.source.users if dense_layer(user) and layer_name(user) == maker.name]) > 1
        for maker in _makers(node)
        if maker.is_depthwise
    )


def _residuals(graph: GraphModule, names: Mapping[Node, str]) -> dict[Node, str]:
    """The residual sums and max poolings after convolutions, each with a title that no other has.

    The last sum of a split kernel is among them, because its output is that of the layer. The others stay in float,
    because rounding each of them costs 2 to 3 dB.
    Titles are those of the convolutions, which all runtimes' graphs have, as rewrites may give sums other nodes.
    """
    titles: dict[Node, str] = {}
    seen: Counter[str] = Counter()
    for node in graph.graph.nodes:
        makers = _makers(node)
        if makers and not (_adds_parts(node) and any(_adds_parts(user) for user in node.users)):
            title = f"the {node.target} of {' and '.join(names[maker.node] for maker in makers)}"
            seen[title] += 1
            titles[node] = f"{title} ({seen[title]})"
    return titles


def _gated(graph: GraphModule) -> Iterator[tuple[Node, DenseLayer]]:
    """The products of a value [N,C,H,W] and a gate [N,C,1,1], with the layer that makes the gate."""
    for node in graph.graph.find_nodes(op="call_function", target=A.mul.Tensor):
        for gate in node.args:
            if isinstance(gate, Node) and gate.target in GATES and shape_of(gate)[2:] == (1, 1):
                layer = dense_layer(operand(gate))
                if layer is not None and not any(is_view_of_constant(value) for value in node.args):
                    yield node, layer
                    break


def without_activation(node: Node) -> Node:
    """The node itself, or its input if the node is an activation that a kernel applies."""
    return operand(node) if node.target in ACTIVATIONS else node
