"""Rounds weights to 4 bits in edgekit's own fit, layer by layer."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from edgekit.compiler.layers import DenseLayer, distinct_names
from edgekit.compiler.quantize.fit import Rounding, Walk
from edgekit.compiler.quantize.gptq import PERCDAMP, Compensation, round_levels

LOW, HIGH = -8, 7
CLIPS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of a channel's largest weight that the highest level may stand for."""
PASSES = 4
"""Passes of the coordinate descent over all weights of a layer."""


@dataclass(frozen=True)
class Method:
    """How a fitted layer is rounded to 4 bits."""

    clips: tuple[float, ...]
    """The clipping with the smallest error of the layer's outputs is chosen for each channel."""
    gptq: bool
    """Whether GPTQ rounds the weights; otherwise each goes to the nearest level."""
    descent: bool = False
    """Whether coordinate descent (COMQ, arXiv 2403.07134) improves levels and scales."""


METHODS = {
    "nearest": Method((1.0,), gptq=False),
    "gptq": Method((1.0,), gptq=True),
    "gptq-clip": Method(CLIPS, gptq=True),
    "gptq-clip-descent": Method(CLIPS, gptq=True, descent=True),
}


class FourBitWalk(Walk):
    """Fits the weights of a Q/DQ graph, and gives some layers 16 levels. The others stay in 8 bits."""

    def __init__(
        self, graph: GraphModule, samples: Sequence[NDArray[np.float32]], layers: Collection[str], method: Method
    ) -> None:
        super().__init__(graph, samples)
        self._names, self._layers, self._method = distinct_names(graph), layers, method

    def rounding(self, layer: DenseLayer, best: Tensor, covariance: Tensor | None, limits: tuple[int, int]) -> Rounding:
        """The method's rounding for the layers in 4 bits, and the fit's own for the others."""
        if covariance is None or self._names[layer.node] not in self._layers:
            return super().rounding(layer, best, covariance, limits)
        return lambda scales, _: round_to_four_bits(best, covariance, scales, self._method)


def round_to_four_bits(best: Tensor, covariance: Tensor, smallest: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """Levels [groups,out,in] and scales [groups,out], at least `smallest`, of a weight [groups,out,in], all float64."""
    damped = covariance.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal.add_(PERCDAMP * diagonal.mean(1, keepdim=True) + 1e-30)
    rounded = _rounding(best, covariance, method)
    levels, scales, least = torch.zeros_like(best), smallest.clone(), torch.full_like(smallest, torch.inf)
    for clip in method.clips:
        tried = torch.maximum(clip * best.abs().amax(2) / HIGH, smallest).float().double()
        new = rounded(tried)
        missing = best - new * tried[:, :, None]
        error = ((missing @ damped) * missing).sum(2)
        better = error < least
        least = torch.where(better, error, least)
        levels, scales = torch.where(better[:, :, None], new, levels), torch.where(better, tried, scales)
    return _descend(best, damped, levels, scales) if method.descent else (levels, scales)


def _rounding(best: Tensor, covariance: Tensor, method: Method) -> Callable[[Tensor], Tensor]:
    """Returns levels [groups,out,in] for scales [groups,out]."""
    if not method.gptq:
        return lambda scales: (best / scales[:, :, None]).round().clamp(LOW, HIGH)
    compensation = Compensation.of(covariance, list(best.shape))
    return lambda scales: round_levels(best, compensation, scales, LOW, HIGH)


def _descend(best: Tensor, covariance: Tensor, levels: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Give one input's levels after another the values with the smallest error of the outputs, then the scales."""
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    for _ in range(PASSES):
        missing = (best - levels * scales[:, :, None]) @ covariance
        for column in diagonal[0].argsort(descending=True).tolist():
            exact = levels[:, :, column] + missing[:, :, column] / (diagonal[:, None, column] * scales)
            new = exact.round().clamp(LOW, HIGH)
            change = (new - levels[:, :, column]) * scales
            missing -= change[:, :, None] * covariance[:, None, column]
            levels[:, :, column] = new
        product = levels @ covariance
        own = (product * levels).sum(2)
        fitted = (product * best).sum(2) / own
        scales = torch.where((own > 0) & (fitted > scales / 2), fitted, scales).float().double()
    return levels, scales
