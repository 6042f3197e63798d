"""Names to choose from: the precisions and INT8 schemes of bundles, and the filters that resize images."""

from typing import Literal, get_args

Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Scheme = Literal["w8a8", "w8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""INT8 schemes: "w8a8" quantizes weights and activations, "w8" quantizes only the weights and computes in float."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names of Pillow's filters, as `--interpolation` and a bundle's manifest give them."""
