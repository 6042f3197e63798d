"""Simplifications of what computes: activations, constants, batch norms and parallel branches.

Each activation becomes one operation, however a network spells it. A spelling is recognized by what it computes in
float64 at `POINTS`, not by its operations, so the order of factors doesn't matter, nor whether a constant is a number
or a tensor with one element, as in ONNX files. Numbers after a layer are folded into its weights.

Layers get constant weights and biases, with which integer kernels compute. Batch norms, which in evaluation are a
factor and a constant per channel, go into them, and so do the parallel convolutions of one input with which RepVGG,
MobileOne, RepViT and FastViT are trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg
from torch.nn.functional import pad

from edgekit.compiler.graph import (
    A,
    Operation,
    add_constant,
    argument,
    constant,
    constants,
    insert,
    is_view_of_constant,
    layer_name,
    literal,
    node_of,
    operand,
    operation_of,
    replace_each,
    set_bias,
    shape_of,
    weight_of,
)
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, fixed_weights, scale_input, scale_output

Call: TypeAlias = tuple[Operation, tuple[Any, ...], dict[str, Any]]
"""An operation, its arguments after the first, and its options."""

FAR = 1e30
POINTS = torch.tensor(
    [-FAR, -1e4, -100, -20, *(step / 100 for step in range(-1200, 1201)), 20, 100, 1e4, FAR], dtype=torch.float64
)
"""Values at which functions are compared, float64 in ascending order."""

ACTIVATIONS: tuple[Call, ...] = (
    (A.hardswish.default, (), {}),
    (A.hardsigmoid.default, (), {}),
    (A.silu.default, (), {}),
    (A.gelu.default, (), {}),
    (A.gelu.default, (), {"approximate": "tanh"}),
    (A.mish.default, (), {}),
    (A.sigmoid.default, (), {}),
)
"""Activations without numbers. Others limit a value to a range: relu and clamp."""

LONGEST = 16
"""The most operations of a spelling."""


class _Function(NamedTuple):
    """A function of each element of a value, and the nodes that compute it."""

    source: Node
    """The node whose value it reads."""
    nodes: tuple[Node, ...]
    """The nodes that compute it, the last one first. Nothing else reads the values of the others."""
    values: Tensor
    """Its values at `POINTS`, float64."""


@torch.no_grad()
def restore_activations(graph: GraphModule) -> int:
    """Replace each spelling of an activation by its operation, in place.

    Values may differ by the rounding of a spelling's constants: at most by 1e-5, or by 1e-5 of the value. Returns the
    number of activations replaced.
    """
    replaced = 0
    for end in reversed(list(graph.graph.nodes)):
        matches = [(function, call) for function in _functions(graph, end) if (call := _activation(function.values))]
        if not matches:
            continue
        function, (target, args, options) = matches[-1]  # the one of the most nodes
        if len(function.nodes) == 1 and (end.target, str(end.args[1:])) == (target, str(args)):
            continue  # torch's export to ONNX refuses a clamp from 0 to 1.0, but not from 0.0
        _put_instead(graph, function.nodes, insert(graph, end, target, function.source, *args, like=end, **options))
        replaced += 1
    return replaced


@torch.no_grad()
def fold_numbers(graph: GraphModule) -> int:
    """Fold products and sums with numbers into the weights of the layer before them, if nothing else reads it.

    Returns the number of layers changed.
    """
    folded = 0
    for end in reversed(list(graph.graph.nodes)):
        for function in _functions(graph, end):
            layer, line = dense_layer(function.source), _line(function.values)
            if layer is None or line is None or not layer.node.users.keys() <= set(function.nodes):
                continue
            if _scale(graph, layer, *line):
                _put_instead(graph, function.nodes, layer.node)
                folded += 1
    return folded


@torch.no_grad()
def fold_hard_sigmoids(graph: GraphModule) -> int:
    """Replace each hard sigmoid after a layer that nothing else reads by a clamp from 0 to 1, in place.

    The weights get its slope. Integer kernels apply a clamp while they requantize. Returns the number of hard sigmoids.
    """
    folded = 0
    for gate in graph.graph.find_nodes(op="call_function", target=A.hardsigmoid.default):
        layer = dense_layer(operand(gate))
        if layer is not None and len(layer.node.users) == 1 and _scale(graph, layer, 1 / 6, 1 / 2):
            _put_instead(graph, [gate], insert(graph, gate, A.clamp.default, layer.node, 0.0, 1.0, like=gate))
            folded += 1
    return folded


def _scale(graph: GraphModule, layer: DenseLayer, factor: float, shift: float) -> bool:
    channels = shape_of(layer.weight)[:1]
    shifts = torch.full(channels, shift).double() if shift else None
    return scale_output(graph, layer, torch.full(channels, factor).double(), shifts)


def _put_instead(graph: GraphModule, nodes: Sequence[Node], new: Node) -> None:
    nodes[0].replace_all_uses_with(new)
    for node in nodes:
        graph.graph.erase_node(node)


def _functions(graph: GraphModule, end: Node) -> Iterator[_Function]:
    """The functions that end with a node, from that of the node alone to that of the most nodes."""
    nodes: list[Node] = []
    inputs = {end}
    while len(nodes) < LONGEST:
        last = max(inputs)  # in the order of the graph
        read = _elementwise_inputs(graph, last, end)
        if not read or not last.users or (nodes and not last.users.keys() <= set(nodes)):
            return
        nodes.append(last)
        inputs = inputs - {last} | read
        if len(inputs) == 1:
            (source,) = inputs
            yield _Function(source, tuple(nodes), _values(graph, source, nodes))


def _elementwise_inputs(graph: GraphModule, node: Node, like: Node) -> set[Node]:
    """The inputs of an operation on each element that aren't numbers; none for other operations.

    All must have the shape and the type of `like`.
    """
    tags = getattr(node.target, "tags", ())
    elementwise = torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
    if node.op != "call_function" or not (elementwise or node.target is A.hardswish.default):
        return set()
    inputs = {value for value in node.all_input_nodes if not _is_number(graph, value)}
    return inputs if all(_kind(value) == _kind(like) for value in (node, *inputs)) else set()


def _is_number(graph: GraphModule, node: Node) -> bool:
    value = constant(graph, node)
    return value is not None and value.numel() == 1


def _kind(node: Node) -> tuple[Any, ...]:
    value: Any = node.meta.get("val")
    return (value.shape, value.dtype) if isinstance(value, Tensor) and value.is_floating_point() else (node,)


def _values(graph: GraphModule, source: Node, nodes: Sequence[Node]) -> Tensor:
    """The values of a function at `POINTS`, from its nodes, the last one first."""
    values = {source: POINTS}

    def value_of(node: Node) -> Tensor:
        if node not in values:
            values[node] = weight_of(graph, node).double().reshape(())
        return values[node]

    for node in reversed(nodes):
        values[node] = operation_of(node)(*map_arg(node.args, value_of), **map_arg(node.kwargs, value_of))
    return values[nodes[0]]


def _activation(values: Tensor) -> Call | None:
    """The activation that has these values at `POINTS`, or None."""
    for call, expected in zip(ACTIVATIONS, _expected(), strict=True):
        if _is_close(values, expected):
            return call
    low, high = (None if abs(end) > FAR / 2 else float(end) + 0.0 for end in values[[0, -1]])
    if low is high is None or not _is_close(values, POINTS.clamp(low, high)):
        return None
    return (A.relu.default, (), {}) if (low, high) == (0, None) else (A.clamp.default, (low, high), {})


def _line(values: Tensor) -> tuple[float, float] | None:
    """The factor and the shift of a straight line that has these values at `POINTS`, or None."""
    ends = POINTS.abs().argsort()[[0, 1]]
    (x0, x1), (y0, y1) = POINTS[ends].tolist(), values[ends].tolist()
    factor = (y1 - y0) / (x1 - x0)
    shift = y0 - factor * x0
    return (factor, shift) if factor and _is_close(values, factor * POINTS + shift) else None


@cache
def _expected() -> list[Tensor]:
    return [target(POINTS, *args, **options) for target, args, options in ACTIVATIONS]


def _is_close(values: Tensor, expected: Tensor) -> bool:
    return torch.allclose(values, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def fold_constants(graph: GraphModule) -> int:
    """Replace each value that is computed from weights alone by a constant, in place. Returns the number of values.

    Examples are standardized weights, position embeddings that are resized to the image, and biases of relative
    positions. Runtimes would compute them for each image or refuse them, and weights could not be quantized. Views of a
    weight stay, except where they are the weight or the bias of a layer.
    """
    values: dict[Node, Any] = {}
    folded = 0
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            value = constant(graph, node)
            if value is not None:
                values[node] = value
        elif _is_fixed(node, values):
            values[node] = operation_of(node)(*map_arg(node.args, values.get), **map_arg(node.kwargs, values.get))
    for node in [node for node in values if node.op == "call_function"]:
        readers = {user for user in node.users if user not in values}
        if is_view_of_constant(node):
            readers = {user for user in readers if dense_layer(user) is not None and node in user.args[1:3]}
        if not readers or not isinstance(values[node], Tensor):
            continue
        folded_node = add_constant(graph, node, f"{layer_name(node)}.{node.name}", values[node])
        node.replace_all_uses_with(folded_node, delete_user_cb=readers.__contains__)
        folded += 1
    graph.graph.eliminate_dead_code()
    return folded


def separate_weights(graph: GraphModule) -> int:
    """Give each call of a convolution or linear layer separate nodes for a weight and a bias that it shares.

    NNCF would quantize the weight for one of the calls alone. Returns the number of nodes added.
    """
    added = 0
    for layer in dense_layers(graph):
        for shared in (layer.weight, layer.bias):
            if shared is not None and shared.op == "get_attr" and len(shared.users) > 1:
                with graph.graph.inserting_before(layer.node):
                    own = graph.graph.get_attr(str(shared.target))
                own.meta = dict(shared.meta)
                layer.node.replace_input_with(shared, own)
                added += 1
    return added


def _is_fixed(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or not all(value in values for value in node.all_input_nodes):
        return False
    return not node.is_impure() and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


@torch.no_grad()
def products_to_linear(graph: GraphModule) -> int:
    """Replace each product `x @ weight`, also as an einsum or with a sum in one operation, by a linear layer.

    The other operand may have any number of axes. Returns the number of products replaced.
    """

    def linear(product: Node) -> Node | None:
        if product.target is A.einsum.default:
            return _linear_of_einsum(graph, product)
        is_sum = product.target is A.addmm.default
        x, matrix = map(node_of, product.args[is_sum:])
        linear = None if product.kwargs else _linear(graph, product, x, matrix, transposed=True)
        return insert(graph, product, A.add.Tensor, linear, product.args[0]) if linear and is_sum else linear

    return replace_each(graph, {A.matmul.default, A.mm.default, A.einsum.default, A.addmm.default}, linear)


def _linear(graph: GraphModule, node: Node, x: Node, matrix: Node, transposed: bool) -> Node | None:
    """A linear layer with a matrix [out,in], or [in,out] if it is transposed; None if that is no constant matrix."""
    weight = constant(graph, matrix)
    if weight is None or weight.ndim != 2 or len(shape_of(x)) < 2 or constant(graph, x) is not None:
        return None
    kept = add_constant(graph, node, f"{layer_name(node)}.weight", (weight.T if transposed else weight).contiguous())
    return insert(graph, node, A.linear.default, x, kept, like=node)


def _linear_of_einsum(graph: GraphModule, node: Node) -> Node | None:
    """The linear layer that an einsum of a value and a matrix is, between permutes; None for other sums."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if not isinstance(operands, list | tuple) or len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.split("->")
    of_x, of_matrix = inputs.split(",")
    x, matrix = (node_of(value) for value in operands)
    if len(set(of_x)) < len(of_x) or len(of_matrix) != 2 or of_matrix[0] == of_matrix[1]:
        return None
    into, out = sorted(of_matrix, key=of_x.__contains__, reverse=True)
    if set(output) != {*of_x, out} - {into} or into not in of_x or out in of_x or into in output:
        return None
    before, after = of_x.replace(into, "") + into, of_x.replace(into, "") + out
    if constant(graph, matrix) is None or constant(graph, x) is not None:
        return None
    last = insert(graph, node, A.permute.default, x, [of_x.index(letter) for letter in before])
    linear = _linear(graph, node, last, matrix, transposed=of_matrix[0] == into)
    order = [after.index(letter) for letter in output]
    return None if linear is None else insert(graph, node, A.permute.default, linear, order)


