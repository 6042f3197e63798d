"""Compiles for LiteRT (TensorFlow Lite): one flatbuffer.

Operations that LiteRT's converter refuses or computes wrongly are rewritten before, in float and in INT8, and so is
what would let it give INT8 values other ranges than the calibrated graph's.
"""

import math
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from operator import getitem, is_not
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from litert_torch.quantize import pt2e_quantizer, quant_config
from torch.fx import GraphModule, Node

from edgekit.compat.litert_torch import keep_layout_marks, register_rewriters
from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    constants,
    example_input,
    insert,
    number,
    operand,
    pair,
    replace_layer,
    shape_of,
    value_of,
)
from edgekit.compiler.layers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    OTHER_CONVOLUTIONS,
    QUANTIZE,
    Grid,
    Quantizer,
    quantizer_of,
    quantizers,
)
from edgekit.compiler.placement import ACTIVATIONS
from edgekit.compiler.torch_compat import compiled
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.metadata import Metadata
from edgekit.runtime.tflite.engine import F16, F16_OFFERED
from edgekit.runtime.tflite.flatbuffer import Key, Levels, finish, packed, take_dynamic, take_weights
from edgekit.runtime.tflite.metadata import append_labels, standard

PARTS = {A.slice.Tensor, A.select.int, A.narrow.default, A.index_select.default, getitem}
"""Operations that take a part of a value, among them that of a split."""
SPLITS = {A.chunk.default, A.split.Tensor, A.split_with_sizes.default, A.tensor_split.sections, A.unbind.int}
VIEWS = (
    PARTS
    | SPLITS
    | {
        A.reshape.default,
        A.flatten.using_ints,
        A.unflatten.int,
        A.permute.default,
        A.transpose.int,
        A.expand.default,
        A.unsqueeze.default,
        A.squeeze.dim,
        A.channel_shuffle.default,
        A.flip.default,
    }
)
"""Operations through which LiteRT's converter passes a scale on."""
PRODUCTS = {A.matmul.default, A.bmm.default}
NEARLY_ONE = 1 + 2**-23
"""The float32 next to 1: the converter would remove a product with 1, or make an operation of the limits 0 and 1."""
SMALLEST = 2**-126
"""The smallest normal float32 above 0: the converter would remove a bias of zeros."""


def calls(graph: GraphModule, *targets: Any) -> Iterator[Any]:
    """The nodes that call one of these operations. The caller may insert and erase nodes meanwhile."""
    return (node for node in list(graph.graph.nodes) if node.target in targets)


def source_of(value: Any, views: Set[Any] = VIEWS) -> Any:
    """The node whose values a node only rearranges."""
    while value.target in views:
        value = value.args[0]
    return value


def nearly(graph: GraphModule, before: Node, value: Any) -> Node:
    """Insert the product of a value and `NEARLY_ONE`, which the converter keeps apart from the value."""
    return insert(graph, before, A.mul.Tensor, value, NEARLY_ONE)


def separate(graph: GraphModule, value: Node) -> None:
    """Let all readers of a value read `nearly` the value."""
    product = nearly(graph, value.next, value)
    value.replace_all_uses_with(product, delete_user_cb=partial(is_not, product))


def flatten_single_rows(graph: GraphModule) -> None:
    """Compute each Linear on a single row [1,1,1,C], as after a pooling, on [1,C] and with a bias, in place.

    LiteRT's converter makes a product of matrices of it that its own checks refuse. Without a bias, or with one of
    zeros, it does so on [1,C] too.
    """
    for node in calls(graph, A.linear.default):
        shape = shape_of(node)
        if len(shape) == 4 and math.prod(shape[:3]) == 1:
            source, weight, bias = (*node.args, None)[:3]
            row = insert(graph, node, A.reshape.default, source, [1, shape_of(source)[-1]], like=node)
            if (known := constants(graph, bias)) and (known[0] is None or not known[0].any()):
                bias = add_constant(graph, node, f"{node.name}.bias", torch.full(shape[-1:], SMALLEST))
            flat = insert(graph, node, A.linear.default, row, weight, bias, like=node)
            replace_layer(graph, node, insert(graph, node, A.reshape.default, flat, list(shape), like=node))


