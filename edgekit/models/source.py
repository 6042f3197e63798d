"""The protocol of model sources: each recognizes one kind of model name and loads or plans the networks so named."""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.models.inputs import size_of_model
from edgekit.models.labels import StoredNames
from edgekit.models.options import ModelOptions, Note


class Reference(Protocol):
    """Another implementation of an imported network, with which its module is compared on real images."""

    def difference(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
        """Largest difference between the module's logits [N,classes] and its own, as a fraction of its largest."""
        ...


@dataclass(frozen=True)
class LoadedModule:
    """A module float32 [N,C,H,W] -> outputs [N,K] on the CPU with its weights, and the origin of the weights.

    The fields have the same meaning as those of `Network`.
    """

    module: nn.Module
    weights: str
    weights_sha256: str
    license_note: str | None
    reference: "Reference | None" = None
    class_names: tuple[StoredNames, ...] = ()
    """Lists of class names that the file of the network or of its weights contains."""
    notes: tuple[Note, ...] = ()
    """What the source inferred from the files."""
    has_classifier: bool = True
    """Whether the network may end with a classifier: False for one that is known to return features."""

    def with_notes(self, *notes: Note) -> "LoadedModule":
        """The same module with further notes."""
        return replace(self, notes=(*self.notes, *notes))


class ModelSource(Protocol):
    """A source of networks. `edgekit.models.loading` lists the sources; each has its own file."""

    name: ClassVar[str]
    """The source's name in reports and manifests."""

    def recognizes(self, options: ModelOptions) -> bool:
        """Whether this source is responsible for the named model, which need not exist."""
        ...

    def input_size(self, options: ModelOptions) -> tuple[int, int] | None:
        """The requested (height, width) in pixels, or None for the model's own. UsageError if it is invalid."""
        return size_of_model(options)

    def load(self, options: ModelOptions, seed: int) -> LoadedModule:
        """Build the network with the requested weights; the caller has seeded torch.

        Raises ModelError, WeightsError, HubError, UsageError or MissingExtraError.
        """
        ...

    def build_meta(self, options: ModelOptions) -> nn.Module:
        """Build the network as its constructor initializes it, on torch's default device (the meta device).

        Downloads nothing and reads no weights. Raises ModelError or UsageError for an invalid name or arguments.
        """
        ...
