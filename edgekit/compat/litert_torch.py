"""litert-torch: rewriters and a repair for its layout pass."""

from functools import wraps
from typing import Any

from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.pass_body import OptimizeLayoutTransposesPass
from torch import ops
from torch.fx import Graph, Node

from edgekit.support.libraries import replaces_library

insert_t_q_dq = OptimizeLayoutTransposesPass.insert_t_q_dq
"""The converter's own method."""
PAD = ops.aten.constant_pad_nd.default
REPEAT = ops.aten.repeat.default


def register_rewriters() -> None:
    """Let the converter compute `constant_pad_nd` and `repeat` channels last. A second call changes nothing.

    Checked with litert-torch 0.10.0. Its layout pass has no rewriter for paddings, and puts two transposes around each
    that is between INT8 layers; one of a later version stays in place. It takes `repeat` for an operation that doesn't
    depend on the order of the axes, and repeats along others. The registry is a private module and global to the
    process.
    """
    if PAD not in rewriters:
        rewriters.register(PAD)(pad_channels_last)
    rewriters.register(REPEAT)(repeat_channels_last)


def pad_channels_last(node: Node) -> None:
    """Reorder the pads of (width, height, channel, batch) to (channel, width, height, batch), in place."""
    x, pads, *value = node.args
    image, channels, batch = pads[:4], pads[4:6], pads[6:]  # type: ignore[index]
    node.args = (x, [*(channels or (0, 0)), *image, *batch], *value)  # type: ignore[misc]


def repeat_channels_last(node: Node) -> None:
    """Reorder the repeats of (batch, channel, height, width) to (batch, height, width, channel), in place."""
    batch, channel, *image = node.args[1]  # type: ignore[misc, str-unpack]
    node.args = (node.args[0], [batch, *image, channel])


def keep_layout_marks() -> None:
    """Let each reader of a DQ have it in the order of axes that it needs. A second call changes nothing.

    Checked with litert-torch 0.10.0. Where its layout pass puts a transpose between a DQ and a reader, it gives the DQ
    the mark of the transposed value, so that the next reader gets it in the wrong order: an activation such as
    `threshold`, which becomes two operations, then computes wrong values where H, W and C are equal, and is an error
    elsewhere. The method that is replaced belongs to a private class, and the change is global to the process.
    """
    if insert_t_q_dq is not OptimizeLayoutTransposesPass.insert_t_q_dq:
        return

    @wraps(insert_t_q_dq)
    @replaces_library
    def keeping(self: Any, graph: Graph, input_dq: Node, *args: Any) -> Any:
        meta = input_dq.meta
        inserted = insert_t_q_dq(self, graph, input_dq, *args)
        input_dq.meta = meta
        return inserted

    OptimizeLayoutTransposesPass.insert_t_q_dq = keeping
