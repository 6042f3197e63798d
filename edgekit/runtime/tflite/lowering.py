"""Lowerings for LiteRT, which a recipe may name."""

from edgekit.compiler.graph import A
from edgekit.compiler.placement import INT8_GATES, Lowering, RuntimeLowering, int8_activation

_TABLE = "by a table of 256 values"

LOWERING = RuntimeLowering(
    named={
        "int8-gelu": int8_activation("GELU", A.gelu.default, _TABLE),
        "int8-hard-swish": int8_activation("HardSwish", A.hardswish.default, _TABLE),
        "int8-silu": int8_activation("SiLU", A.silu.default, _TABLE),
        "int8-mish": int8_activation("Mish", A.mish.default, _TABLE),
        "int8-gates": INT8_GATES,
        "dynamic": Lowering(
            "Inputs of dynamic layers become INT8 at run time, with one range for a row.",
            least_inputs=1,
            scheme="inputs of dynamic layers with ranges at run time",
        ),
    },
)
"""Lowerings of LiteRT, for quantization."""