def crop_transposed_convolutions(graph: GraphModule) -> None:
    """Replace the paddings of each transposed convolution by cutting its output, in place.

    LiteRT's converter refuses most of them. A padding cuts the output at both ends; an output padding extends it, as
    zeros after the input do.
    """
    for convolution in calls(graph, A.conv_transpose2d.input):
        stride, padding, extra = (
            pair(argument(convolution, place, default)) for place, default in ((3, 1), (4, 0), (5, 0))
        )
        if padding == extra == (0, 0):
            continue
        height, width = (
            max(0, math.ceil((more - cut) / step)) for more, cut, step in zip(extra, padding, stride, strict=True)
        )
        padded = insert(graph, convolution, A.pad.default, convolution.args[0], [0, width, 0, height])
        args = (padded, *convolution.args[1:4], [0, 0], [0, 0], *convolution.args[6:])
        part = insert(graph, convolution, A.conv_transpose2d.input, *args, like=convolution)
        for axis, (start, size) in enumerate(zip(padding, shape_of(convolution)[2:], strict=True), 2):
            part = insert(graph, convolution, A.slice.Tensor, part, axis, start, start + size)
        replace_layer(graph, convolution, part)


def separate_products(graph: GraphModule) -> None:
    """Multiply each product of matrices that a convolution over one row reads by nearly 1, in place.

    LiteRT's converter makes one product of both, of a rank that its own checks refuse.
    """
    products: dict[Node, None] = {}
    for convolution in calls(graph, A.conv1d.default, A.conv2d.default):
        source = source_of(convolution.args[0], VIEWS | {QUANTIZE, DEQUANTIZE})
        if shape_of(convolution)[2:-1] in {(), (1,)} and source.target in PRODUCTS:
            products[source] = None
    for product in products:
        separate(graph, product)


def widen_unit_limits(graph: GraphModule) -> None:
    """Let each clamp from 0 to 1 end at nearly 1, in place.

    The converter would make it an operation that XNNPACK doesn't know, and would split the graph there.
    """
    for clamp in calls(graph, A.clamp.default):
        if clamp.args[1:] == (0.0, 1.0):
            clamp.args = (clamp.args[0], 0.0, NEARLY_ONE)


WORKAROUNDS = (flatten_single_rows, crop_transposed_convolutions, separate_products, widen_unit_limits)
"""Rewrites of float and INT8 graphs, in order. `multiply_expansions` follows those of the scales."""


def multiply_expansions(graph: GraphModule) -> None:
    """Expand each float value of four axes by a product with ones, in place.

    LiteRT's converter loses an axis of length 1 of some values that it computes channels last, and expands another one.
    """
    for node in calls(graph, A.expand.default, A.expand_as.default):
        shape, before = shape_of(node), shape_of(node.args[0])
        if len(shape) == 4 and shape != before and value_of(node).is_floating_point():
            before = (1,) * (4 - len(before)) + before
            added = [new if new != old else 1 for new, old in zip(shape, before, strict=True)]
            ones = add_constant(graph, node, f"{node.name}.ones", torch.ones(added))
            replace_layer(graph, node, insert(graph, node, A.mul.Tensor, node.args[0], ones))


JOINS = {A.cat.default, A.maximum.default, A.minimum.default, A.where.self}
"""Operations whose inputs and output have one scale in LiteRT."""
AVERAGES = {A.avg_pool1d.default, A.avg_pool2d.default}
POOLINGS = AVERAGES | {A.max_pool2d.default, A.amax.default, A.amin.default}
"""Poolings whose input and output have one scale in LiteRT."""
LAYERS = (*OTHER_CONVOLUTIONS, A.conv2d.default, A.linear.default)
"""Operations whose weights LiteRT's converter quantizes between INT8 values."""
AROUND_LAYERS = JOINS | VIEWS | ACTIVATIONS | {A.pad.default}
"""Operations through which it finds these values."""


def concatenate_stacks(graph: GraphModule) -> None:
    """Replace each stack by a concatenation of values with one more axis, in place.

    LiteRT's converter does the same, but only after `separate_joins`.
    """
    for stack in calls(graph, A.stack.default):
        axis = argument(stack, 1, 0)
        parts = [insert(graph, stack, A.unsqueeze.default, value, axis) for value in stack.args[0]]
        replace_layer(graph, stack, insert(graph, stack, A.cat.default, parts, axis))


def spell_out_branches(graph: GraphModule) -> None:
    """Replace Softplus, ELU and CELU by the choice between two branches that they are, in place.

    LiteRT's converter does the same, but only after `separate_joins`.
    """
    for node in calls(graph, *BRANCHES):
        call = partial(insert, graph, node)
        replace_layer(graph, node, call(A.where.self, *BRANCHES[node.target](call, node)))