@torch.no_grad()
def separate_biases(graph: GraphModule) -> int:
    """Add each bias that depends on the image after its layer instead. Returns the number of biases separated."""
    separated = 0
    for layer in dense_layers(graph):
        node, bias = layer.node, layer.bias
        if bias is None or constant(graph, bias) is not None:
            continue
        after = node.next
        each = insert(graph, after, A.reshape.default, bias, [-1, 1, 1], like=node) if layer.is_conv else bias
        total = insert(graph, after, A.add.Tensor, node, each, like=node)
        node.replace_all_uses_with(total)
        total.args = (node, each)
        node.args = (*node.args[:2], None, *node.args[3:])
        separated += 1
    return separated


@torch.no_grad()
def fold_biases(graph: GraphModule) -> int:
    """Fold each constant per channel that is added to a layer's only use into its bias, as files of Paddle need it.

    Returns the number of sums folded.
    """

    def folded(total: Node) -> Node | None:
        for value, added in () if total.kwargs else (total.args, total.args[::-1]):
            layer = dense_layer(value)
            weights = fixed_weights(graph, layer) if layer is not None else None
            if layer is None or weights is None or len(layer.node.users) != 1:
                continue
            shift = _per_channel(graph, layer, added)
            if shift is not None:
                bias = shift if weights.bias is None else weights.bias + shift
                set_bias(graph, layer.node, f"{layer.name}.bias", bias)
                return layer.node
        return None

    return replace_each(graph, {A.add.Tensor}, folded)


