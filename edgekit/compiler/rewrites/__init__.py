"""Rewrites of the exported graph: small passes that recipes enable by name, with the same outputs as torch.

Those in `APPROXIMATE` approximate, all others are exact up to rounding. Each pass changes the graph in place and
returns the number of places that it changed; `rewrite` then removes nodes without users. The recipes document the
measurements that justify the passes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from edgekit.compiler.graph import copy_sharing, refresh
from edgekit.compiler.rewrites.affine import fold_layer_norm_affine, fold_layer_scale
from edgekit.compiler.rewrites.channels import channels_first, channels_first_layer_norm, channels_last
from edgekit.compiler.rewrites.depthwise import (
    ConvolutionShape,
    depthwise_blocks,
    split_depthwise,
    split_depthwise_in_three,
    weights_on_blocks,
)
from edgekit.compiler.rewrites.gelu import coarse_polynomial_gelu, polynomial_gelu, tanh_gelu
from edgekit.compiler.rewrites.layer_norm import (
    centre_before_layer_norm,
    half_precision_layer_norm,
    plain_layer_norm,
    rows_layer_norm,
)
from edgekit.compiler.rewrites.patches import image_patch_linear, patch_linear
from edgekit.compiler.rewrites.response_norm import (
    fold_response_norm,
    vector_norm_matmul,
    vector_norm_mean,
    vector_norm_sum,
)
from edgekit.errors import ProfileError

__all__ = ["APPROXIMATE", "PASSES", "ConvolutionShape", "Rewritten", "rewrite", "weights_after"]

PASSES: dict[str, Callable[[GraphModule], int]] = {
    "layer-scale": fold_layer_scale,
    "layer-norm-affine": fold_layer_norm_affine,
    "response-norm": fold_response_norm,
    "centred-layer-norm": centre_before_layer_norm,
    "channels-last": channels_last,
    "patch-linear": patch_linear,
    "image-patch-linear": image_patch_linear,
    "channels-first": channels_first,
    "channels-first-layer-norm": channels_first_layer_norm,
    "rows-layer-norm": rows_layer_norm,
    "vector-norm-sum": vector_norm_sum,
    "vector-norm-mean": vector_norm_mean,
    "vector-norm-matmul": vector_norm_matmul,
    "depthwise-blocks": depthwise_blocks,
    "split-depthwise": split_depthwise,
    "split-depthwise-in-three": split_depthwise_in_three,
    "plain-layer-norm": plain_layer_norm,
    "half-precision-layer-norm": half_precision_layer_norm,
    "coarse-polynomial-gelu": coarse_polynomial_gelu,
    "polynomial-gelu": polynomial_gelu,
    "tanh-gelu": tanh_gelu,
}

APPROXIMATE = {"coarse-polynomial-gelu", "polynomial-gelu", "tanh-gelu"}
"""Passes that are not exact up to rounding. They come last."""


def weights_after(names: Collection[str], shape: ConvolutionShape) -> int | None:
    """Number of weights that the named passes give a convolution; None if they keep the number."""
    return weights_on_blocks(shape) if "depthwise-blocks" in names else None


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and the number of places that each pass changed."""

    graph: GraphModule
    counts: Mapping[str, int]
    """Number of places that each named pass changed, in the order of application; 0 if it matched nothing."""


def rewrite(graph: GraphModule, names: Iterable[str]) -> Rewritten:
    """Apply the named passes to a copy of the graph, which shares its tensors, always in the order of `PASSES`.

    Raises ProfileError for an unknown name.
    """
    wanted = set(names)
    if unknown := wanted - PASSES.keys():
        raise ProfileError(f"unknown rewrite {', '.join(sorted(unknown))}", valid=", ".join(PASSES))
    graph = copy_sharing(graph)
    counts = {}
    for name, apply in PASSES.items():
        if name in wanted:
            counts[name] = apply(graph)
            refresh(graph)
    return Rewritten(graph, counts)
