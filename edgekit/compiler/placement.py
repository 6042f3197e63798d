"""The places of Q/DQ for each runtime, as a quantizer for NNCF, and small rewrites of the calibrated graph.

A runtime's own part, beyond the settings that all runtimes share, is in `runtime/NAME/lowering.py`. What doesn't depend
on the runtime is here, such as a temperature, which divides the outputs in the weights of the last layer and so costs
nothing at run time.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec
from torchao.quantization.pt2e.quantizer import Quantizer as TorchQuantizer

from edgekit.compiler.graph import (
    A,
    Operation,
    add_constant,
    behind_views,
    constant,
    copy_sharing,
    insert,
    is_padding,
    is_view_of_constant,
    layer_name,
    operand,
    placeholder_of,
    replace_layer,
    set_bias,
    shape_of,
    value_of,
    without_views,
)
from edgekit.compiler.layers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZE,
    QUANTIZE_CHANNELS,
    DenseLayer,
    Grid,
    Quantizer,
    dense_layer,
    dense_layers,
    distinct_names,
    fixed_weights,
    int8_weight,
    layer_weights,
    layers,
    quantizer_of,
    quantizers,
    scale_output,
    set_grid,
    set_int8_weights,
    set_owners,
    set_places,
)
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import LayerKind, Scheme
from edgekit.errors import ProfileError


@dataclass(frozen=True)
class Lowering:
    """A form of some operations that suits one runtime. A recipe enables it by name."""

    description: str
    """One sentence for the documentation."""
    symmetric_inputs: Callable[[GraphModule], Mapping[Node, tuple[Any, ...]]] = lambda graph: {}
    """Finds, before calibration, operations and those of their inputs that become INT8 with the zero point 0."""
    activations: Set[Any] = frozenset()
    """Operations behind a layer in INT8 whose output becomes INT8 too."""
    gates: bool = False
    """Whether the product of a value and a gate, as in squeeze-and-excitation, goes from INT8 to INT8."""
    scheme: str | None = None
    """Phrase for a bundle's scheme, for a lowering that changes the number format of more values."""
    least_inputs: int = 0
    """Least number of inputs of a layer of the kind "dynamic"; 0 for a lowering of something else."""
    session: Mapping[str, str] = field(default_factory=dict)
    """Session options with which the bundle's engine runs."""


@dataclass(frozen=True)
class RuntimeLowering:
    """The lowerings of one runtime."""

    named: Mapping[str, Lowering] = field(default_factory=dict)
    """Lowerings by the names in the runtime's row, in the order of application, and that of the kind "dynamic"."""
    miscomputed_layers: Callable[[GraphModule], tuple[str, ...]] = lambda graph: ()
    """Names of the layers that the runtime's INT8 kernels would compute wrongly, and that stay in float."""

    def enabled(self, wants: TargetRecipe) -> Iterator[Lowering]:
        """The lowerings that a recipe's table names, and that of a kind. Raises ProfileError for an unknown name."""
        if unknown := set(wants.lowerings) - self.named.keys():
            raise ProfileError(f"unknown lowering {', '.join(sorted(unknown))}", valid=", ".join(self.named) or "none")
        names = {*wants.lowerings, *wants.kinds.values()}
        return (lowering for name, lowering in self.named.items() if name in names)

    def placement(self, recipe: Recipe, target: str, graph: GraphModule) -> "Placement":
        """The recipe's placement for the runtime, without the layers that its INT8 kernels would compute wrongly."""
        wrong = self.miscomputed_layers(graph) if recipe.scheme == "w8a8" else ()
        wants = recipe.targets[target]
        return Placement(wants, (*recipe.float_layers, *wrong), recipe.scheme, tuple(self.enabled(wants)))


def int8_activation(title: str, operation: Operation, how: str) -> Lowering:
    """The lowering of an activation that a runtime computes from INT8 to INT8, `how` in words."""
    return Lowering(
        f"{title} behind a layer goes from INT8 to INT8, {how}.",
        activations={operation},
        scheme=f"{title} from int8 to int8",
    )


INT8_GATES = Lowering(
    "Products with a gate, as in squeeze-and-excitation, go from INT8 to INT8.",
    gates=True,
    scheme="gates from int8 to int8",
)
"""The lowering of products that a runtime computes from INT8 to INT8."""