def _per_channel(graph: GraphModule, layer: DenseLayer, added: Argument) -> Tensor | None:
    """A constant [C] for each output channel of a layer, if it broadcasts so; None for other values."""
    value = constant(graph, added) if isinstance(added, Node) else None
    if value is None:
        return None
    shape = [1] * len(shape_of(layer.node))
    shape[layer.channel_axis] = shape_of(layer.node)[layer.channel_axis]
    return value.flatten() if [1] * (len(shape) - value.ndim) + list(value.shape) == shape else None


VIEWS = {A.reshape.default, A.flatten.using_ints}


def restore_batch_norms(graph: GraphModule) -> int:
    """Replace the form that a batch norm gets when torch makes a graph functional. Returns the number of norms."""
    norms = graph.graph.find_nodes(op="call_function", target=A._native_batch_norm_legit_no_training.default)
    for node in norms:
        *inputs, momentum, eps = node.args
        norm = insert(graph, node, A.batch_norm.default, *inputs, False, momentum, eps, False, like=node)
        for first in list(node.users):
            first.replace_all_uses_with(norm)
    return len(norms)


@torch.no_grad()
def fold_batch_norms(graph: GraphModule) -> int:
    """Fold each batch norm into the layer before it or the 1x1 convolution after it; others become a product and a sum.

    Only those that compute their statistics from the image remain, as an instance norm does. NNCF would fold any other
    into the convolution before it even if that has other consumers. Returns the number of norms removed.
    """

    def folded(norm: Node) -> Node | None:
        affine = factor_and_shift(graph, norm)
        if affine is None:
            return None
        neighbour = _fold_before(graph, norm, *affine) or _fold_after(graph, norm, *affine)
        if neighbour is not None:
            return neighbour
        shape = (1, -1, *[1] * (len(shape_of(norm)) - 2))
        factor, offset = (
            add_constant(graph, norm, f"{layer_name(norm)}.{name}", value.float().view(shape))
            for name, value in zip(("scale", "shift"), affine, strict=True)
        )
        product = insert(graph, norm, A.mul.Tensor, norm.args[0], factor, like=norm)
        return insert(graph, norm, A.add.Tensor, product, offset, like=norm)

    return replace_each(graph, {A.batch_norm.default}, folded)


