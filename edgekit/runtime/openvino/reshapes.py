"""Repairs of reshapes in OpenVINO's models."""

import numpy as np

from edgekit.compat.openvino import openvino

ops = openvino.opset13

_LOWEST = np.finfo(np.float32).min


def shield_reshapes(model: openvino.Model) -> int:
    """Compare the result of a product that only gets further axes of one with a number that changes nothing, in place.

    OpenVINO 2026.4 fails to load an INT8 product of three or more axes, without a bias, before a reshape from
    [1,24,16] to [1,24,16,1]: it moves the scales of the channels behind the reshape, to the wrong axis. Returns how
    many it shielded.
    """
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Reshape", "Unsqueeze"):
            continue
        source, shape = node.input_value(0), list(node.get_output_shape(0))
        before = list(node.get_input_shape(0))
        if source.get_node().get_type_name() == "MatMul" and shape == before + [1] * (len(shape) - len(before)):
            node.input(0).replace_source_output(ops.maximum(source, ops.constant(_LOWEST)).output(0))
            count += 1
    return count