ACTIVATIONS = {A.relu.default, A.clamp.default}
"""Activations that integer kernels apply while they requantize, so Q comes after them."""
GATES = {A.sigmoid.default, A.hardsigmoid.default, A.clamp.default}
"""Operations that make gates of the outputs of a layer."""


class Placement(TorchQuantizer):  # type: ignore[misc]
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
        return self.kind_of(layer) != "float"

    def kind_of(self, layer: DenseLayer) -> LayerKind:
        """The kind that the recipe gives to this layer. Only linear layers of enough inputs can be dynamic."""
        if any(fnmatchcase(layer.name, pattern) for pattern in self._float_layers):
            return "float"
        kind = self._target.kind_of(layer.name)
        least = max((lowering.least_inputs for lowering in self._lowerings), default=0)
        can_be_dynamic = not layer.is_conv and 0 < least <= layer.inputs
        return "static" if kind == "dynamic" and not can_be_dynamic else kind

    def quantizes(self, graph: GraphModule, layer: DenseLayer) -> bool:
        """Whether this layer gets Q/DQ: it is covered, and its weights don't depend on the image."""
        return self.covers(layer.node) and fixed_weights(graph, layer) is not None

    def int8_products(self, graph: GraphModule) -> set[str]:
        """Names of the products of activations, such as attention, whose operands become integers."""
        return {layer_name(node) for lowering in self._lowerings for node in lowering.symmetric_inputs(graph)}

    def kinds(self, graph: GraphModule, rewritten: GraphModule) -> dict[Node, LayerKind]:
        """How the layers of a graph before any rewrite compute after the rewrites, by node, without those in float.

        A product of two activations has no weights, and may have the same name as a layer.
        """
        covered = {
            layer.name: self.kind_of(layer) for layer in dense_layers(rewritten) if self.quantizes(rewritten, layer)
        }
        products = self.int8_products(rewritten)
        kinds: dict[Node, LayerKind] = {}
        for node, layer in layers(graph):
            dense = dense_layer(node)
            if layer.op == "matmul" and layer.name in products:
                kinds[node] = "static"
            elif layer.name in covered and dense and fixed_weights(graph, dense) is not None:
                kinds[node] = covered[layer.name]
        return kinds

    def phrases(self, graph: GraphModule) -> list[str]:
        """What a float graph would compute in other formats beside its dense layers, in words for a bundle's scheme."""
        self.annotate(copy_sharing(graph))
        used = [lowering.scheme for lowering in self._lowerings if lowering.scheme and self._uses(graph, lowering)]
        return used + ["residual sums from int8 to int8"] * (A.add.Tensor in self._marked)

    def _uses(self, graph: GraphModule, lowering: Lowering) -> bool:
        """Whether a lowering changes anything in a graph that was annotated."""
        operations = lowering.activations | ({A.mul.Tensor} if lowering.gates else set())
        inputs = lowering.symmetric_inputs(graph)
        return bool(operations & self._marked or inputs or lowering.session or lowering.least_inputs)

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
                if self._scheme == "w8a8" and self.kind_of(layer) == "static":
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
        value = without_views(value)
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
    """The products of a value [N,C,H,W] and a gate [N,C,1,1], with the layer that makes the gate.

    It may be a linear layer, or a convolution over the channels, whose output views arrange.
    """
    for node in graph.graph.find_nodes(op="call_function", target=A.mul.Tensor):
        for factor in node.args:
            gate = without_views(factor) if isinstance(factor, Node) and shape_of(factor)[2:] == (1, 1) else node
            if gate.target in GATES:
                layer = dense_layer(without_views(operand(gate)))
                if layer is not None and not any(is_view_of_constant(value) for value in node.args):
                    yield node, layer
                    break


def without_activation(node: Node) -> Node:
    """The node itself, or its input if the node is an activation that a kernel applies."""
    return operand(node) if node.target in ACTIVATIONS else node


REARRANGEMENTS = {
    A.max_pool2d.default,
    A.flip.default,
    A.fliplr.default,
    A.flipud.default,
    A.rot90.default,
    A.roll.default,
    A.permute.default,
    A.transpose.int,
    A.reshape.default,
    A.flatten.using_ints,
    A.channel_shuffle.default,
    A.pixel_shuffle.default,
    A.pixel_unshuffle.default,
}
"""Operations whose output has values of their input only."""
LARGEST_BIAS = 2**30
"""Largest level of a bias: half of what int32 holds, because kernels add the products to it."""


