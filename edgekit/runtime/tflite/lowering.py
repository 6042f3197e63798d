"""Lowerings for LiteRT, which a recipe may name."""

from edgekit.compiler.nodes import A
from edgekit.compiler.quantize.lowering import Lowering, RuntimeLowering

LOWERING = RuntimeLowering(
    named={
        "int8-gelu": Lowering(
            "GELU behind a layer goes from INT8 to INT8, by a table of 256 values.",
            activations={A.gelu.default},
            scheme="GELU from int8 to int8",
        ),
        "int8-hard-swish": Lowering(
            "HardSwish behind a layer goes from INT8 to INT8, by a table of 256 values.",
            activations={A.hardswish.default},
            scheme="HardSwish from int8 to int8",
        ),
        "int8-silu": Lowering(
            "SiLU behind a layer goes from INT8 to INT8, as the product of its input and an INT8 sigmoid.",
            activations={A.silu.default},
            scheme="SiLU from int8 to int8",
        ),
        "int8-mish": Lowering(
            "Mish behind a layer goes from INT8 to INT8, as the product of its input and an INT8 factor.",
            activations={A.mish.default},
            scheme="Mish from int8 to int8",
        ),
        "int8-gates": Lowering(
            "Products with a gate, as in squeeze-and-excitation, go from INT8 to INT8.",
            gates=True,
            scheme="gates from int8 to int8",
        ),
    }
)
"""Lowerings of LiteRT, for quantization."""