def _softplus(call: Callable[..., Node], node: Node) -> tuple[Node, Node, Node]:
    x, beta, threshold = operand(node), number(argument(node, 1, 1)), number(argument(node, 2, 20))
    scaled = x if beta == 1 else call(A.mul.Tensor, x, beta)
    soft = call(A.log1p.default, call(A.exp.default, scaled))
    return call(A.gt.Scalar, scaled, threshold), x, soft if beta == 1 else call(A.div.Tensor, soft, beta)


def _elu(call: Callable[..., Node], node: Node) -> tuple[Node, Node, Node]:
    x, (alpha, scale, input_scale) = operand(node), (number(argument(node, place, 1)) for place in (1, 2, 3))
    if node.target is A.celu.default:
        input_scale = 1 / alpha
    below = call(A.expm1.default, x if input_scale == 1 else call(A.mul.Tensor, x, input_scale))
    above = x if scale == 1 else call(A.mul.Tensor, x, scale)
    return call(A.gt.Scalar, x, 0), above, call(A.mul.Tensor, below, alpha * scale)


BRANCHES = {A.softplus.default: _softplus, A.elu.default: _elu, A.celu.default: _elu}
"""Activations of two branches, and the arguments of `where` that compute them."""


def drop_clamps(graph: GraphModule) -> None:
    """Remove each clamp of which the quantizer behind it does the same, in place.

    LiteRT's converter leaves a convolution before another clamp than that of ReLU6 in float.
    """
    for clamp in calls(graph, A.clamp.default):
        if all(user.target is QUANTIZE and _clamps(clamp, quantizer_of(user)) for user in clamp.users):
            replace_layer(graph, clamp, operand(clamp))


def _clamps(clamp: Node, quantizer: Quantizer | None) -> bool:
    """Whether a quantizer represents nothing outside of the limits of a clamp."""
    assert quantizer is not None
    low, high = (argument(clamp, place) for place in (1, 2))
    least, most = quantizer.representable_range
    return (low is None or number(low) <= least) and (high is None or number(high) >= most)


def multiply_by_factors(graph: GraphModule) -> None:
    """Replace each SiLU and Mish of x between INT8 values by the product of x and an INT8 factor, in place.

    XNNPACK makes one table of both operations. The factor, from 0 to 1, has the only scale of LiteRT's INT8 sigmoid.
    """
    for node in calls(graph, *FACTORS):
        source = quantizer_of(node.args[0])
        if source is not None and _is_quantized(node):
            x = factor = node.args[0]
            for operation in FACTORS[node.target]:
                factor = insert(graph, node, operation, factor)
            factor = _insert_quantizer(graph, node, factor, (1 / 256, source.low, *source.grid[2:]))
            replace_layer(graph, node, insert(graph, node, A.mul.Tensor, x, factor))


_SOFTPLUS = (A.neg.default, A.sigmoid.default, A.log.default, A.neg.default)
FACTORS = {A.silu.default: (A.sigmoid.default,), A.mish.default: (*_SOFTPLUS, A.tanh.default)}
"""Activations that are a product of their input, and the operations that make the other factor of it."""


def separate_joins(graph: GraphModule) -> None:
    """Keep the ranges of the inputs of each operation in `JOINS`, in place.

    LiteRT's converter would give all inputs the scale of one of them or of the output and clip the others, such as the
    class token: the signal-to-noise ratio of pit_ti_224 was 12 instead of 26 dB. If all inputs are int8, so becomes the
    output, with the range of all inputs, or one that contains it if a reader has one. Otherwise the int8 inputs are
    multiplied by nearly 1, unless each reader quantizes the output. If one does, so are float inputs that other
    operations read: `maximum(x, 0.2 * x)` would multiply a clipped x.
    """
    for join in calls(graph, *JOINS):
        inputs = {value: _quantizer_behind(value) for value in _joined(join)}
        int8 = {value: quantizer for value, quantizer in inputs.items() if quantizer is not None}
        ranges = [quantizer for user in join.users if user.target is QUANTIZE and (quantizer := quantizer_of(user))]
        has_range = len(ranges) == len(join.users)
        if not has_range and len(int8) == len(inputs):
            again = _insert_quantizer(graph, join.next, join, _common_grid([*int8.values()], ranges))
            join.replace_all_uses_with(again, delete_user_cb=lambda user, again=again: user is not again.args[0])
            continue
        clipped = [] if has_range else [*int8]
        if _is_quantized(join):
            clipped += [value for value in inputs if value not in int8 and len(value.users) > 1]
        for value in clipped:
            join.replace_input_with(value, nearly(graph, join, value))


