"""The filters that resize images."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names of Pillow's filters, as `--interpolation` and a bundle's manifest give them."""
