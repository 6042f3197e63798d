"""Lowerings for LiteRT, which a recipe may name."""

from edgekit.compiler.graph import A
from edgekit.compiler.placement import INT8_GATES, RuntimeLowering, int8_activation

_TABLE = "by a table of 256 values"

LOWERING = RuntimeLowering(
    named={
        "int8-gelu": int8_activation("GELU", A.gelu.default, _TABLE),
        "int8-hard-swish": int8_activation("HardSwish", A.hardswish.default, _TABLE),
        "int8-silu": int8_activation("SiLU", A.silu.default, _TABLE),
        "int8-mish": int8_activation("Mish", A.mish.default, _TABLE),
        "int8-gates": INT8_GATES,
    }
)
"""Lowerings of LiteRT, for quantization."""
