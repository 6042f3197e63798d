"""Rewrites of operations in OpenVINO's models that it refuses or computes wrongly."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.compat.openvino import openvino

ops = openvino.opset13

_SAME = {
    f"Reduce{kind}": getattr(ops, f"reduce_{kind.lower()}")
    for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum")
}
"""Reductions whose result over all axes at once equals the result over one axis after the other."""
_LIMITS = np.finfo(np.float32)
_EXTREMES = {"ReduceMax": (ops.maximum, _LIMITS.min), "ReduceMin": (ops.minimum, _LIMITS.max)}
"""Reductions to one of their values, with the operation of two values and the one that it never returns."""


def split_reductions(model: openvino.Model) -> int:
    """Replace each reduction over several constant axes by one per axis, in place; returns how many it replaced.

    OpenVINO for Arm splits them itself when it loads a model, but reads the axes as integers of the wrong width and so
    sometimes refuses the model ("Axis 139814070386691 out of the tensor rank range"). It doesn't touch reductions over
    one axis. A reshape between two of them prevents OpenVINO from merging them again. On x86, one reduction is faster.
    """
    count = 0
    for node in _nodes(model, *_SAME):
        axes = node.input_value(1).get_node()
        if axes.get_type_name() != "Constant" or axes.data.size < 2:
            continue
        value, shape = node.input_value(0), list(node.get_input_shape(0))
        reduce = _SAME[node.get_type_name()]
        for axis in sorted((int(axis) % len(shape) for axis in axes.data.ravel()), reverse=True):
            del shape[axis]
            reduced = reduce(value, ops.constant([axis], dtype="int64"), True)
            value = ops.reshape(reduced, ops.constant(shape, dtype="int64"), False).output(0)
        whole = ops.reshape(value, ops.constant(list(node.get_output_shape(0)), dtype="int64"), False)
        whole.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(whole.output(0))
        count += 1
    return count


def shield_extremes(model: openvino.Model) -> int:
    """Compare the result of each maximum and minimum over axes with a number that changes nothing, in place.

    Checked with OpenVINO 2026.4 on x86: a reduction that also quantizes its result computes wrong values. A network
    with average and maximum pooling in its head had a signal-to-noise ratio of 16 instead of 42 dB. Comparisons aren't
    merged with a reduction. Returns how many it shielded.
    """
    count = 0
    for node in _nodes(model, *_EXTREMES):
        if node.get_output_element_type(0) == openvino.Type.f32:
            compare, never = _EXTREMES[node.get_type_name()]
            readers = list(node.output(0).get_target_inputs())
            shielded = compare(node, ops.constant(never))
            for reader in readers:
                reader.replace_source_output(shielded.output(0))
            count += 1
    return count


def shield_reshapes(model: openvino.Model) -> int:
    """Compare the result of a product that only gets further axes of one with a number that changes nothing, in place.

    OpenVINO 2026.4 fails to load an INT8 product of three or more axes, without a bias, before a reshape from
    [1,24,16] to [1,24,16,1]: it moves the scales of the channels behind the reshape, to the wrong axis. Returns how
    many it shielded.
    """
    count = 0
    for node in _nodes(model, "Reshape", "Unsqueeze"):
        source, shape = node.input_value(0), list(node.get_output_shape(0))
        before = list(node.get_input_shape(0))
        if source.get_node().get_type_name() == "MatMul" and shape == before + [1] * (len(shape) - len(before)):
            node.input(0).replace_source_output(ops.maximum(source, ops.constant(_LIMITS.min)).output(0))
            count += 1
    return count


def _nodes(model: openvino.Model, *kinds: str) -> Iterator[Any]:
    return (node for node in model.get_ordered_ops() if node.get_type_name() in kinds)
