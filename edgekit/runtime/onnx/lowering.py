"""Lowering for ONNX Runtime: nothing beyond a recipe's settings."""

from edgekit.compiler.quantize.runtime_lowering import RuntimeLowering

LOWERING = RuntimeLowering()
"""Lowerings of ONNX Runtime, for quantization: none."""
