"""Finds layers that a runtime's INT8 kernels compute wrongly. They stay in float."""

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, argument, layer_name, pair, shape_of

_AMX_BYTES = 64
"""Bytes in a row of AMX's tiles."""


def miscomputed_layers(graph: GraphModule, target: str) -> tuple[str, ...]:
    """Names of the layers whose INT8 results would be wrong on some processor that the runtime supports.

    On processors with AMX, OpenVINO 2026.4 computes two kinds of convolutions of few input channels wrongly, in
    oneDNN's kernel brgconv_avx512_amx:

    - with wide strides: the signal-to-noise ratio of a 4x4 convolution of 32 channels with stride 4 was -6 dB, and that
      of pvt_v2_b0 3 instead of 27 dB;
    - in groups of less than 32 channels, if the rows of a kernel don't fit into a tile's, or a group has more than 32
      outputs: that of a 3x3 convolution in groups of 24 channels was 8 dB, and that of cpubone_nano 0 instead of 17 dB.

    The rules were found by trying about 200 shapes, and match some that came out right.
    """
    if target != "openvino":
        return ()
    return tuple(layer_name(node) for node in graph.graph.nodes if _is_miscomputed_with_amx(node))


def _is_miscomputed_with_amx(node: Node) -> bool:
    if node.target is not A.conv2d.default:
        return False
    (outputs, channels, _, width), groups = shape_of(node.args[1]), argument(node, 6, 1)
    row = width * channels
    if groups > 1:
        return channels < _AMX_BYTES // 2 and (row > _AMX_BYTES or outputs // groups > _AMX_BYTES // 2)
    _, stride = pair(argument(node, 3, 1))
    _, padding = pair(argument(node, 4, 0))
    return stride >= 4 and padding == 0 and channels < _AMX_BYTES < row and row % _AMX_BYTES == 0
