"""The fake runtime's quirk: it may have a GELU from INT8 to INT8."""

from edgekit.compiler.graph import A
from edgekit.compiler.placement import Lowering, RuntimeLowering

LOWERING = RuntimeLowering(
    named={
        "table": Lowering("GELU goes through a table.", activations={A.gelu.default}, scheme="GELU by table"),
    }
)
