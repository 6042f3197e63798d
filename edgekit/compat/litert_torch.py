"""litert-torch: its layout pass, taught a padding that it lacks."""

from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
from torch import ops
from torch.fx import Node

PAD = ops.aten.constant_pad_nd.default


def register_padding() -> None:
    """Let the converter compute `constant_pad_nd` channels last; a second call changes nothing.

    Checked with litert-torch 0.10.0, which has no such rewriter; one of a later version is left in place. The registry
    is a private module and global in the process. Without the rewriter two transposes stand around each padding
    between INT8 layers.
    """
    if PAD not in rewriters:
        rewriters.register(PAD)(pad_channels_last)


def pad_channels_last(node: Node) -> None:
    """Turn the pads of (width, height, channel, batch) into those of (channel, width, height, batch), in place."""
    x, pads, *value = node.args
    image, channels, batch = pads[:4], pads[4:6], pads[6:]  # type: ignore[index]
    node.args = (x, [*(channels or (0, 0)), *image, *batch], *value)  # type: ignore[misc]
