"""What ONNX Runtime needs of a graph: nothing beyond a recipe's settings."""

from edgekit.compiler.quantize.runtime_lowering import RuntimeLowering

LOWERING = RuntimeLowering()
"""What quantizing for ONNX Runtime needs to know."""