def tie_rearrangements(graph: GraphModule) -> int:
    """Give each quantizer of int8 values that were only rearranged or pooled their range from before, in place.

    This avoids a second rounding, and LiteRT's kernel that flips values can't change their range. Returns the number of
    quantizers changed.
    """
    tied = 0
    for after in list(quantizers(graph)):
        value = after.source
        while value.target in REARRANGEMENTS:
            value = operand(value)
        before = quantizer_of(value)
        if before is not None and before.grid[2:] == after.grid[2:] and before.grid != after.grid:
            set_grid(after, before.grid)
            tied += 1
    graph.recompile()
    return tied


def set_known_grids(graph: GraphModule) -> int:
    """Give quantizers the grids that INT8 kernels of activations need, in place.

    LiteRT's sigmoid has the scale 1/256, and the clamp of a gate costs nothing where its grid ends at 0 and 1. The
    HardSwish of x is x * clip(x, -3, 3) / 6 + x / 2, whose second factor has levels of x if 3 is a level of x. No grid
    becomes narrower by that. Returns the number of quantizers changed.
    """
    known = [(quantizer, _known_grid(quantizer)) for quantizer in quantizers(graph)]
    for quantizer, grid in known:
        set_grid(quantizer, grid)
    graph.recompile()
    return sum(grid != quantizer.grid for quantizer, grid in known)


def _known_grid(quantizer: Quantizer) -> Grid:
    """The grid that the operation before or behind a quantizer needs, or the one that it has."""
    source, (scale, _, least, most, dtype) = quantizer.source, quantizer.grid
    readers = {reader.target for dequantizer in quantizer.node.users for reader in dequantizer.users}
    if A.hardswish.default in readers:
        low, high = quantizer.representable_range
        to_three = int(3 * (most - least) / (high - min(low, -3)))
        if to_three == 0:  # three would be less than a level
            return quantizer.grid
        scale = 3 / to_three
        return scale, least + max(to_three, round(-low / scale)), least, most, dtype
    if A.mul.Tensor in readers and source.target is A.sigmoid.default:
        return 1 / 256, least, least, most, dtype
    if A.mul.Tensor in readers and source.target is A.clamp.default and source.args[1:] == (0, 1):
        return 1 / (most - least), least, least, most, dtype
    return quantizer.grid


@torch.no_grad()
def center_weights(graph: GraphModule) -> int:
    """Give every channel of the weights the zero point 0, in place. Returns the number of weights changed.

    Ranges of weights are symmetric, but NNCF gives a channel that contains only zeros the zero point -127, and LiteRT
    then refuses the file.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        zeros = constant(graph, operand(node, 2))
        if zeros is None or not bool(zeros.any()):
            continue
        centred = add_constant(graph, node, f"{node.name}.zero_point", torch.zeros_like(zeros))
        for part in (node, *node.users):
            part.args = (*part.args[:2], centred, *part.args[3:])
        changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def use_all_levels(graph: GraphModule) -> int:
    """Give weights that use half of their levels a scale at which they use all, in place. Returns their number.

    NNCF halves the levels of the first layers against saturation, which `pair_limits` prevents with a smaller loss and
    only where it can happen.
    """
    changed = 0
    for layer in dense_layers(graph):
        quantizer, weights = int8_weight(layer.node), layer_weights(graph, layer)
        if quantizer is None or weights is None:
            continue
        largest = weights.weight.abs().flatten(1).amax(1) / quantizer.high
        halved = (largest > 0) & (weights.scale > 1.5 * largest)
        if halved.any():
            set_int8_weights(graph, layer.node, scale=torch.where(halved, largest, weights.scale))
            changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def fit_biases(graph: GraphModule) -> int:
    """Give weights a scale at which kernels can store the bias, in place. Returns the number of layers changed.

    The bias is an int32 number of levels of the input times levels of the weight. The weights of a channel that is
    nearly constant, as batch norms and pruning leave it, may have levels of which its bias is too many.
    """
    changed = 0
    for layer in dense_layers(graph):
        source = operand(layer.source) if is_padding(layer.source) else layer.source
        quantizer, weights = quantizer_of(source), layer_weights(graph, layer)
        if quantizer is None or weights is None or weights.bias is None:
            continue
        scale = torch.maximum(weights.scale, weights.bias.abs() / (LARGEST_BIAS * quantizer.scale))
        if not torch.equal(scale, weights.scale):
            set_int8_weights(graph, layer.node, scale=scale)
            changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def fold_weights(graph: GraphModule) -> int:
    """Replace the float weights before Q/DQ by their int8 levels, in place. Returns the number of weights replaced.

    The float weights are freed one by one, so compilation starts with a quarter of the memory. The levels are numbered,
    because names of nodes change when `edgekit quantize` writes a graph to a file, and the files would differ.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        weight, *args = (constant(graph, arg) if isinstance(arg, Node) else arg for arg in node.args)
        if weight is None:
            continue
        levels = add_constant(graph, node, f"weight_{folded}.int8", node.target(weight, *args))
        replace_layer(graph, node, levels)
        folded += 1
    graph.recompile()
    return folded


