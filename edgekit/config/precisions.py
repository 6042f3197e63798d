"""The precisions and INT8 schemes of a bundle."""

from typing import Literal, get_args

Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Scheme = Literal["w8a8", "w8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""What int8 is in an int8 bundle: weights and activations, or weights alone, computed with in float."""
