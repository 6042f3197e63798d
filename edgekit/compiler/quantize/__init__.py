"""INT8 quantization: the placement of Q/DQ, the ranges of activations, and the rounding of weights."""
