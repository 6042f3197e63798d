"""Lowerings for OpenVINO, which a recipe may name, and layers that it would compute wrongly."""

from collections.abc import Mapping
from typing import Any

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, layer_name, shape_of
from edgekit.compiler.layers import dense_layer
from edgekit.compiler.placement import Lowering, RuntimeLowering
from edgekit.runtime.openvino.engine import GROUP, NATIVE

_AMX_BYTES = 64
"""Bytes in a row of AMX's tiles."""
_GROUP = 128
"""Values of a row that share a range at run time. OpenVINO computes layers of fewer inputs in float. Groups of 32 take
a third longer and those of 384 lose 2 dB (DINOv2 ViT-S on Zen 5)."""


def miscomputed_layers(graph: GraphModule) -> tuple[str, ...]:
    """Names of the layers whose INT8 results would be wrong on some processor that OpenVINO supports.

    On processors with AMX, OpenVINO 2026.4 computes two kinds of convolutions of few input channels wrongly, in
    oneDNN's kernel brgconv_avx512_amx:

    - with wide strides: the signal-to-noise ratio of a 4x4 convolution of 32 channels with stride 4 was -6 dB, and that
      of pvt_v2_b0 3 instead of 27 dB;
    - in groups of less than 32 channels, if the rows of a kernel don't fit into a tile's, or a group has more than 32
      outputs: that of a 3x3 convolution in groups of 24 channels was 8 dB, and that of cpubone_nano 0 instead of 17 dB.

    The rules were found by trying about 200 shapes, and match some that came out right.
    """
    return tuple(layer_name(node) for node in graph.graph.nodes if _is_miscomputed_with_amx(node))


def _is_miscomputed_with_amx(node: Node) -> bool:
    layer = dense_layer(node)
    if layer is None or not layer.is_conv:
        return False
    outputs, channels, _, width = shape_of(layer.weight)
    row = width * channels
    if layer.groups > 1:
        return channels < _AMX_BYTES // 2 and (row > _AMX_BYTES or outputs // layer.groups > _AMX_BYTES // 2)
    _, stride = layer.stride
    _, padding = layer.padding
    return stride >= 4 and padding == 0 and channels < _AMX_BYTES < row and row % _AMX_BYTES == 0


def queries_and_keys(graph: GraphModule) -> Mapping[Node, tuple[Any, ...]]:
    """Queries and keys of each attention. OpenVINO has one operation for it, which only gains if both are INT8."""
    nodes = graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    return {node: node.args[:2] for node in nodes}


LOWERING = RuntimeLowering(
    named={
        "int8-attention": Lowering(
            "Queries and keys of attention are INT8, in one operation of OpenVINO that is faster on x86 with both.",
            symmetric_inputs=queries_and_keys,
            scheme="int8 queries and keys of attention",
        ),
        "native-float": Lowering(
            "What stays in float is computed in bf16 on x86 processors that have it, where OpenVINO would choose that.",
            scheme="the rest in bf16 where the processor has it",
            session={"inference_precision": NATIVE},
        ),
        "dynamic": Lowering(
            f"Inputs of dynamic layers become INT8 at run time, with one range for {_GROUP} values of a row.",
            least_inputs=_GROUP,
            scheme="inputs of dynamic layers with ranges at run time",
            session={GROUP: str(_GROUP)},
        ),
    },
    miscomputed_layers=miscomputed_layers,
)
"""Lowerings of OpenVINO, for quantization."""