def _is_quantized(value: Node, passed: Set[Any] = JOINS | VIEWS) -> bool:
    """Whether a value, or what operations in `passed` make of it, is quantized."""
    return any(
        user.target is QUANTIZE or (user.target in passed and _is_quantized(user, passed)) for user in value.users
    )


def _joined(join: Node) -> Sequence[Any]:
    """The values that an operation in `JOINS` joins."""
    values: Any = join.args[-2:] if isinstance(join.args[0], Node) else join.args[0]
    return [value for value in values if isinstance(value, Node)]


def separate_poolings(graph: GraphModule) -> None:
    """Keep the ranges of float values whose pooling is quantized, in place.

    LiteRT's converter moves the quantizer before the pooling, where it clips: averages have a narrower range, and
    others may read the value. The results of these poolings are multiplied by nearly 1.
    """
    for pool in calls(graph, *POOLINGS):
        source = operand(pool)
        is_clipped = pool.target in AVERAGES or len(source.users) > 1
        if is_clipped and _quantizer_behind(source) is None and _is_quantized(pool):
            separate(graph, pool)


def requantize_paddings(graph: GraphModule) -> None:
    """Put Q/DQ between the padding and the averaging of each int8 average pooling, in place.

    The values don't change. LiteRT's converter would move the quantizer after the pooling, whose range is narrower,
    to its input, where it clips.
    """
    for pool in calls(graph, A.avg_pool2d.default):
        padded = _explicit_padding(graph, pool)
        quantizer = quantizer_of(padded.args[0]) if padded.target is A.pad.default else None
        if quantizer is not None:
            pool.args = (_insert_quantizer(graph, pool, padded, quantizer.grid), *pool.args[1:])


def _explicit_padding(graph: GraphModule, pool: Node) -> Node:
    """Split the padding that an average pooling counts from the pooling; return the pooling's input."""
    source: Node = pool.args[0]  # type: ignore[assignment]
    height, width = pair(argument(pool, 3, 0))
    rounded_up, counted, divisor = (
        argument(pool, place, default) for place, default in ((4, False), (5, True), (6, None))
    )
    if (height, width) == (0, 0) or rounded_up or not counted or divisor:
        return source
    padded = insert(graph, pool, A.pad.default, source, [width, width, height, height])
    pool.args = (padded, *pool.args[1:3])
    return padded


def separate_paddings(graph: GraphModule) -> None:
    """Keep each padding with a constant outside of its input's range in float, in place."""
    for pad in calls(graph, A.pad.default):
        quantizer = _quantizer_behind(operand(pad))
        if quantizer is not None and not quantizer.represents(number(argument(pad, 3) or 0)):
            _read_in_float(graph, pad)


def separate_float_layers(graph: GraphModule) -> None:
    """Keep layers in float whose weights are float between INT8 values, in place.

    LiteRT's converter would quantize their weights.
    """
    for layer in calls(graph, *LAYERS):
        source = source_of(operand(layer), VIEWS | {A.pad.default})
        in_float = operand(layer, 1).target is not DEQUANTIZE_CHANNELS
        if in_float and source.target is DEQUANTIZE and _is_quantized(layer, AROUND_LAYERS):
            _read_in_float(graph, layer)


def _read_in_float(graph: GraphModule, node: Node) -> None:
    """Let a node read a leaky ReLU of its input with a slope of nearly 1, which LiteRT's converter leaves in float.

    It would fold a product or a sum into the weights.
    """
    node.args = (insert(graph, node, A.leaky_relu.default, node.args[0], NEARLY_ONE), *node.args[1:])


def separate_quantizers(graph: GraphModule) -> None:
    """Keep the converter from moving quantizers to where they do harm, in place.

    LiteRT's converter moves a quantizer to the value that the views before it rearrange. If that is a softmax, it takes
    an INT8 kernel, which refuses every range except [0, 1). If a view takes a part of the value, all other parts, such
    as the class token, are clipped to the range of this one: coat_lite_tiny had 6 instead of 16 dB.
    """
    for quantizer in quantizers(graph):
        node, value = quantizer.node, quantizer.source
        source = source_of(value)
        if source.target is A.softmax.int or (source.target is not DEQUANTIZE and _takes_a_part(value)):
            node.args = (nearly(graph, node, value), *node.args[1:])


