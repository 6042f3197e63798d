"""Lowerings for ONNX Runtime, which a recipe may name."""

from edgekit.compiler.graph import A
from edgekit.compiler.placement import INT8_GATES, RuntimeLowering, int8_activation

LOWERING = RuntimeLowering(
    named={
        "int8-hard-swish": int8_activation(
            "HardSwish", A.hardswish.default, "as the product of its input and this input clipped"
        ),
        "int8-silu": int8_activation("SiLU", A.silu.default, "as the product of its input and an INT8 sigmoid"),
        "int8-gates": INT8_GATES,
    }
)
"""Lowerings of ONNX Runtime, for quantization."""
