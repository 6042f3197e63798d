"""What a model source is: it recognises one kind of model name, and loads or plans the networks behind such names."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn

from edgekit.models.options import ModelOptions


@dataclass(frozen=True)
class LoadedModule:
    """A module float32 [N,3,H,W] -> logits [N,classes] on the CPU with its weights, and where those are from.

    The fields have the meaning of those of `Network`.
    """

    module: nn.Module
    weights: str
    weights_sha256: str
    license_note: str | None


class ModelSource(Protocol):
    """Where networks come from. `edgekit.models.lookup` lists the sources; each is one file."""

    name: ClassVar[str]
    """The source's name in reports and manifests."""

    def recognizes(self, name: str) -> bool:
        """Whether this source is the one for a model of this name; it need not exist."""
        ...

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        """The input's (height, width) in pixels as asked for; None for the model's own. UsageError if not valid."""
        ...

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build the network with the weights asked for; torch's random numbers are seeded already.

        Raises ModelError, WeightsError, HubError, UsageError or MissingExtraError, each saying what to do.
        """
        ...

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the network with whatever weights its constructor gives, on torch's default device (the meta device).

        Fetches nothing and reads no weights. Raises ModelError or UsageError for a name or arguments that aren't valid.
        """
        ...