def factor_and_shift(graph: GraphModule, norm: Node) -> tuple[Tensor, Tensor] | None:
    """The factor and constant of each channel, float64 [C]; None if a norm computes its statistics from the image."""
    weight, bias, mean, variance = constants(graph, *norm.args[1:5]) or [None] * 4
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + literal(norm.args[7], float)) * (1 if weight is None else weight.double())
    return scale, (0 if bias is None else bias.double()) - mean.double() * scale


def _fold_before(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> Node | None:
    """Fold into the layer before the norm, or those that are concatenated there. Returns the norm's input.

    The norm must be the only consumer. Between a linear layer and a norm of rows, views may merge the axes before the
    channels.
    """
    value, of_rows = operand(norm), len(shape_of(norm)) == 2
    while of_rows and value.target in VIEWS and len(value.users) == 1 and _keeps_channels(value):
        value = operand(value)
    layers = _joined_layers(graph, value)
    if not layers or any(layer.is_conv == of_rows for layer in layers):
        return None
    channels = [shape_of(layer.weight)[0] for layer in layers]
    for layer, *affine in zip(layers, torch.split(scale, channels), torch.split(shift, channels), strict=True):
        scale_output(graph, layer, *affine)
    return operand(norm)


def _joined_layers(graph: GraphModule, value: Node) -> list[DenseLayer]:
    """The layers with constant weights whose channels a value consists of, in their order; none for other values.

    A single node reads the value, and nothing else reads what it is concatenated from.
    """
    layer = dense_layer(value)
    if len(value.users) != 1:
        return []
    if layer is not None:
        return [layer] if fixed_weights(graph, layer) is not None else []
    if value.target is not A.cat.default:
        return []
    parts = [node_of(part) for part in literal(value.args[0], list)]
    joined = [_joined_layers(graph, part) for part in parts]
    layers = [layer for part in joined for layer in part]
    axis, axes = argument(value, 1, 0), len(shape_of(value))
    along = all(layer.channel_axis % axes == literal(axis, int) % axes for layer in layers)
    return layers if along and all(joined) and len(set(parts)) == len(parts) else []


def activate_before_concatenations(graph: GraphModule) -> int:
    """Apply the activation of layers that are concatenated to the output of each, as kernels of layers can.

    Returns the number of activations moved.
    """

    def moved(activation: Node) -> Node | None:
        value = operand(activation)
        layers = _joined_layers(graph, value) if value.target is A.cat.default else []
        operation = operation_of(activation)
        options = activation.kwargs
        for layer in layers:
            (reader,) = layer.node.users
            active = insert(graph, reader, operation, layer.node, *activation.args[1:], like=activation, **options)
            reader.replace_input_with(layer.node, active)
        return value if layers else None

    graph.graph.eliminate_dead_code()  # a norm that was folded would still read its concatenation
    return replace_each(graph, {call[0] for call in ACTIVATIONS} | {A.relu.default, A.clamp.default}, moved)


def _keeps_channels(view: Node) -> bool:
    """Whether the last axis is also that of the view's input."""
    return shape_of(view)[-1:] == shape_of(operand(view))[-1:]


def _fold_after(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> Node | None:
    """Fold into the 1x1 convolution that is the norm's only consumer, unless padding adds zeros that need the shift.

    Returns the norm's input.
    """
    layer = dense_layer(next(iter(norm.users), None))
    if layer is None or not layer.is_conv or len(norm.users) != 1:
        return None
    if layer.padding != (0, 0) or layer.groups != 1 or layer.kernel != (1, 1):
        return None
    return operand(norm) if scale_input(graph, layer, scale, shift) else None


SUMS: Mapping[Any, int] = {A.add.Tensor: 1, A.sub.Tensor: -1}
"""Sums of two values, and the sign of the second one."""


@dataclass(frozen=True)
class _Branches:
    """What a value is made of: convolutions of one input, that input times a factor, and a constant per channel."""

    convs: tuple[DenseLayer, ...]
    """Convolutions with the same stride and groups, each centred on its output's pixel."""
    kernel: Tensor
    """The sum of their kernels, float64 [out,in/groups,H,W]; a zero without convolutions."""
    factor: Tensor
    """Factor of each channel of the input itself, float64 [out]; a zero where the input isn't added."""
    shift: Tensor
    """Constant of each channel, float64 [out]; a zero without constants."""
    count: int
    """Number of branches that have weights: convolutions, and batch norms or products of the input itself."""

    def times(self, factor: Tensor) -> "_Branches":
        """The same branches, each multiplied by a factor, [out] or a single one."""
        own = self.count or 1  # a product of the input itself is a branch with weights
        kernel, scaled, shift = self.kernel * factor.view(-1, 1, 1, 1), self.factor * factor, self.shift * factor
        return replace(self, kernel=kernel, factor=scaled, shift=shift, count=own)

    def plus(self, other: "_Branches", sign: int) -> "_Branches":
        """The sum of both, or the difference."""
        height, width = (max(sizes) for sizes in zip(self.kernel.shape[2:], other.kernel.shape[2:], strict=True))
        kernels = [_in_the_middle(kernel, height, width) for kernel in (self.kernel, other.kernel)]
        return _Branches(
            (*self.convs, *other.convs),
            kernels[0] + sign * kernels[1],
            self.factor + sign * other.factor,
            self.shift + sign * other.shift,
            self.count + other.count,
        )


@torch.no_grad()
def merge_branches(graph: GraphModule) -> int:
    """Merge the branches of each sum into one convolution, in place. Returns the number of sums.

    Branches are convolutions of the same input, also with batch norms and factors after them, and the input itself, if
    it has a batch norm or there are several convolutions. `x + conv(x)` stays, because it is a residual sum, and so do
    convolutions of 1x7 and 7x1, which would become one of 7x7.
    """
    merged, gone = 0, set[Node]()
    for node in reversed(list(graph.graph.nodes)):  # the largest sums first
        if node.target not in SUMS or node in gone:
            continue
        for source in dict.fromkeys(_conv_inputs(node)):
            tree: list[Node] = []
            branches = _branches(graph, node, source, tree)
            if branches is not None and _is_one_convolution(branches):
                _put_convolution(graph, node, source, branches)
                for part in tree:
                    graph.graph.erase_node(part)
                gone.update(tree)
                merged += 1
                break
    return merged


def _conv_inputs(node: Argument) -> Iterator[Node]:
    """The inputs of the convolutions that a value is the sum of."""
    if not isinstance(node, Node):
        return
    if node.target is A.conv2d.default:
        yield operand(node)
    elif node.target in SUMS or node.target in (A.mul.Tensor, A.batch_norm.default):
        for value in node.args[:2]:
            if isinstance(value, Node) and len(value.users) == 1:
                yield from _conv_inputs(value)


def _branches(graph: GraphModule, node: Argument, source: Node, tree: list[Node]) -> _Branches | None:
    """What a value is made of, if `source` is the only input of its branches. Adds the nodes to `tree`, outer first."""
    zero = torch.zeros(1, dtype=torch.float64)
    none = _Branches((), zero.view(1, 1, 1, 1), zero, zero, 0)
    if node is source:
        return replace(none, factor=torch.ones(shape_of(source)[1], dtype=torch.float64))
    if not isinstance(node, Node) or node in tree or (tree and len(node.users) != 1):
        return None
    tree.append(node)
    if (layer := dense_layer(node)) is not None:
        weights = fixed_weights(graph, layer) if _is_centred(layer) else None
        if weights is None or layer.source is not source:
            return None
        shift = zero if weights.bias is None else weights.bias.double()
        return _Branches((layer,), weights.weight.double(), zero, shift, 1)
    if node.target in SUMS:
        return _sum(graph, node, source, tree)
    if node.target is A.batch_norm.default:
        affine, inner = factor_and_shift(graph, node), _branches(graph, node.args[0], source, tree)
        if affine is None or inner is None:
            return None
        scaled = inner.times(affine[0])
        return replace(scaled, shift=scaled.shift + affine[1])
    if node.target is A.mul.Tensor:
        factor, inner = _channel_factor(graph, node), _branches(graph, node.args[0], source, tree)
        return None if factor is None or inner is None else inner.times(factor)
    return None


def _sum(graph: GraphModule, node: Node, source: Node, tree: list[Node]) -> _Branches | None:
    """What a sum of two values of the same shape is made of. Its convolutions must have the same stride and groups."""
    alike = all(isinstance(value, Node) and shape_of(value) == shape_of(node) for value in node.args)
    if node.kwargs or not alike:
        return None
    first, second = (_branches(graph, value, source, tree) for value in node.args)
    if first is None or second is None:
        return None
    geometries = {(conv.stride, conv.groups) for conv in (*first.convs, *second.convs)}
    return first.plus(second, SUMS[node.target]) if len(geometries) < 2 else None


def _is_centred(layer: DenseLayer) -> bool:
    """Whether a layer is a convolution whose kernel is centred on the pixel that it computes, or on every n-th."""
    centred = layer.padding == tuple(size // 2 for size in layer.kernel) and all(size % 2 for size in layer.kernel)
    return layer.is_conv and centred and layer.dilation == (1, 1)


def _channel_factor(graph: GraphModule, product: Node) -> Tensor | None:
    """The factors of a product with a number or with one constant per channel, float64 [1] or [C]."""
    factor = product.args[1]
    if isinstance(factor, int | float):
        return torch.tensor([factor], dtype=torch.float64)
    if not isinstance(product.args[0], Node) or not isinstance(factor, Node):
        return None
    value, shape = constant(graph, factor), shape_of(product.args[0])
    fits = value is not None and len(shape) == 4 and tuple(value.shape) in ((1, shape[1], 1, 1), (shape[1], 1, 1))
    return value.double().flatten() if value is not None and fits else None


def _is_one_convolution(branches: _Branches) -> bool:
    """Whether several branches with weights cost no more as one convolution."""
    return branches.count > 1 and any(conv.kernel == branches.kernel.shape[2:] for conv in branches.convs)


def _put_convolution(graph: GraphModule, total: Node, source: Node, branches: _Branches) -> None:
    """Compute a sum as one convolution, which gets the name of the branch with the largest kernel."""
    largest = max(branches.convs, key=lambda conv: conv.kernel)
    out, per_group, height, width = branches.kernel.shape
    kernel = branches.kernel.clone()
    channels = torch.arange(out)
    kernel[channels, channels % per_group, height // 2, width // 2] += branches.factor
    name = layer_name(largest.node)
    weight = add_constant(graph, total, f"{name}.weight", kernel.float())
    bias = add_constant(graph, total, f"{name}.bias", branches.shift.expand(out).float())
    geometry = (list(largest.stride), [height // 2, width // 2], [1, 1], largest.groups)
    conv = insert(graph, total, A.conv2d.default, source, weight, bias, *geometry, like=largest.node)
    total.replace_all_uses_with(conv)


def _in_the_middle(kernel: Tensor, height: int, width: int) -> Tensor:
    """A kernel with zeros around it."""
    rows, columns = (height - kernel.shape[2]) // 2, (width - kernel.shape[3]) // 2
    return pad(kernel, (columns, columns, rows, rows))