def take_pixels(graph: GraphModule, mean: Sequence[float], std: Sequence[float]) -> None:
    """Let a graph of normalized images, float32 [1,C,H,W], take the pixels of crops, uint8 [1,H,W,C], in place.

    Where channels differ, the constants have the length of a whole row of the image: kernels that repeat C values for
    each pixel take 30 times as long, a quarter of EfficientNet-Lite0's time on ONNX Runtime.
    """
    image = placeholder_of(graph)
    readers, before, (_, channels, height, width) = list(image.users), image.next, shape_of(image)
    image.meta["val"] = value_of(image).permute(0, 2, 3, 1).to(torch.uint8)
    call, value = partial(insert, graph, before), image
    shift, factor = [255 * each for each in mean], [1 / (255 * each) for each in std]
    differ = len({*mean}) > 1 or len({*std}) > 1
    if differ:
        value = call(A.reshape.default, value, [1, height, width * channels])
    value = call(A.to.dtype, value, torch.float32)
    for name, operation, values in (("mean", A.sub.Tensor, shift), ("factor", A.mul.Tensor, factor)):
        row = torch.tensor(values).repeat(width)
        value = call(operation, value, add_constant(graph, before, f"pixels.{name}", row) if differ else values[0])
    if differ:
        value = call(A.reshape.default, value, [1, height, width, channels])
    value = call(A.permute.default, value, [0, 3, 1, 2])
    # Other strides would reach the last pooling, for which torch.export then has a gather of each value.
    value = call(A.contiguous.default, value)
    for reader in readers:
        reader.replace_input_with(image, value)
    graph.recompile()


@torch.no_grad()
def divide_outputs(graph: GraphModule, temperature: float) -> bool:
    """Divide the outputs of a graph by a temperature, in place; the levels of INT8 weights stay the same.

    Returns False and changes nothing unless the outputs come from one layer whose weights no other layer uses.
    """
    layer, behind = last_layer(graph)
    if layer is None:
        return False
    if (weights := layer_weights(graph, layer)) is None:
        if not scale_output(graph, layer, torch.full(shape_of(layer.weight)[:1], 1 / temperature, dtype=torch.float64)):
            return False
    else:
        set_int8_weights(graph, layer.node, weights.weight / temperature, weights.scale / temperature)
        if weights.bias is not None:
            set_bias(graph, layer.node, f"{layer.node.name}.bias", weights.bias / temperature)
    for quantizer in behind:
        set_grid(quantizer, (quantizer.scale / temperature, *quantizer.grid[1:]))
    graph.recompile()
    return True


def last_layer(graph: GraphModule) -> tuple[DenseLayer | None, list[Quantizer]]:
    """The layer whose outputs are those of the graph, None if there is none, and the quantizers behind it."""
    (output,) = graph.graph.find_nodes(op="output")
    (node,) = output.all_input_nodes
    behind: list[Quantizer] = []
    while len(node.users) == 1:
        if (layer := dense_layer(node)) is not None:
            return (layer if len(layer.weight.users) == 1 else None), behind
        quantizer = quantizer_of(node)
        if quantizer is None and node.target not in REARRANGEMENTS:
            break
        if quantizer is not None and node.target is QUANTIZE:
            behind.append(quantizer)
        node = operand(node)
    return None, []
