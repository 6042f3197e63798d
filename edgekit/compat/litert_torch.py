"""litert-torch: a rewriter for padding, which its layout pass lacks."""

from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
from torch import ops
from torch.fx import Node

PAD = ops.aten.constant_pad_nd.default


def register_padding() -> None:
    """Let the converter compute `constant_pad_nd` channels last. A second call changes nothing.

    Checked with litert-torch 0.10.0, which has no such rewriter. If a later version has one, it stays in place. The
    registry is a private module and global to the process. Without the rewriter, the converter puts two transposes
    around each padding between INT8 layers.
    """
    if PAD not in rewriters:
        rewriters.register(PAD)(pad_channels_last)


def pad_channels_last(node: Node) -> None:
    """Reorder the pads of (width, height, channel, batch) to (channel, width, height, batch), in place."""
    x, pads, *value = node.args
    image, channels, batch = pads[:4], pads[4:6], pads[6:]  # type: ignore[index]
    node.args = (x, [*(channels or (0, 0)), *image, *batch], *value)  # type: ignore[misc]
