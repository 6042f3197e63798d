"""litert-torch: rewriters for its layout pass, and lowerings that conversions share."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.pass_body import OptimizeLayoutTransposesPass
from litert_torch.backend.jax_bridge import _wrap
from torch import ops
from torch.fx import Graph, Node

from edgekit.support.bounded import Bounded
from edgekit.support.libraries import replaces_library

insert_t_q_dq = OptimizeLayoutTransposesPass.insert_t_q_dq
"""The converter's own method."""
PAD = ops.aten.constant_pad_nd.default
REPEAT = ops.aten.repeat.default
SHARED = 1024
"""Number of lowered operations that are kept. Each takes about a kilobyte."""


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


def share_lowerings() -> None:
    """Let all conversions of this process share what JAX lowers an operation to. A second call changes nothing.

    Checked with litert-torch 0.10.0, which traces an operation with JAX and serializes the result once for each
    conversion, shape and arguments. That is a quarter of the time of a small network, and the float and the INT8 file
    have most operations in common. The two functions that are replaced are private and global to the process.
    """
    if not isinstance(_wrap._lower_to_ir_text, _SharedTexts):
        _wrap._lower_to_ir_text = _SharedTexts(_wrap._lower_to_ir_text)
        _wrap._stablehlo_to_vhlo = lru_cache(SHARED)(_wrap._stablehlo_to_vhlo)


class _SharedTexts:
    """The converter's function that lowers a JAX function, with the texts of the last `SHARED` calls."""

    def __init__(self, lower: Callable[..., Any]) -> None:
        self._lower = lower
        self._texts: Bounded[Any, str] = Bounded(SHARED)

    @replaces_library
    def __call__(self, function: Any, args: Any, kwargs: Any, ir_input_names: Any = None) -> Any:
        """(function that returns the StableHLO text, inputs), as the converter's function returns them."""
        make, inputs = self._lower(function, args, kwargs, ir_input_names=ir_input_names)
        fingerprint = _wrap.get_cache_fingerprint(function, args, kwargs)
        if fingerprint is None:  # an argument has no hash
            return make, inputs
        key = fingerprint, repr(fingerprint)  # 1, 1.0 and True are equal, but don't read the same

        @replaces_library
        def text() -> str:
            known = self._texts.get(key)
            if known is None:
                known = self._texts[key] = make()
            return known

        return text, inputs
