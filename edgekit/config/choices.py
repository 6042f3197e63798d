"""Names to choose from: precisions and INT8 schemes of bundles, filters that resize images, and meanings of outputs."""

from typing import Literal, get_args

Precision = Literal["float", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Scheme = Literal["w8a8", "w8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""INT8 schemes: "w8a8" quantizes weights and activations, "w8" quantizes only the weights and computes in float."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names of Pillow's filters, as `--interpolation` and a bundle's manifest give them."""
CROP_MODES = ("center", "squash", "border")
"""Ways to fit images of another aspect ratio, as `--crop-mode` and a bundle's manifest give them."""

TASKS = ("single-label", "multi-label", "embedding")
"""Names of the tasks, as `--task` and a bundle's manifest give them."""
Labelling = Literal["one", "several", "optional"]
"""Labels of each image of a set: one, at least one, or one if the set has labels at all."""
Activation = Literal["softmax", "sigmoid", "normalize", "none"]
"""What turns a model's outputs into scores of classes, or into a vector of length 1; "none" leaves them as they are."""
