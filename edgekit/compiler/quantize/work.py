"""Estimates of the work to find ranges and to round weights, by which a calibration reports its progress.

The unit is that of `node_work`. The factors come from the CPU time of ResNet-18, ViT Tiny, and ConvNeXt V2 Atto and
Nano. They affect progress bars, and nothing else.
"""

from edgekit.compiler.graph import shape_of
from edgekit.compiler.layers import DenseLayer
from edgekit.compiler.quantize.rows import most_rows, positions_of

SAMPLED = 2e7
"""Work for the histogram of one activation of one image."""
NARROWED = 3e8
"""Work to find the range of an activation in its histogram."""
COLUMN = 3e6
"""Work to round a column of a weight, however small, in addition to its multiply-accumulates."""


def hessian_work(layer: DenseLayer, images: int) -> float:
    """Work to add this many images to the Hessian of a layer's inputs."""
    return _rows(layer, images) * layer.inputs**2


def gptq_work(layer: DenseLayer, weights: int = 1) -> float:
    """Work to round this many weights of a layer with one Hessian."""
    return 3 * layer.groups * layer.inputs**3 + weights * _rounding(layer)


def fit_work(layer: DenseLayer, images: int, weights: int = 1) -> float:
    """Work to fit a layer to this many images, and to round this many weights of it."""
    inputs = layer.inputs
    rows = _rows(layer, images)
    decompositions = 0.7 * layer.groups * inputs**3 + 6 * shape_of(layer.weight)[0] * inputs**2
    return 3 * layer.groups * rows * inputs**2 + decompositions + weights * _rounding(layer)


def _rounding(layer: DenseLayer) -> float:
    """Work to round one weight of a layer after its Hessian has been decomposed."""
    return layer.inputs * COLUMN + 2.5 * shape_of(layer.weight)[0] * layer.inputs**2


def _rows(layer: DenseLayer, images: int) -> int:
    """Number of rows of this many images that a layer's second moments are estimated from."""
    return min(images * positions_of(layer), most_rows(layer.inputs))
