"""A runtime's own part of quantization, beyond the settings that all runtimes share; see `runtime/NAME/lowering.py`."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule, Node

from edgekit.compiler.nodes import Operation
from edgekit.config.recipes import TargetRecipe
from edgekit.errors import ProfileError


@dataclass(frozen=True)
class Lowering:
    """A form of some operations that suits one runtime. A recipe enables it by name."""

    description: str
    """One sentence for the documentation."""
    symmetric_inputs: Callable[[GraphModule], Mapping[Node, tuple[Any, ...]]] = lambda graph: {}
    """Finds, before calibration, operations and those of their inputs that become INT8 with the zero point 0."""
    activations: Set[Any] = frozenset()
    """Operations behind a layer in INT8 whose output becomes INT8 too."""
    gates: bool = False
    """Whether the product of a value and a gate, as in squeeze-and-excitation, goes from INT8 to INT8."""
    scheme: str | None = None
    """Phrase for a bundle's scheme, for a lowering that changes the number format of more values."""
    session: Mapping[str, str] = field(default_factory=dict)
    """Session options with which the bundle's engine runs."""


@dataclass(frozen=True)
class RuntimeLowering:
    """The lowerings of one runtime."""

    named: Mapping[str, Lowering] = field(default_factory=dict)
    """Lowerings by the names in the runtime's row, in the order of application."""
    miscomputed_layers: Callable[[GraphModule], tuple[str, ...]] = lambda graph: ()
    """Names of the layers that the runtime's INT8 kernels would compute wrongly, and that stay in float."""

    def enabled(self, wants: TargetRecipe) -> Iterator[Lowering]:
        """The lowerings that a recipe's table names. Raises ProfileError for an unknown name."""
        if unknown := set(wants.lowerings) - self.named.keys():
            raise ProfileError(f"unknown lowering {', '.join(sorted(unknown))}", valid=", ".join(self.named) or "none")
        return (lowering for name, lowering in self.named.items() if name in wants.lowerings)


def int8_activation(title: str, operation: Operation, how: str) -> Lowering:
    """The lowering of an activation that a runtime computes from INT8 to INT8, `how` in words."""
    return Lowering(
        f"{title} behind a layer goes from INT8 to INT8, {how}.",
        activations={operation},
        scheme=f"{title} from int8 to int8",
    )


INT8_GATES = Lowering(
    "Products with a gate, as in squeeze-and-excitation, go from INT8 to INT8.",
    gates=True,
    scheme="gates from int8 to int8",
)
"""The lowering of products that a runtime computes from INT8 to INT8."""
