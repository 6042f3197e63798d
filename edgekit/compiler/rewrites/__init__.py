"""Rewrites of the exported graph: small passes that recipes enable by name, with the same outputs as torch.

Those in `APPROXIMATE` approximate, all others are exact up to rounding. Each pass changes the graph in place and
returns the number of places that it changed; `rewrite` then removes nodes without users. The recipes document the
measurements that justify the passes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from edgekit.compiler.graph import copy_sharing, refresh
from edgekit.compiler.rewrites import layout, norms
from edgekit.compiler.rewrites.layout import ConvolutionShape
from edgekit.errors import ProfileError

__all__ = ["APPROXIMATE", "REWRITES", "ConvolutionShape", "Rewritten", "rewrite", "weights_after"]

REWRITES: dict[str, Callable[[GraphModule], int]] = {
    "layer-scale": norms.fold_layer_scale,
    "layer-norm-affine": norms.fold_layer_norm_affine,
    "response-norm": norms.fold_response_norm,
    "centred-layer-norm": norms.centre_before_layer_norm,
    "channels-last": layout.channels_last,
    "patch-linear": layout.patch_linear,
    "image-patch-linear": layout.image_patch_linear,
    "channels-first": layout.channels_first,
    "channels-first-layer-norm": layout.channels_first_layer_norm,
    "rows-layer-norm": norms.rows_layer_norm,
    "vector-norm-sum": norms.vector_norm_sum,
    "vector-norm-mean": norms.vector_norm_mean,
    "vector-norm-matmul": norms.vector_norm_matmul,
    "depth-multiplier": layout.depth_multiplier,
    "depthwise-blocks": layout.depthwise_blocks,
    "split-depthwise": layout.split_depthwise,
    "split-depthwise-in-three": layout.split_depthwise_in_three,
    "plain-layer-norm": norms.plain_layer_norm,
    "half-precision-layer-norm": norms.half_precision_layer_norm,
    "coarse-polynomial-gelu": norms.coarse_polynomial_gelu,
    "polynomial-gelu": norms.polynomial_gelu,
    "tanh-gelu": norms.tanh_gelu,
}

APPROXIMATE = {"coarse-polynomial-gelu", "polynomial-gelu", "tanh-gelu"}
"""Passes that are not exact up to rounding. They come last."""


def weights_after(names: Collection[str], shape: ConvolutionShape) -> int | None:
    """Number of weights that the named passes give a convolution; None if they keep the number."""
    return layout.weights_on_blocks(shape) if "depthwise-blocks" in names else None


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and the number of places that each pass changed."""

    graph: GraphModule
    counts: Mapping[str, int]
    """Number of places that each named pass changed, in the order of application; 0 if it matched nothing."""


def rewrite(graph: GraphModule, names: Iterable[str]) -> Rewritten:
    """Apply the named passes to a copy of the graph, which shares its tensors, always in the order of `REWRITES`.

    Raises ProfileError for an unknown name.
    """
    wanted = set(names)
    if unknown := wanted - REWRITES.keys():
        raise ProfileError(f"unknown rewrite {', '.join(sorted(unknown))}", valid=", ".join(REWRITES))
    graph = copy_sharing(graph)
    counts = {}
    for name, apply in REWRITES.items():
        if name in wanted:
            counts[name] = apply(graph)
            refresh(graph)
    return Rewritten(graph, counts)