SCALE_WORKAROUNDS = (
    concatenate_stacks,
    spell_out_branches,
    drop_clamps,
    multiply_by_factors,
    separate_joins,
    separate_poolings,
    separate_paddings,
    requantize_paddings,
    separate_float_layers,
    separate_quantizers,
)
"""The rewrites of an INT8 graph, in order."""


def _takes_a_part(value: Any) -> bool:
    """Whether the views that make a value leave out a part of their source that others read."""
    while value.target in VIEWS:
        view, value = value, value.args[0]
        if view.target in PARTS and len(value.users) > 1:
            return True
    return False


def _insert_quantizer(graph: GraphModule, before: Node, value: Node, grid: Grid) -> Node:
    """Insert Q/DQ of a value before a node; return the DQ."""
    return insert(graph, before, DEQUANTIZE, insert(graph, before, QUANTIZE, value, *grid), *grid)


def _quantizer_behind(value: Any) -> Quantizer | None:
    """The quantizer of a value, if the value is only rearranged after that; else None."""
    source = source_of(value)
    return quantizer_of(source) if source.target is DEQUANTIZE else None


def _common_grid(int8: Sequence[Quantizer], known: Sequence[Quantizer]) -> Grid:
    """The grid that represents the values of all these quantizers: the first known one that does, or a new one."""
    lows, highs = zip(*(quantizer.representable_range for quantizer in int8), strict=True)
    low, high, first = min(lows), max(highs), int8[0]
    for quantizer in known:
        if quantizer.representable_range[0] <= low and high <= quantizer.representable_range[1]:
            return quantizer.grid
    scale = (high - low) / (first.high - first.low)
    return scale, round(first.low - low / scale), first.low, first.high, first.dtype


HALVES = b"fp16accfp16"
"""Value of the metadata that lets XNNPACK compute float layers in f16 where the processor has it natively."""


class Backend:
    """Compiler for LiteRT; tflite-runtime 2.14 also loads its files.

    The float layers of an INT8 file run in f16 on Arm cores that support it, such as the Raspberry Pi 5's, and in f32
    elsewhere. In f16, convnextv2_atto needs 96 million instructions there instead of 122, and loses 0.3 dB. A float
    file for such cores offers to run in f16.
    """

    def compile(self, graph: GraphModule, folder: Path, metadata: Metadata, device_class: DeviceClass) -> Artifact:
        register_rewriters()
        keep_layout_marks()
        graph.training = False
        is_int8 = any("quantize" in str(node.target) for node in graph.graph.nodes)
        dynamic = take_dynamic(graph)
        for apply in WORKAROUNDS:
            apply(graph)
        for tensor in (*graph.parameters(), *graph.buffers()):
            # The converter frees its own contiguous copies before it reads them.
            tensor.data = tensor.data.contiguous()
        options: dict[str, Any] = {}
        weights: dict[Key, Levels] = {}
        extra = [(F16_OFFERED, HALVES)] if device_class.has_f16 else []
        if is_int8:
            # Without a quantization config the converter silently keeps every Q/DQ pair and folds none.
            config = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            quantizer = pt2e_quantizer.PT2EQuantizer().set_global(config)
            extra = [(F16, HALVES)]
            for apply in SCALE_WORKAROUNDS:
                apply(graph)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
            weights = take_weights(graph)
        multiply_expansions(graph)
        graph.recompile()
        example = example_input(graph)
        with compiler_errors("tflite"), decomposing_by_node():
            # Not assigned to a variable, so that the converter's model, with all weights in float, is freed.
            litert_torch.convert(compiled(graph), (example,), **options).export(str(folder / "model.tflite"))
        entries = [*entries_of(metadata).items(), *extra]
        image, logits, in_float = finish(folder / "model.tflite", entries, weights, dynamic)
        append_labels(folder / "model.tflite", metadata)
        return Artifact("model.tflite", ("model.tflite",), input_name=image, output_name=logits, float_layers=in_float)

    def replace_metadata(self, model_file: Path, metadata: Metadata) -> None:
        model = schema.ModelT.InitFromPackedBuf(np.fromfile(model_file, np.uint8))
        entries = entries_of(metadata)
        for entry in model.metadata:
            if entry.name in entries:
                model.buffers[entry.buffer].data = list(entries[entry.name])
        model_file.write_bytes(packed(model, model_file.stat().st_size))
        append_labels(model_file, metadata)


def entries_of(metadata: Metadata) -> dict[bytes, bytes]:
    """The metadata inside a flatbuffer by name: edgekit's own, and the standard one."""
    return {b"edgekit": metadata.own().encode(), b"TFLITE_METADATA": standard(metadata)}
